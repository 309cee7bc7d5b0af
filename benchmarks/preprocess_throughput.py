"""Times `pipeline.preprocess` beside the decoding floor and its peers, whole processes, in turn.

    python -m benchmarks.preprocess_throughput --source=path/to/cell_images.zip --output=preprocess.json

The source's cells are laid into a folder, repeated under new names until there are `--num_cells`, so that all cases
read the same files from a warm cache. Each repeat runs every case once; the table holds medians.
"""

import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from absl import flags

from benchmarks.baselines.preprocess import PEERS
from benchmarks.harness import measurement
from benchmarks.harness.measurement import Measurement, measure
from benchmarks.repeated_cells import lay_out
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.progress import progress_bar

_OURS = "pipeline.preprocess"
_SAID = re.compile(r"listed in ([\d.]+) s, planned in ([\d.]+) s.*?filled [\d,]+ cells in ([\d.]+) s", flags=re.DOTALL)


def run_ours(source: Path, output_dir: Path) -> tuple[Measurement, float]:
    """One run of `pipeline.preprocess`: whole, and the seconds without start-up."""
    version_dir = output_dir / "tfds_malaria" / "by_patient"

    def bytes_while_filling(process: psutil.Process) -> int:
        is_filling = any((version_dir / "1.0.0.incomplete").glob("*/*.done.json"))
        return process.memory_info().rss if is_filling else 0

    flags_given = [f"--source={source}", f"--data_dir={output_dir}"]
    result = measure([sys.executable, "-m", _OURS, *flags_given], bytes_while_filling)
    said = _SAID.search(result.output)
    if said is None:
        raise InputError(f"{_OURS} says no times; expected those of listing, planning and filling: {result.output!r}")
    return result, sum(map(float, said.groups()))


def run_peer(peer: str, source: Path, output_dir: Path) -> tuple[Measurement, float]:
    """One run of a peer: whole, and the seconds without start-up."""
    command = [sys.executable, "-m", "benchmarks.baselines.preprocess", f"--peer={peer}", f"--source={source}"]
    result = measure([*command, f"--output_dir={output_dir}"])
    return result, float(result.output.split()[-1])


def compare(
    folders: dict[int, Path], main_size: int, repeats: int, work_dir: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Runs all cases in turn.

    Args:
      folders: number of cells -> folder of them.
      main_size: which of these all cases read; `pipeline.preprocess` reads all.
      repeats: runs of each case.
      work_dir: for what they write.

    Returns:
      cases and ratios, see `measurement.write`.
    """
    Runner = Callable[[Path, Path], tuple[Measurement, float]]
    plan: list[tuple[str, Runner, int]] = [(peer, partial(run_peer, peer), main_size) for peer in PEERS]
    plan += [(f"{_OURS} ({size:,} cells)", run_ours, size) for size in folders]
    found: dict[str, list[tuple[Measurement, float]]] = {name: [] for name, _, _ in plan}
    with progress_bar(repeats * len(plan), "measuring", "runs") as bar:
        for _ in range(repeats):
            for name, run_case, size in plan:
                output_dir = work_dir / "out"
                found[name].append(run_case(folders[size], output_dir))
                shutil.rmtree(output_dir)
                bar.update()
    cases = []
    for name, _, size in plan:
        runs = [result for result, _ in found[name]]
        inner = [seconds for _, seconds in found[name]]
        cases.append(
            measurement.case(
                name,
                size,
                runs,
                images_per_second_without_start_up=measurement.rates_entry([size / seconds for seconds in inner]),
                peak_rss_bytes_while_filling=int(statistics.median(run.sampled_bytes for run in runs)),
            )
        )
    return cases, _ratios({row["name"]: row for row in cases}, f"{_OURS} ({main_size:,} cells)")


def _ratios(cases: dict[str, dict[str, Any]], ours: str) -> dict[str, float]:
    def rate(name: str, key: str = "images_per_second") -> float:
        return cases[name][key]["median"]

    inner = "images_per_second_without_start_up"
    ratios = {f"whole process, ours to {peer}": rate(ours) / rate(peer) for peer in PEERS}
    ratios["without start-up, ours to floor"] = rate(ours, inner) / rate("floor", inner)
    rates = [rate(name, inner) for name in cases if name.startswith(_OURS)]
    ratios |= _growth([row for name, row in cases.items() if name.startswith(_OURS)])
    memories = [cases[name]["peak_rss_bytes_while_filling"] for name in cases if name.startswith(_OURS)]
    ratios["without start-up, slowest size to fastest"] = min(rates) / max(rates)
    if all(memories):  # a few cells are filled between two samples
        ratios["memory while filling, largest size to smallest"] = memories[-1] / memories[0]
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


def _growth(cases: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How alike the cells cost that each size has more than the last: what a process costs however small cancels."""
    steps = [
        (after["num_images"] - before["num_images"]) / (after["seconds"] - before["seconds"])
        for before, after in pairwise(cases)
        if after["seconds"] > before["seconds"]
    ]
    return {"cells added from size to size, slowest to fastest": min(steps) / max(steps)} if len(steps) > 1 else {}


def main(arguments: Sequence[str]) -> None:
    """Lays out the cells, measures, writes the file, prints the table."""
    reject_arguments(arguments)
    values = flags.FLAGS
    try:
        wanted = sorted({int(size) for size in values.sizes})
        if not wanted or wanted[0] < 1:
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"--sizes={','.join(values.sizes)} is no list of numbers of cells, such as 9000,27000"
        ) from error
    if values.work_dir and not Path(values.work_dir).is_dir():
        raise InputError(f"--work_dir={values.work_dir} is no folder; make it first")
    with tempfile.TemporaryDirectory(dir=values.work_dir) as work:
        folders = {}
        for size in wanted:
            folder = Path(work) / f"cells{size}"
            folders[lay_out(values.source, folder, size)] = folder
        main_size = min(folders, key=lambda size: abs(size - values.num_cells))
        cases, ratios = compare(folders, main_size, values.repeats, Path(work))
    measurement.write(Path(values.output), cases, ratios)
    print(f"{measurement.table(cases, ratios)}\n{values.output}")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "Folder or zip of the NLM's cells.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_integer("num_cells", 27_000, "Cells that all cases read, nearly.", lower_bound=1)
    flags.DEFINE_list("sizes", ["9000", "27000", "110000"], "Numbers of cells that pipeline.preprocess reads.")
    flags.DEFINE_integer("repeats", 3, "Runs of each case.", lower_bound=1)
    flags.DEFINE_string("work_dir", None, "Where to lay out cells and write: 9 GB for the default sizes.")
    run(main)
