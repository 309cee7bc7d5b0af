"""Cases of the input benchmark: which reader reads what, run in processes of their own, and the rows that come out."""

import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import measurement
from benchmarks.harness.clock import Work
from pipeline.errors import InputError

MODES = ("resident", "mapped", "streaming")
HERE = ("numpy_in_memory", "tf_data", "tf_data_autotuned", "tfds_load", "keras_directory")
PEERS = ("ffcv", "dali", "huggingface", "torch", "torch_workers", "grain", "webdataset", "mosaicml_streaming")
_PEERS_PYTHON = Path(__file__).parent.parent / ".venv-peers" / "bin" / "python"
_SECONDS_BETWEEN_SAMPLES = 0.25  # looking at a process's memory stops it for some ms
_REPEATED_SECONDS = 60  # what takes longer is run once


class Case:
    """One reader at one batch size on one number of cells, and its runs so far.

    Args:
      work: what it does.
      launcher: command that starts each run.
    """

    def __init__(self, work: Work, launcher: Sequence[str] = ()) -> None:
        self.work, self._launcher = work, launcher
        self.name = f"{work.reader}, batch {work.batch_size}, {work.expected.num_cells:,} cells"
        self.results: list[dict[str, Any]] = []
        self.peaks: list[int] = []
        self.error: str | None = None

    def run(self) -> None:
        """Runs it once more; a failure is kept, and ends it."""
        if self.error is None and not (self.results and sum(self.results[0]["epoch_seconds"]) > _REPEATED_SECONDS):
            try:
                result, peak = run_once(self.work, self._launcher)
            except InputError as error:
                self.error = str(error)
                return
            self.results.append(result)
            self.peaks.append(peak)

    def row(self) -> dict[str, Any]:
        """The case's row, see `measurement.write`."""
        size, epochs = self.work.expected.num_cells, self.work.epochs
        row = {
            "name": self.name,
            "reader": self.work.reader,
            "batch_size": self.work.batch_size,
            "num_images": size,
            "epochs": epochs,
        }
        if not self.results:
            nothing: dict[str, Any] = {"median": None, "runs": []}
            return {
                **row,
                "images_per_second": nothing,
                "first_epoch": nothing,
                "cpu_seconds": None,
                "peak_rss_bytes": None,
                "error": self.error,
            }
        steady = [
            size * (epochs - 1) / (sum(result["epoch_seconds"][1:]) + result["closing_seconds"])
            for result in self.results
        ]

        def median(name: str) -> float:
            return round(statistics.median(result[name] for result in self.results), 4)

        return {
            **row,
            "images_per_second": measurement.rates_entry(steady),
            "first_epoch": measurement.rates_entry([size / result["epoch_seconds"][0] for result in self.results]),
            "cpu_seconds": median("cpu_seconds"),
            "peak_rss_bytes": int(statistics.median(self.peaks)),
            "closing_seconds": median("closing_seconds"),
            "epoch_seconds": [result["epoch_seconds"] for result in self.results],
            **({"error": self.error} if self.error else {}),
        }


def run_once(work: Work, launcher: Sequence[str] = ()) -> tuple[dict[str, Any], int]:
    """One run of a reader: its result, and the most memory that its processes held."""
    is_peer = work.reader in PEERS
    if is_peer and not _PEERS_PYTHON.exists():
        raise InputError("no peers are installed: make peers")
    python = str(_PEERS_PYTHON) if is_peer else sys.executable
    module = "benchmarks.baselines.input_peers" if is_peer else "benchmarks.baselines.input_readers"
    command = [*launcher, python, "-m", module, json.dumps(dataclasses.asdict(work))]
    try:
        done = measurement.measure(command, measurement.tree_bytes, _SECONDS_BETWEEN_SAMPLES)
    except InputError as error:
        raise InputError(str(error).replace(command[-1], "…")) from error
    return json.loads(done.output.splitlines()[-1]), done.sampled_bytes


def plan(
    works: Sequence[Work],
    main: Work,
    readers: Sequence[str],
    batch_sizes: Sequence[int],
    launcher: Sequence[str] = (),
) -> list[Case]:
    """All readers on the main cells at all batch sizes; the three modes on the other sizes too.

    Fewer cells are read for more epochs, so that as many images are timed.
    """
    main_cases = [
        Case(dataclasses.replace(main, reader=reader, batch_size=batch_size), launcher)
        for reader in readers
        for batch_size in batch_sizes
    ]
    return main_cases + [
        Case(dataclasses.replace(work, reader=mode, batch_size=min(batch_sizes), epochs=_epochs(main, work)), launcher)
        for work in works
        if work.expected != main.expected
        for mode in MODES
        if mode in readers
    ]


def _epochs(main: Work, work: Work) -> int:
    return 1 + math.ceil((main.epochs - 1) * max(1, main.expected.num_cells / work.expected.num_cells))
