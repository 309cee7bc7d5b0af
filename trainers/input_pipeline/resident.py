"""A complete split in memory: copied out of memory maps by several threads, or read record by record where shards have
no index or lie on an object store. Both verify checksums and counts.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
from etils import epath

from pipeline.records import example, tfrecord
from pipeline.records.manifest import corrupt_shard
from pipeline.terminal import progress_bar
from trainers.data import Split
from trainers.input_pipeline.mapped import MappedCells, is_mappable

_CELLS_PER_TASK = 64


class Cells(NamedTuple):
    """A split in memory, in the order of its records."""

    images: np.ndarray  # uint8 RGB [cells, size, size, 3] in 0…255
    labels: np.ndarray  # int64 [cells]


def load(split: Split) -> Cells:
    """Reads a split into memory.

    Raises:
      InputError: if a shard is missing, corrupt, or has another number of records than the data set says.
    """
    size = split.image_size_px
    images = _zeros(split.num_bytes).reshape(split.num_cells, size, size, 3)
    cells = Cells(images, np.zeros(split.num_cells, np.int64))
    with progress_bar(split.num_cells, f"reading {split.expression}", "cells") as bar:
        if not is_mappable(split):
            for i, (cell, pixels) in enumerate(read_cells(split)):
                cells.images[i], cells.labels[i] = pixels, cell.label
                bar.update()
            return cells
        source = MappedCells(split)
        cells.labels[:] = source.labels

        def copy(indices: np.ndarray) -> int:
            cells.images[indices[0] : indices[-1] + 1] = source.gather(indices)
            return len(indices)

        tasks = np.array_split(np.arange(split.num_cells), -(-split.num_cells // _CELLS_PER_TASK))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for num_copied in pool.map(copy, tasks):
                bar.update(num_copied)
    return cells


def read_cells(split: Split) -> Iterator[tuple[example.ParsedExample, np.ndarray]]:
    """Yields every cell of a split with its image, uint8 RGB [size, size, 3], in the order of the records.

    Raises:
      InputError: at the first record that is corrupt, or a shard that is missing or too short.
    """
    shape = (split.image_size_px, split.image_size_px, 3)
    for file, skip, take in zip(split.files, split.skips, split.takes, strict=True):
        number = -1
        try:
            with epath.Path(file).open("rb") as opened:
                for number, (_, record) in enumerate(islice(tfrecord.read_records(opened), skip + take)):
                    if number >= skip:
                        cell = example.parse(record)
                        stored = np.frombuffer(cell.image, np.uint8)
                        yield cell, (example.decode_png(stored) if split.is_png else stored).reshape(shape)
        except tfrecord.CorruptRecord as error:
            raise corrupt_shard(file, f"record {number + 1} is corrupt ({error})") from error
        except ValueError as error:  # the record is what was written, but no cell
            raise corrupt_shard(file, f"record {number} is corrupt ({error})") from error
        except OSError as error:
            raise corrupt_shard(file, f"cannot be read ({error})") from error
        if number + 1 < skip + take:
            raise corrupt_shard(file, f"has {number + 1} records, expected {skip + take}")


def _zeros(num_bytes: int) -> np.ndarray:
    """Fresh memory in large pages where the system has them: a random gather misses fewer of them."""
    pages = mmap.mmap(-1, num_bytes)
    with contextlib.suppress(AttributeError, OSError):  # not on Linux, or a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)
