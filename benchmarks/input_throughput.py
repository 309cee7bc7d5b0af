"""Times the three input modes and the loaders that people use, each run in a process of its own, in turn.

    python -m benchmarks.input_throughput --data_dir=data --output=input.json --peers=all

See benchmarks/README.md for how to prepare the data set and for what is in each number.
"""

import dataclasses
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.baselines.input_readers import READERS
from benchmarks.harness import measurement
from benchmarks.harness.clock import Content, Work, content_of, total_of
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.records.manifest import Manifest
from pipeline.terminal import progress_bar
from trainers import tf_import
from trainers.data import DataSet, open_data_set

MODES = ("resident", "mapped", "streaming")
LIBRARIES = ("ffcv", "dali", "torch", "grain", "webdataset")  # in an environment of their own (`make peers`)

_LIBRARIES_PYTHON = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"
_CELLS_AT_A_TIME = 1024
_COMPARED = (
    ("resident", "ffcv"),
    ("resident", "dali"),
    ("resident", "grain"),
    ("resident", "webdataset"),
    ("mapped", "dali"),
    ("streaming", "tf_data"),
)


class Case:
    """One reader at one batch size on some cells, and its runs so far, each started by the launcher."""

    def __init__(self, work: Work, launcher: Sequence[str] = ()) -> None:
        self.work, self._launcher = work, launcher
        self.name = f"{work.reader}, batch {work.batch_size}, {work.expected.num_cells:,} cells"
        self.results: list[dict[str, Any]] = []
        self.error: str | None = None

    def run(self) -> None:
        """Runs it once more, unless it has failed."""
        if self.error is None:
            try:
                self.results.append(run_once(self.work, self._launcher))
            except InputError as error:
                self.error = str(error)

    def row(self) -> dict[str, Any]:
        """The case's entry in the file, see `measurement.report`."""
        num_cells, epochs, results = self.work.expected.num_cells, self.work.epochs, self.results

        def median(name: str) -> float | None:
            return round(statistics.median(result[name] for result in results), 4) if results else None

        seconds = [sum(result["epoch_seconds"][1:]) + result["closing_seconds"] for result in results]
        return {
            "name": self.name,
            "reader": self.work.reader,
            "batch_size": self.work.batch_size,
            "num_images": num_cells,
            "epochs": epochs,
            "images_per_second": measurement.rates_entry([num_cells * (epochs - 1) / steady for steady in seconds]),
            "first_epoch": measurement.rates_entry([num_cells / result["epoch_seconds"][0] for result in results]),
            "cpu_seconds": median("cpu_seconds"),
            "peak_rss_bytes": median("peak_rss_bytes"),
            "closing_seconds": median("closing_seconds"),
            "epoch_seconds": [result["epoch_seconds"] for result in results],
            **({"error": self.error} if self.error else {}),
        }


def run_once(work: Work, launcher: Sequence[str] = ()) -> dict[str, Any]:
    """Runs a reader once; returns what `clock.run` prints, and the most memory that its processes held."""
    python, module = sys.executable, "benchmarks.baselines.input_readers"
    if work.reader in LIBRARIES:
        if not _LIBRARIES_PYTHON.exists():
            raise InputError("its environment is missing: make peers")
        python, module = str(_LIBRARIES_PYTHON), "benchmarks.baselines.input_libraries"
    command = [*launcher, python, "-m", module, json.dumps(dataclasses.asdict(work))]
    measured = measurement.measure(f"{work.reader}, batch {work.batch_size},", command, with_descendants=True)
    return {**json.loads(measured.output.splitlines()[-1]), "peak_rss_bytes": measured.peak_rss_bytes}


def leading_shards(contents: Manifest, num_cells: int) -> tuple[str, int, list[str]]:
    """The fewest leading shards, in order, that hold at least a number of cells, or all: expression, cells, files."""
    parts, files, total = [], [], 0
    for name, split in contents["splits"].items():
        taken = 0
        for shard in split["shards"]:
            if total >= num_cells:
                break
            taken, total = taken + 1, total + shard["num_records"]
            files.append(shard["file"])
        if taken:
            parts.append(name if taken == len(split["shards"]) else f"{name}[:{taken}shard]")
    return "+".join(parts), total, files


def lay_out(data_set: DataSet, num_cells: int, folder: Path, with_arrays: bool) -> Work:
    """The work on the leading cells of a data set, at least that many, without a reader; can write them as arrays."""
    tf_import.import_tensorflow()

    from trainers.input_pipeline import batching

    expression, total, files = leading_shards(data_set.manifest, num_cells)
    split = data_set.open_split(expression)
    if with_arrays:
        shape = (total, split.image_size_px, split.image_size_px, 3)
        stored = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    contents: list[Content] = []
    labels: list[np.ndarray] = []
    for images, batch_labels, *_ in batching.evaluation_batches(split, _CELLS_AT_A_TIME).as_numpy_iterator():
        if with_arrays:
            stored[_CELLS_AT_A_TIME * len(labels) :][: len(images)] = images
        contents.append(content_of((images, batch_labels), with_crcs=True))
        labels.append(batch_labels)
    if with_arrays:
        np.save(folder / "labels.npy", np.concatenate(labels))
    shards = [str(data_set.directory / file) for file in files]
    data_dir = str(data_set.directory.parents[2])
    return Work("", str(folder), data_dir, data_set.config, expression, shards, total_of(contents))


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Ratios at the smallest batch size, as far as measured: of readers on the first row's cells, and of sizes."""
    batch_size = min(row["batch_size"] for row in rows)
    smallest = [row for row in rows if row["batch_size"] == batch_size and row["images_per_second"]["median"]]
    by_reader = {row["reader"]: row for row in smallest if row["num_images"] == rows[0]["num_images"]}
    measured = {
        f"{ours} to {theirs}, {name}": by_reader[ours][key]["median"] / by_reader[theirs][key]["median"]
        for ours, theirs in _COMPARED
        if {ours, theirs} <= by_reader.keys()
        for name, key in (("steady", "images_per_second"), ("first epoch", "first_epoch"))
    }
    for mode in MODES:
        rates = [row["images_per_second"]["median"] for row in smallest if row["reader"] == mode]
        if len(rates) > 1:
            measured[f"{mode}, slowest number of cells to fastest"] = min(rates) / max(rates)
    return {name: round(ratio, 3) for name, ratio in measured.items()}


def prepare(
    data_set: DataSet, sizes: Sequence[int], batch_sizes: Sequence[int], readers: Sequence[str], work_dir: Path
) -> list[Case]:
    """Lays out the cells and lets every reader write its format and show that it reads every byte.

    Returns all readers at all batch sizes on the same cells, then the three modes on other numbers of cells: fewer
    cells for more epochs, so that as many images are timed.
    """
    values = flags.FLAGS
    totals = {leading_shards(data_set.manifest, size)[1] for size in sizes}
    main_size = leading_shards(data_set.manifest, values.num_cells)[1]
    main = dataclasses.replace(lay_out(data_set, main_size, work_dir, with_arrays=True), epochs=values.epochs)
    works = [
        dataclasses.replace(main, reader=reader, batch_size=batch_size)
        for reader in readers
        for batch_size in batch_sizes
    ]
    for total in sorted(totals - {main_size}):
        epochs = 1 + math.ceil((main.epochs - 1) * max(1, main_size / total))
        work = dataclasses.replace(lay_out(data_set, total, work_dir, with_arrays=False), epochs=epochs)
        works += [
            dataclasses.replace(work, reader=mode, batch_size=min(batch_sizes)) for mode in MODES if mode in readers
        ]
    cases = [Case(work, values.launcher.split()) for work in works]
    with progress_bar(len(readers), "checking", "readers") as bar:
        for reader in readers:
            first, *others = [case for case in cases if case.work.reader == reader]
            check = Case(dataclasses.replace(first.work, is_check=True, epochs=1), values.launcher.split())
            check.run()
            for case in (first, *others):
                case.error = check.error
            bar.update()
    return cases


def main() -> None:
    """Lays out the cells, checks every reader, measures, writes the file, prints the table."""
    values = flags.FLAGS
    readers = [*(values.readers or READERS), *(LIBRARIES if values.peers == ["all"] else values.peers)]
    if unknown := [name for name in readers if name not in (*READERS, *LIBRARIES)]:
        raise InputError(f"--readers or --peers has {unknown[0]}; expected some of {', '.join((*READERS, *LIBRARIES))}")
    sizes = measurement.positive_numbers("sizes", values.sizes)
    batch_sizes = measurement.positive_numbers("batch_sizes", values.batch_sizes)
    measurement.check_work_dir(values.work_dir)
    data_set = open_data_set(values.data_dir, values.config)
    with tempfile.TemporaryDirectory(dir=values.work_dir) as work_dir:
        cases = prepare(data_set, sizes, batch_sizes, readers, Path(work_dir))
        with progress_bar(values.repeats * len(cases), "measuring", "runs") as bar:
            for _ in range(values.repeats):
                for case in cases:
                    bar.set_postfix_str(case.name)
                    case.run()
                    bar.update()
    rows = [case.row() for case in cases]
    measurement.report(values.output, rows, ratios(rows))


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_string("config", "by_patient", "Config of the data set.")
    flags.DEFINE_list("readers", [], "Input modes and baselines of this environment; all by default.")
    flags.DEFINE_list("peers", [], f"Baselines of .venv-peers (make peers): all, or some of {', '.join(LIBRARIES)}.")
    flags.DEFINE_integer("num_cells", 27_000, "Cells that all readers read, in complete shards.", lower_bound=1)
    flags.DEFINE_list("sizes", ["9000", "27000", "110000"], "Numbers of cells that the three modes read.")
    flags.DEFINE_list("batch_sizes", ["64", "256"], "Cells per batch.")
    flags.DEFINE_integer("epochs", 6, "Epochs per run; the first one is shown by itself.", lower_bound=2)
    flags.DEFINE_integer("repeats", 3, "Runs of each case.", lower_bound=1)
    flags.DEFINE_string("launcher", "", "Command that starts each run, such as 'taskset --cpu-list 0-3'.")
    flags.DEFINE_string("work_dir", None, "Folder for a temporary folder with the cells in all formats.")
    run(main)
