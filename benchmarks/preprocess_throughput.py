"""Times `pipeline.preprocess`, plain processes that only decode, resize and write, plain Beam, and a TFDS builder.

    python -m benchmarks.preprocess_throughput --source=path/to/cell_images.zip --output=preprocess.json

All are complete processes, run in turn. The source's cells are laid out in a folder, repeated under new names until
there are `--num_cells`, so that all cases read the same files from a warm cache. The table holds medians.
"""

import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from absl import flags

from benchmarks.baselines.preprocess import BASELINES
from benchmarks.harness import measurement
from benchmarks.harness.measurement import Measurement, measure
from benchmarks.repeated_cells import lay_out
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.progress import progress_bar

_OURS = "pipeline.preprocess"
_TIMES = re.compile(r"listed in ([\d.]+) s, planned in ([\d.]+) s.*?filled [\d,]+ cells in ([\d.]+) s", re.DOTALL)


def run_ours(source: Path, output_dir: Path) -> tuple[Measurement, float]:
    """Runs `pipeline.preprocess`; returns also the seconds without start-up."""
    version_dir = output_dir / "tfds_malaria" / "by_patient"

    def bytes_while_filling(process: psutil.Process) -> int:
        is_filling = any((version_dir / "1.0.0.incomplete").glob("*/*.done.json"))
        return process.memory_info().rss if is_filling else 0

    command = [sys.executable, "-m", _OURS, f"--source={source}", f"--data_dir={output_dir}"]
    result = measure(_OURS, command, bytes_while_filling)
    times = _TIMES.search(result.output)
    if times is None:
        raise InputError(f"{_OURS} prints no times; expected those of listing, planning and filling: {result.output!r}")
    return result, sum(map(float, times.groups()))


def run_baseline(baseline: str, source: Path, output_dir: Path) -> tuple[Measurement, float]:
    """Runs a baseline; returns also the seconds without start-up."""
    command = [sys.executable, "-m", "benchmarks.baselines.preprocess", f"--baseline={baseline}"]
    result = measure(baseline, [*command, f"--source={source}", f"--output_dir={output_dir}"])
    return result, float(result.output.split()[-1])


def compare(
    folders: dict[int, Path], main_size: int, repeats: int, work_dir: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Runs all cases in turn: `pipeline.preprocess` on all folders (by number of cells), the baselines on the main one.

    Returns:
      cases and ratios, see `measurement.write`.
    """
    sizes = dict.fromkeys(BASELINES, main_size) | {f"{_OURS} ({size:,} cells)": size for size in folders}
    runs: dict[str, list[tuple[Measurement, float]]] = {name: [] for name in sizes}
    output_dir = work_dir / "out"
    with progress_bar(repeats * len(sizes), "measuring", "runs") as bar:
        for _ in range(repeats):
            for name, size in sizes.items():
                run_case = partial(run_baseline, name) if name in BASELINES else run_ours
                runs[name].append(run_case(folders[size], output_dir))
                shutil.rmtree(output_dir)
                bar.update()
    cases = [
        measurement.case(
            name,
            size,
            [result for result, _ in runs[name]],
            images_per_second_without_start_up=measurement.rates_entry([size / seconds for _, seconds in runs[name]]),
            peak_rss_bytes_while_filling=int(statistics.median(result.sampled_bytes for result, _ in runs[name])),
        )
        for name, size in sizes.items()
    ]
    return cases, _ratios({row["name"]: row for row in cases}, f"{_OURS} ({main_size:,} cells)")


def _ratios(cases: dict[str, dict[str, Any]], ours: str) -> dict[str, float]:
    def rate(name: str, key: str = "images_per_second") -> float:
        return cases[name][key]["median"]

    inner = "images_per_second_without_start_up"
    ratios = {f"whole process, ours to {baseline}": rate(ours) / rate(baseline) for baseline in BASELINES}
    ratios["without start-up, ours to plain_processes"] = rate(ours, inner) / rate("plain_processes", inner)
    rates = [rate(name, inner) for name in cases if name not in BASELINES]
    ratios["without start-up, slowest size to fastest"] = min(rates) / max(rates)
    memories = [cases[name]["peak_rss_bytes_while_filling"] for name in cases if name not in BASELINES]
    if all(memories):  # a few cells are filled between two samples
        ratios["memory while filling, largest size to smallest"] = memories[-1] / memories[0]
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


def main(arguments: Sequence[str]) -> None:
    """Lays out the cells, measures, writes the file, prints the table."""
    reject_arguments(arguments)
    values = flags.FLAGS
    sizes = measurement.positive_numbers("sizes", values.sizes)
    measurement.check_work_dir(values.work_dir)
    with tempfile.TemporaryDirectory(dir=values.work_dir) as work_dir:
        folders = {}
        for size in sizes:
            folder = Path(work_dir) / f"cells{size}"
            folders[lay_out(values.source, folder, size)] = folder
        main_size = min(folders, key=lambda size: abs(size - values.num_cells))
        cases, ratios = compare(folders, main_size, values.repeats, Path(work_dir))
    measurement.write(Path(values.output), cases, ratios)
    print(f"{measurement.table(cases, ratios)}\n{values.output}")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "Folder or zip of the NLM's cells.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_integer("num_cells", 27_000, "About how many cells the baselines read.", lower_bound=1)
    flags.DEFINE_list("sizes", ["9000", "27000", "110000"], "Numbers of cells that pipeline.preprocess reads.")
    flags.DEFINE_integer("repeats", 3, "Runs of each case.", lower_bound=1)
    flags.DEFINE_string("work_dir", None, "Folder for a temporary folder: 9 GB for the default sizes.")
    run(main)
