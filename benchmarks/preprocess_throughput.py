"""Times `pipeline.preprocess` and its baselines: two plain processes, plain Beam in one process and two, and TFDS.

    python -m benchmarks.preprocess_throughput --source=path/to/cell_images.zip --output=preprocess.json

All are complete processes, run in turn. The source's cells are laid out in a folder, repeated under new names until
there are `--num_cells`, so that all cases read the same files from a warm cache. The table holds medians.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from absl import flags

from benchmarks.baselines.preprocess import BASELINES
from benchmarks.harness import measurement
from benchmarks.repeated_cells import lay_out
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.terminal import progress_bar

_OURS = "pipeline.preprocess"
_INNER = "images_per_second_without_start_up"
_TIMES = re.compile(r"listed in ([\d.]+) s, planned in ([\d.]+) s.*?filled [\d,]+ cells in ([\d.]+) s", re.DOTALL)


def run_case(name: str, source: Path, output_dir: Path) -> tuple[measurement.Measurement, float]:
    """Runs a baseline or `pipeline.preprocess`; returns also the seconds without start-up."""
    python = [sys.executable, "-m"]
    if name in BASELINES:
        command = [*python, "benchmarks.baselines.preprocess", name, str(source), str(output_dir)]
        measured = measurement.measure(name, command)
        return measured, float(measured.output.split()[-1])
    measured = measurement.measure(_OURS, [*python, _OURS, f"--source={source}", f"--data_dir={output_dir}"])
    times = _TIMES.search(measured.output)
    if times is None:
        raise InputError(f"{_OURS} prints {measured.output!r}; expected the times of listing, planning and filling")
    return measured, sum(map(float, times.groups()))


def main() -> None:
    """Lays out the cells, measures, writes the file, prints the table."""
    values = flags.FLAGS
    runs: dict[str, list[tuple[measurement.Measurement, float]]] = {name: [] for name in (*BASELINES, _OURS)}
    with tempfile.TemporaryDirectory() as work_dir:
        source, output_dir = Path(work_dir) / "cells", Path(work_dir) / "out"
        num_cells = lay_out(values.source, source, values.num_cells)
        with progress_bar(values.repeats * len(runs), "measuring", "runs") as bar:
            for _ in range(values.repeats):
                for name in runs:
                    runs[name].append(run_case(name, source, output_dir))
                    shutil.rmtree(output_dir)
                    bar.update()
    cases = {}
    for name, of_case in runs.items():
        inner = measurement.rates_entry([num_cells / seconds for _, seconds in of_case])
        cases[name] = measurement.case(name, num_cells, [run for run, _ in of_case], **{_INNER: inner})
    ours, plain = cases[_OURS], cases["plain_processes"]
    ratios = {f"complete process, ours to {name}": measurement.ratio(ours, cases[name]) for name in BASELINES}
    ratios["without start-up, ours to plain_processes"] = measurement.ratio(ours, plain, _INNER)
    measurement.report(values.output, cases.values(), ratios)


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "Folder or zip of the NLM's cells.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_integer("num_cells", 27_000, "About how many cells to read.", lower_bound=1)
    flags.DEFINE_integer("repeats", 3, "Runs of each case.", lower_bound=1)
    run(main)
