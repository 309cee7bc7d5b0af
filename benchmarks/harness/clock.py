"""The clock that every reader of cells runs under, in a process of its own: a `Work` as JSON in, its seconds out.

A reader is a generator of shuffled batches over some epochs. The clock starts before it is created and stops when it is
closed. No reader can cheat: every epoch must have exactly the expected number of cells and sums, whatever its order.
Needs NumPy and psutil only: other libraries have an environment of their own.
"""

import contextlib
import dataclasses
import importlib
import itertools
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

Batch = tuple[np.ndarray, np.ndarray]
"""(uint8 RGB [n, size, size, 3], or floats of the same values; integers [n])."""

SHUFFLED_RECORDS = 2048  # of readers that shuffle in a buffer
SEED = 42


class Content(NamedTuple):
    """What an epoch holds, whatever its order."""

    num_cells: int = 0
    touched: int = 0  # sum of one byte of every 4 KiB of each image
    labels: int = 0  # sum of the labels
    crcs: int = 0  # sum of CRC-32s over each image with its label; 0 if not computed

    def plus(self, batch: Batch, with_crcs: bool) -> "Content":
        """The content with that of a batch."""
        images, labels = batch
        touched = int(images.reshape(len(images), -1)[:, ::4096].sum(dtype=np.int64))
        crcs = 0
        if with_crcs:
            pairs = zip(np.ascontiguousarray(images, np.uint8), labels.tolist(), strict=True)
            crcs = sum(zlib.crc32(image, int(label)) for image, label in pairs)
        return Content(*map(sum, zip(self, (len(images), touched, int(labels.sum()), crcs), strict=True)))


@dataclasses.dataclass(frozen=True)
class Work:
    """What a reader is to do."""

    reader: str
    folder: str  # has the cells as arrays, and a folder for each reader's own format
    data_dir: str  # with config and split: the same cells in the project's format
    config: str
    split: str
    shards: list[str]  # its files, complete
    expected: Content  # of every epoch
    batch_size: int = 64
    epochs: int = 6
    is_check: bool = False  # compare the CRC-32s, too; its seconds mean nothing

    @property
    def images(self) -> np.ndarray:
        """uint8 RGB [cells, size, size, 3], memory-mapped."""
        return np.load(Path(self.folder) / "images.npy", mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        """int64 [cells]."""
        return np.load(Path(self.folder) / "labels.npy")

    @property
    def own(self) -> Path:
        """Folder for the reader's own format."""
        return Path(self.folder) / self.reader


class Reader(NamedTuple):
    """A way to read cells; modules are imported and the reader's own format is prepared outside of the clock."""

    read: Callable[[Work], Iterator[Batch]]  # batches of all epochs
    modules: Sequence[str] = ()
    prepare: Callable[[Work], None] = lambda work: None  # writes into `work.own`


def repeated(
    batches: Iterable[tuple[Any, Any]], epochs: int = 1, to_array: Callable[[Any], Any] = memoryview
) -> Iterator[Batch]:
    """Batches as arrays, without a copy: TensorFlow's tensors share their memory as a memoryview only."""
    for _ in range(epochs):
        for images, labels in batches:
            yield np.asarray(to_array(images)), np.asarray(to_array(labels)).ravel()


def run(readers: Mapping[str, Reader]) -> None:
    """Runs the work that is the command's only argument, and prints its result as JSON."""
    fields = json.loads(sys.argv[1])
    work = Work(**{**fields, "expected": Content(*fields["expected"])})
    reader = readers[work.reader]
    for module in reader.modules:
        importlib.import_module(module)
    if not work.own.exists():  # its first run; if that fails, no other follows
        work.own.mkdir()
        reader.prepare(work)
    print(f"\n{json.dumps(timed(reader, work))}", flush=True)


def timed(reader: Reader, work: Work) -> dict[str, float | list[float]]:
    """Times all epochs; raises ValueError if one holds something else than expected.

    The first of `epoch_seconds` begins before the reader is created; `closing_seconds` are those after the last;
    `cpu_seconds` are of this process and its descendants, all of that time.
    """
    expected = work.expected if work.is_check else work.expected._replace(crcs=0)
    content = Content()
    cpu_before, ends = _cpu_seconds(), [time.perf_counter()]
    batches = reader.read(work)
    for batch in batches:
        content = content.plus(batch, work.is_check)
        if content.num_cells >= expected.num_cells:
            ends.append(time.perf_counter())
            if content != expected:
                raise ValueError(f"{work.reader}, epoch {len(ends) - 1}: read {content}, expected {expected}")
            content = Content()
            if len(ends) == work.epochs + 1:
                cpu_open = _cpu_seconds()  # workers that end with the reader might be missed afterwards
                closing = time.perf_counter()
    del batches, batch
    closed = time.perf_counter()
    if content.num_cells or len(ends) != work.epochs + 1:
        raise ValueError(f"{work.reader}: {len(ends) - 1} epochs and {content.num_cells} cells, expected {work.epochs}")
    return {
        "epoch_seconds": [after - before for before, after in itertools.pairwise(ends)],
        "closing_seconds": closed - closing,
        "cpu_seconds": max(cpu_open, _cpu_seconds()) - cpu_before,
    }


def _cpu_seconds() -> float:
    own = psutil.Process()
    total = sum(own.cpu_times()[:4])  # with those of children that have ended
    for process in own.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total
