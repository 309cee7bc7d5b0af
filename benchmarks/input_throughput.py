"""Times the three input modes and the loaders that people use, each run in a process of its own, in turn.

    python -m benchmarks.input_throughput --data_dir=data --output=input.json --peers=all

See benchmarks/README.md for how to prepare the data set and for what is in each number.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.baselines.input_readers import READERS
from benchmarks.harness import measurement
from benchmarks.harness.clock import Content, Work
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.terminal import progress_bar
from trainers import tf_import
from trainers.data import Split, open_data_set

LIBRARIES = ("ffcv", "dali", "torch", "grain", "webdataset")  # in an environment of their own (`make peers`)
_LIBRARIES_PYTHON = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"
_COMPARED = {
    "resident": ("ffcv", "dali", "grain", "webdataset"),
    "mapped": ("dali", "torch"),
    "streaming": ("tf_data",),
}


@dataclasses.dataclass
class Case:
    """One reader at one batch size, its runs so far, and why it cannot run."""

    work: Work
    results: list[tuple[measurement.Measurement, list[float]]] = dataclasses.field(default_factory=list)
    error: str | None = None

    def run(self) -> None:
        """Runs it once more, unless it has failed; before its first run it shows that it reads every byte."""
        if self.error is None:
            try:
                if not self.results:
                    run_once(dataclasses.replace(self.work, is_check=True, epochs=1))
                self.results.append(run_once(self.work))
            except InputError as error:
                self.error = str(error)

    def row(self) -> dict[str, Any]:
        """The case's entry in the file, see `measurement.report`."""
        work, num_cells = self.work, self.work.expected.num_cells
        name = f"{work.reader}, batch {work.batch_size}, {num_cells:,} cells"
        if self.error:
            nothing: dict[str, Any] = dict.fromkeys(("cpu_seconds", "peak_rss_bytes"))
            nothing |= {key: measurement.rates_entry([]) for key in ("images_per_second", "first_epoch")}
            return {"name": name, "reader": work.reader, "batch_size": work.batch_size, "error": self.error, **nothing}
        runs, epochs = zip(*self.results, strict=True)
        more = {
            "reader": work.reader,
            "batch_size": work.batch_size,
            "first_epoch": measurement.rates_entry([num_cells / seconds[0] for seconds in epochs]),
            "epoch_seconds": epochs,
        }
        return measurement.case(name, num_cells, runs, **more)


def run_once(work: Work) -> tuple[measurement.Measurement, list[float]]:
    """Runs a reader once; returns seconds per later epoch with CPU and memory of all, and the seconds of each epoch."""
    python, module = sys.executable, "input_readers"
    if work.reader in LIBRARIES:
        python, module = str(_LIBRARIES_PYTHON), "input_libraries"
        if not _LIBRARIES_PYTHON.exists():
            raise InputError("its environment is missing: make peers")
    command = [python, "-m", f"benchmarks.baselines.{module}", json.dumps(dataclasses.asdict(work))]
    measured = measurement.measure(work.reader, command)
    result = json.loads(measured.output.splitlines()[-1])
    epochs = result["epoch_seconds"]
    steady = (sum(epochs[1:]) + result["closing_seconds"]) / max(1, len(epochs) - 1)
    return measurement.Measurement(steady, result["cpu_seconds"], measured.peak_rss_bytes), epochs


def lay_out(split: Split, data_dir: str, folder: Path) -> Work:
    """Writes the cells of a split as arrays into a folder; returns the work on them, without a reader."""
    tf_import.import_tensorflow()

    from trainers.input_pipeline import resident

    cells = resident.load(split)
    np.save(folder / "images.npy", cells.images)
    np.save(folder / "labels.npy", cells.labels)
    content = Content().plus(cells, with_crcs=True)
    return Work("", str(folder), data_dir, split.data_set.config, split.expression, list(split.files), content)


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Ratios of readers at each batch size, as far as measured."""
    measured = {(row["reader"], row["batch_size"]): row for row in rows if "error" not in row}
    return {
        f"{ours} to {theirs}, batch {size}, {name}": measurement.ratio(row, measured[theirs, size], key)
        for (ours, size), row in measured.items()
        for theirs in _COMPARED.get(ours, ())
        if (theirs, size) in measured
        for name, key in (("steady", "images_per_second"), ("first epoch", "first_epoch"))
    }


def main() -> None:
    """Lays out the cells, measures, writes the file, prints the table."""
    values = flags.FLAGS
    readers = [*(values.readers or READERS), *(LIBRARIES if values.peers == ["all"] else values.peers)]
    if unknown := [name for name in readers if name not in (*READERS, *LIBRARIES)]:
        raise InputError(f"--readers or --peers has {unknown[0]}; expected some of {', '.join((*READERS, *LIBRARIES))}")
    if not all(size.isdecimal() and int(size) for size in values.batch_sizes):
        raise InputError(f"--batch_sizes={','.join(values.batch_sizes)} is no list of positive numbers such as 64,256")
    split = open_data_set(values.data_dir, values.config).open_split(values.split)
    if split.num_cells < sum(shard["num_records"] for shard in split.shards):
        raise InputError(f"--split={values.split} ends within a shard; expected complete ones, such as train[:2shard]")
    with tempfile.TemporaryDirectory() as work_dir:
        work = dataclasses.replace(lay_out(split, values.data_dir, Path(work_dir)), epochs=values.epochs)
        cases = [
            Case(dataclasses.replace(work, reader=reader, batch_size=int(size)))
            for reader in readers
            for size in values.batch_sizes
        ]
        with progress_bar(values.repeats * len(cases), "measuring", "runs") as bar:
            for _ in range(values.repeats):
                for case in cases:
                    bar.set_postfix_str(case.work.reader)
                    case.run()
                    bar.update()
    rows = [case.row() for case in cases]
    measurement.report(values.output, rows, ratios(rows))


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_string("config", "by_patient", "Config of the data set.")
    flags.DEFINE_string("split", "all", "TFDS split expression to read, in complete shards.")
    flags.DEFINE_list("readers", [], "Input modes and baselines of this environment; all by default.")
    flags.DEFINE_list("peers", [], f"Baselines of .venv-peers (make peers): all, or some of {', '.join(LIBRARIES)}.")
    flags.DEFINE_list("batch_sizes", ["64", "256"], "Cells per batch.")
    flags.DEFINE_integer("epochs", 6, "Epochs per run; the first one is shown by itself.", lower_bound=2)
    flags.DEFINE_integer("repeats", 3, "Runs of each case.", lower_bound=1)
    run(main)
