"""The input benchmark's cases: which reader reads which cells, in processes of their own, and the bar chart."""

import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import measurement
from benchmarks.harness.clock import Work
from pipeline.errors import InputError

MODES = ("resident", "mapped", "streaming")
BASELINES_HERE = ("numpy_in_memory", "tf_data", "tf_data_autotuned", "tfds_load", "keras_directory")
LIBRARIES = ("ffcv", "dali", "torch", "grain", "webdataset")
"""Baselines that have an environment of their own (`make peers`)."""

_LIBRARIES_PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
_SECONDS_BETWEEN_SAMPLES = 0.25  # looking at a process's memory stops it for some milliseconds
_REPEATED_SECONDS = 60  # what takes longer is run once


class Case:
    """One reader at one batch size on some cells, and its runs so far, each started by the launcher."""

    def __init__(self, work: Work, launcher: Sequence[str] = ()) -> None:
        self.work, self._launcher = work, launcher
        self.name = f"{work.reader}, batch {work.batch_size}, {work.expected.num_cells:,} cells"
        self.results: list[dict[str, Any]] = []
        self.peaks: list[int] = []
        self.error: str | None = None

    def run(self) -> None:
        """Runs it once more, unless it has failed or takes very long."""
        if self.error is None and not (self.results and sum(self.results[0]["epoch_seconds"]) > _REPEATED_SECONDS):
            try:
                result, peak = run_once(self.work, self._launcher)
            except InputError as error:
                self.error = str(error)
                return
            self.results.append(result)
            self.peaks.append(peak)

    def row(self) -> dict[str, Any]:
        """The case's entry in the file, see `measurement.write`."""
        num_cells, epochs = self.work.expected.num_cells, self.work.epochs

        def median(name: str) -> float | None:
            return round(statistics.median(result[name] for result in self.results), 4) if self.results else None

        steady = [
            num_cells * (epochs - 1) / (sum(result["epoch_seconds"][1:]) + result["closing_seconds"])
            for result in self.results
        ]
        return {
            "name": self.name,
            "reader": self.work.reader,
            "batch_size": self.work.batch_size,
            "num_images": num_cells,
            "epochs": epochs,
            "images_per_second": measurement.rates_entry(steady),
            "first_epoch": measurement.rates_entry([num_cells / result["epoch_seconds"][0] for result in self.results]),
            "cpu_seconds": median("cpu_seconds"),
            "peak_rss_bytes": int(statistics.median(self.peaks)) if self.peaks else None,
            "closing_seconds": median("closing_seconds"),
            "epoch_seconds": [result["epoch_seconds"] for result in self.results],
            **({"error": self.error} if self.error else {}),
        }


def run_once(work: Work, launcher: Sequence[str] = ()) -> tuple[dict[str, Any], int]:
    """Runs a reader once: its result, and the most memory that its processes held."""
    is_library = work.reader in LIBRARIES
    if is_library and not _LIBRARIES_PYTHON.exists():
        raise InputError("its environment is missing: make peers")
    python = str(_LIBRARIES_PYTHON) if is_library else sys.executable
    module = "benchmarks.baselines.input_libraries" if is_library else "benchmarks.baselines.input_readers"
    command = [*launcher, python, "-m", module, json.dumps(dataclasses.asdict(work))]
    name = f"{work.reader}, batch {work.batch_size},"
    run = measurement.measure(name, command, measurement.tree_bytes, _SECONDS_BETWEEN_SAMPLES)
    # A short run may end before the first sample.
    return json.loads(run.output.splitlines()[-1]), run.sampled_bytes or run.peak_rss_bytes


def plan(
    works: Sequence[Work], main: Work, readers: Sequence[str], batch_sizes: Sequence[int], launcher: Sequence[str] = ()
) -> list[Case]:
    """All readers on the main cells at all batch sizes; the three modes on the other numbers of cells, too.

    Fewer cells are read for more epochs, so that as many images are timed.
    """

    def epochs(work: Work) -> int:
        return 1 + math.ceil((main.epochs - 1) * max(1, main.expected.num_cells / work.expected.num_cells))

    cases = [
        dataclasses.replace(main, reader=reader, batch_size=batch_size)
        for reader in readers
        for batch_size in batch_sizes
    ] + [
        dataclasses.replace(work, reader=mode, batch_size=min(batch_sizes), epochs=epochs(work))
        for work in works
        if work.expected != main.expected
        for mode in MODES
        if mode in readers
    ]
    return [Case(work, launcher) for work in cases]


def plot(rows: Sequence[Mapping[str, Any]], num_cells: int, path: Path) -> None:
    """Writes a bar chart of the rows that read that many cells: one panel per batch size, the fastest reader on top."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["num_images"] == num_cells and row["images_per_second"]["median"]]
    panels = {
        size: sorted(
            (row for row in shown if row["batch_size"] == size), key=lambda row: row["images_per_second"]["median"]
        )
        for size in sorted({row["batch_size"] for row in shown})
    }
    if not panels:
        return
    height = 1.4 + 0.42 * max(map(len, panels.values()))
    figure = Figure(figsize=(7 * len(panels), height), layout="constrained")
    figure.suptitle(
        f"Reading {num_cells:,} shuffled cells (uint8, 125×125×3 at the default size), warm page cache\n"
        "dark: steady; light: first epoch, with the reader's start-up; red: this project"
    )
    for axis, (size, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for position, row in enumerate(members):
            dark, light = ("#b2182b", "#f4a582") if row["reader"] in MODES else ("#4d4d4d", "#bababa")
            for key, offset, color in (("images_per_second", 0.2, dark), ("first_epoch", -0.2, light)):
                rate = row[key]["median"]
                axis.barh(position + offset, rate, 0.4, color=color)
                axis.annotate(f" {rate:,.0f}", (rate, position + offset), va="center", fontsize=8)
        names = [row["reader"] for row in members]
        axis.set(xscale="log", xlabel="images per second", title=f"batch {size}")
        axis.set_yticks(range(len(names)), names)
        axis.margins(x=0.12, y=0.02)
        axis.xaxis.set_major_formatter(lambda rate, _: f"{rate:,.0f}")
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
