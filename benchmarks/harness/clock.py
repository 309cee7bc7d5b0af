"""The clock that every reader of cells runs under, in a process of its own.

In: a reader and its work, as JSON. Out: seconds of every epoch, as JSON on standard output.

A reader is a generator of shuffled batches over some epochs. The clock starts before it is made and stops when it is
closed. Images are counted: every epoch must end after exactly its number of cells. One byte of every 4 KiB of each
image is read from every batch and summed up, so that no reader can hand out memory that it never filled; once, not
timed, the CRC-32 of every whole image with its label is summed up over an epoch. Both sums are those of the multiset,
whatever the order. Needs NumPy and psutil, nothing else, since peers run in an environment of their own.
"""

import dataclasses
import importlib
import itertools
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

_BYTES_BETWEEN_TOUCHES = 4096

Batch = tuple[np.ndarray, np.ndarray]
"""(uint8 RGB [n, size, size, 3], or floats of the same values; integers [n])."""


class Content(NamedTuple):
    """What an epoch holds, whatever its order.

    Attributes:
      num_cells: how many.
      touched: sum of some bytes of each image.
      labels: sum of the labels.
      multiset: sum of CRC-32s over each image with its label; None where only the rest was looked at.
    """

    num_cells: int
    touched: int
    labels: int
    multiset: int | None = None


@dataclasses.dataclass(frozen=True)
class Work:
    """What a reader is to do.

    Attributes:
      reader: its name.
      cells: folder with `images.npy` (uint8 [cells, size, size, 3]) and `labels.npy`, for readers with a form of
        their own.
      own: the reader's folder; its own form is kept there from one run to the next.
      dataset: the data set's version folder, for readers of the TFRecords.
      expression: split expression of the cells in it; whole shards.
      shards: the same, as files.
      expected: what every epoch must hold.
      batch_size, epochs: of the batches.
      is_check: compare every byte of one epoch instead of timing.
    """

    reader: str
    cells: str
    own: str
    dataset: str
    expression: str
    shards: tuple[str, ...]
    expected: Content
    batch_size: int = 64
    epochs: int = 6
    is_check: bool = False

    @property
    def images(self) -> np.ndarray:
        """uint8 RGB [cells, size, size, 3], mapped."""
        return np.load(Path(self.cells) / "images.npy", mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        """int64 [cells]."""
        return np.load(Path(self.cells) / "labels.npy")


class Reader(NamedTuple):
    """A way to read cells.

    Attributes:
      read: work -> batches of all epochs.
      modules: what it imports, outside the clock.
      prepare: writes the reader's own form into `work.own`, outside the clock.
    """

    read: Callable[[Work], Iterator[Batch]]
    modules: Sequence[str] = ()
    prepare: Callable[[Work], None] = lambda work: None


def summed(batch: Batch, is_whole: bool = False) -> Content:
    """What a batch adds to its epoch."""
    images, labels = batch
    touched = int(images.reshape(len(images), -1)[:, ::_BYTES_BETWEEN_TOUCHES].sum(dtype=np.int64))
    multiset = None
    if is_whole:
        pairs = zip(np.ascontiguousarray(images, np.uint8), labels.tolist(), strict=True)
        multiset = sum(zlib.crc32(image, int(label)) for image, label in pairs)
    return Content(len(images), touched, int(labels.sum()), multiset)


def total_of(parts: Iterable[Content]) -> Content:
    """What whole batches are together."""
    return Content(*(sum(column) for column in zip(*parts, strict=True)))


def run(readers: Mapping[str, Reader]) -> None:
    """Runs the work that the command's only argument tells, and prints its result."""
    given = json.loads(sys.argv[1])
    work = Work(**{**given, "shards": tuple(given["shards"]), "expected": Content(*given["expected"])})
    reader = readers[work.reader]
    for module in reader.modules:
        importlib.import_module(module)
    own = Path(work.own)
    prepared = own.with_name(f"{own.name}.prepared")
    seconds = 0.0
    if not prepared.exists():
        shutil.rmtree(own, ignore_errors=True)  # of a run that was stopped
        own.mkdir(parents=True)
        started = time.perf_counter()
        reader.prepare(work)
        seconds = time.perf_counter() - started
        prepared.touch()
    result = check(reader, work) if work.is_check else timed(reader, work)
    print(f"\n{json.dumps({'prepare_seconds': seconds, **result})}", flush=True)


def check(reader: Reader, work: Work) -> dict[str, int]:
    """Compares every byte of one epoch.

    Raises:
      ValueError: if the epoch holds something else than expected.
    """
    parts = [summed(batch, is_whole=True) for batch in reader.read(dataclasses.replace(work, epochs=1))]
    found = total_of(parts)
    if found != work.expected:
        raise ValueError(f"{work.reader} read {found}, expected {work.expected}")
    return {"num_checked": found.num_cells}


def timed(reader: Reader, work: Work) -> dict[str, float | list[float]]:
    """Times all epochs.

    Returns:
      epoch_seconds: of every epoch, the first from before the reader was made; closing_seconds: after the last;
      cpu_seconds: of this process and its descendants, all of that time.

    Raises:
      ValueError: if an epoch holds something else than expected.
    """
    wanted = work.expected._replace(multiset=None)
    cpu_before, ends = _cpu_seconds(), [time.perf_counter()]
    num_cells = touched = labels = 0
    batches = reader.read(work)
    for batch in batches:
        part = summed(batch)
        num_cells, touched, labels = num_cells + part.num_cells, touched + part.touched, labels + part.labels
        if num_cells >= wanted.num_cells:
            ends.append(time.perf_counter())
            if (found := Content(num_cells, touched, labels)) != wanted:
                raise ValueError(f"{work.reader}, epoch {len(ends) - 1}: read {found}, expected {wanted}")
            num_cells = touched = labels = 0
            if len(ends) == work.epochs + 1:
                cpu_open = _cpu_seconds()  # workers that end with the reader might be missed afterwards
                closing = time.perf_counter()
    del batches, batch
    closed = time.perf_counter()
    if num_cells or len(ends) != work.epochs + 1:
        raise ValueError(f"{work.reader} read {len(ends) - 1} epochs and {num_cells} cells, expected {work.epochs}")
    return {
        "epoch_seconds": [after - before for before, after in itertools.pairwise(ends)],
        "closing_seconds": closed - closing,
        "cpu_seconds": max(cpu_open, _cpu_seconds()) - cpu_before,
    }


def _cpu_seconds() -> float:
    total = time.process_time() + os.times().children_user + os.times().children_system
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
