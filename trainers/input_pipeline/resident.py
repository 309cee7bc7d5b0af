"""A whole split in memory, as uint8: read once from the TFRecords, then gathered from.

In: a split. Out: arrays. Shards with an index are copied out of a memory map by several threads; others, such as those
on an object store, are read record by record. Checksums and counts are checked in both.
"""

import contextlib
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath

from pipeline.errors import InputError
from pipeline.progress import progress_bar
from pipeline.records import parsing, tfrecord
from pipeline.source import decode
from trainers.input_pipeline.corruption import DamagedRecords
from trainers.input_pipeline.mapped import MappedCells, is_mappable
from trainers.input_pipeline.splits import Split

_BLOCK_ROWS = 256


class Cells(NamedTuple):
    """A split in memory, in the order of its records.

    Attributes:
      images: uint8 RGB [cells, size, size, 3] in 0…255.
      labels: int64 [cells].
      is_damaged: bool [cells]; these rows hold nothing and must be left out.
      filenames, patient_ids: bytes [cells]; empty without keys.
    """

    images: np.ndarray
    labels: np.ndarray
    is_damaged: np.ndarray
    filenames: np.ndarray
    patient_ids: np.ndarray


def load(split: Split, damaged: DamagedRecords | None = None, with_keys: bool = False) -> Cells:
    """Reads a split into memory.

    Args:
      split: what to read.
      damaged: told of records whose checksum does not fit; by default the first one is an error.
      with_keys: also file names and patients.

    Raises:
      InputError: if a shard is missing, damaged, or has another number of records than the data set says.
    """
    size = split.image_size_px
    num_keys = split.num_cells if with_keys else 0
    cells = Cells(
        _zeros(split.num_bytes).reshape(split.num_cells, size, size, 3),
        np.zeros(split.num_cells, np.int64),
        np.zeros(split.num_cells, bool),
        np.full(num_keys, b"", object),
        np.full(num_keys, b"", object),
    )
    damaged = damaged or DamagedRecords()
    with progress_bar(split.num_cells, f"reading {split.expression}", "cells") as bar:
        if is_mappable(split):
            source = MappedCells(split, damaged)
            blocks = np.array_split(np.arange(split.num_cells), -(-split.num_cells // _BLOCK_ROWS))

            def copy(rows: np.ndarray) -> int:
                whole = source.check(rows)
                if len(whole) == len(rows):
                    source.copy(rows, cells.images[rows[0] : rows[-1] + 1])
                else:
                    cells.images[whole] = source.gather(whole)[0]
                    cells.is_damaged[rows] = ~np.isin(rows, whole)
                if with_keys:
                    cells.filenames[whole], cells.patient_ids[whole] = source.keys(whole)
                return len(rows)

            cells.labels[:] = source.labels
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for num_rows in pool.map(copy, blocks):
                    bar.update(num_rows)
        else:
            starts = np.cumsum([0, *split.takes[:-1]]).tolist()
            for file, skip, take, start in zip(split.files, split.skips, split.takes, starts, strict=True):
                _scan(file, skip, take, _slice(cells, start, start + take), split.is_png, damaged)
                bar.update(take)
    return cells


def _zeros(num_bytes: int) -> np.ndarray:
    """Fresh memory in large pages where the system has them: a random gather misses fewer of them."""
    pages = mmap.mmap(-1, num_bytes)
    with contextlib.suppress(AttributeError, OSError):  # not on Linux, or a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def _slice(cells: Cells, start: int, stop: int) -> Cells:
    return Cells(*(column[start:stop] for column in cells))


def _scan(file: str, skip: int, take: int, cells: Cells, is_png: bool, damaged: DamagedRecords) -> None:
    """Reads some records of a shard from its beginning on."""
    try:
        with epath.Path(file).open("rb") as opened:
            for number, record in enumerate(tfrecord.scan_records(opened)):
                row = number - skip
                if not 0 <= row < take:
                    continue
                if record is None:
                    damaged.add(file, number)
                    cells.is_damaged[row] = True
                    continue
                cell = parsing.parse(record)
                cells.images[row] = _decode(cell.image, cells.images.shape[1:], is_png)
                cells.labels[row] = cell.label
                if len(cells.filenames):
                    cells.filenames[row], cells.patient_ids[row] = cell.filename.encode(), cell.patient_id.encode()
                if row == take - 1:
                    return
    except (OSError, ValueError, tfrecord.DamagedRecord) as error:
        raise InputError(
            f"{file} is damaged ({error}); check the data set with python -m pipeline.verify, or make it again"
        ) from error
    raise InputError(f"{file} has fewer records than the expected {skip + take}; make the data set again")


def _decode(encoded: bytes, shape: Sequence[int], is_png: bool) -> np.ndarray:
    stored = np.frombuffer(encoded, np.uint8)
    return decode.decode_png(stored) if is_png else stored.reshape(shape)
