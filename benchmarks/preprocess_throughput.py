"""Times `pipeline.preprocess` and its baselines: two plain processes, plain Beam in one process and two, and TFDS.

    python -m benchmarks.preprocess_throughput --source=path/to/cell_images.zip --output=preprocess.json

All are complete processes, run in turn. The source's cells are laid out in a folder, repeated under new names until
there are `--num_cells`, so that all cases read the same files from a warm cache. The table holds medians.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.baselines.preprocess import BASELINES
from benchmarks.harness import measurement
from benchmarks.repeated_cells import lay_out
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.terminal import progress_bar

_OURS = "pipeline.preprocess"
_TIMES = re.compile(r"listed in ([\d.]+) s, planned in ([\d.]+) s.*?filled [\d,]+ cells in ([\d.]+) s", re.DOTALL)


def run_case(name: str, source: Path, output_dir: Path) -> tuple[measurement.Measurement, float]:
    """Runs a baseline or `pipeline.preprocess`; returns also the seconds without start-up."""
    python = [sys.executable, "-m"]
    if name in BASELINES:
        arguments = [f"--baseline={name}", f"--source={source}", f"--output_dir={output_dir}"]
        measured = measurement.measure(name, [*python, "benchmarks.baselines.preprocess", *arguments])
        return measured, float(measured.output.split()[-1])
    measured = measurement.measure(_OURS, [*python, _OURS, f"--source={source}", f"--data_dir={output_dir}"])
    times = _TIMES.search(measured.output)
    if times is None:
        raise InputError(f"{_OURS} prints {measured.output!r}; expected the times of listing, planning and filling")
    return measured, sum(map(float, times.groups()))


def ratios(cases: Mapping[str, Mapping[str, Any]], ours: str) -> dict[str, float]:
    """Ratios of the rates of cases by name; `ours` has read the same cells as the baselines."""

    def rate(name: str, key: str = "images_per_second") -> float:
        return cases[name][key]["median"]

    inner = "images_per_second_without_start_up"
    compared = {f"complete process, ours to {baseline}": rate(ours) / rate(baseline) for baseline in BASELINES}
    compared["without start-up, ours to plain_processes"] = rate(ours, inner) / rate("plain_processes", inner)
    rates = [rate(name, inner) for name in cases if name not in BASELINES]
    compared["without start-up, slowest size to fastest"] = min(rates) / max(rates)
    return {name: round(ratio, 3) for name, ratio in compared.items()}


def main() -> None:
    """Lays out the cells, measures, writes the file, prints the table."""
    values = flags.FLAGS
    sizes = measurement.positive_numbers("sizes", values.sizes)
    measurement.check_work_dir(values.work_dir)
    with tempfile.TemporaryDirectory(dir=values.work_dir) as work_dir:
        paths = {size: Path(work_dir) / f"cells{size}" for size in sizes}
        folders = {lay_out(values.source, path, size): path for size, path in paths.items()}
        main_size = min(folders, key=lambda size: abs(size - values.num_cells))
        num_cells = dict.fromkeys(BASELINES, main_size) | {f"{_OURS} ({size:,} cells)": size for size in folders}
        runs: dict[str, list[tuple[measurement.Measurement, float]]] = {name: [] for name in num_cells}
        with progress_bar(values.repeats * len(runs), "measuring", "runs") as bar:
            for _ in range(values.repeats):
                for name, size in num_cells.items():
                    runs[name].append(run_case(name, folders[size], Path(work_dir) / "out"))
                    shutil.rmtree(Path(work_dir) / "out")
                    bar.update()
    cases = {}
    for name, size in num_cells.items():
        inner = measurement.rates_entry([size / seconds for _, seconds in runs[name]])
        measured = [run for run, _ in runs[name]]
        cases[name] = measurement.case(name, size, measured, images_per_second_without_start_up=inner)
    measurement.report(values.output, list(cases.values()), ratios(cases, f"{_OURS} ({main_size:,} cells)"))


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "Folder or zip of the NLM's cells.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_integer("num_cells", 27_000, "About how many cells the baselines read.", lower_bound=1)
    flags.DEFINE_list("sizes", ["9000", "27000", "110000"], "Numbers of cells that pipeline.preprocess reads.")
    flags.DEFINE_integer("repeats", 3, "Runs of each case.", lower_bound=1)
    flags.DEFINE_string("work_dir", None, "Folder for a temporary folder: 9 GB for the default sizes.")
    run(main)
