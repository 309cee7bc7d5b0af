"""Random access into the TFRecord files of a split: memory maps, and the index of where each image lies.

In: a split whose shards lie on a local disk, each with the index that the Beam job wrote. Out: the cells of any rows,
copied once from the page cache into the batch. Nothing is loaded beforehand, and no memory grows with the data.

Each record's checksum is compared when the record is first met in a run: some 10 µs a cell in the first epoch.
"""

import io
import mmap
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from pipeline.errors import InputError
from pipeline.job.fill import INDEX_COLUMNS
from pipeline.records import layout, manifest, parsing, tfrecord
from pipeline.source import decode
from pipeline.storage import is_remote
from trainers.input_pipeline.corruption import DamagedRecords
from trainers.input_pipeline.splits import Split

_ALIGNMENT = 64  # TensorFlow takes arrays that are aligned like this without a copy


def is_mappable(split: Split) -> bool:
    """Whether all shards of a split lie on a local disk and have an index."""
    return all(not is_remote(file) and Path(layout.index_name(file)).exists() for file in split.files)


class MappedCells:
    """The cells of a split, by row.

    Args:
      split: see `is_mappable`.
      damaged: told of records whose checksum does not fit.

    Raises:
      InputError: if a shard or an index is missing, or is not what the manifest says.
    """

    def __init__(self, split: Split, damaged: DamagedRecords) -> None:
        self._size, self._is_png, self._damaged = split.image_size_px, split.is_png, damaged
        self._files = split.files
        self._maps: list[mmap.mmap] = []
        self._views: list[np.ndarray] = []
        indices = []
        entries = _manifest_entries(split)
        for file, skip, take in zip(split.files, split.skips, split.takes, strict=True):
            index = _read_index(file, entries.get(Path(file).name))
            if len(index) < skip + take:
                raise InputError(f"{file} has {len(index)} records, expected {skip + take}; make the data set again")
            indices.append(index[skip : skip + take])
            self._map(file)
        self._index = np.concatenate(indices)
        self._part = np.repeat(np.arange(len(split.files)), split.takes)
        self._number = np.concatenate(
            [np.arange(skip, skip + take) for skip, take in zip(split.skips, split.takes, strict=True)]
        )
        self._is_checked = np.zeros(split.num_cells, bool)
        self._is_damaged = np.zeros(split.num_cells, bool)

    def _map(self, file: str) -> None:
        with Path(file).open("rb") as opened:
            self._maps.append(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        self._maps[-1].madvise(mmap.MADV_RANDOM)
        self._views.append(np.frombuffer(self._maps[-1], np.uint8))

    @property
    def labels(self) -> np.ndarray:
        """int64 [cells]."""
        return self._index[:, INDEX_COLUMNS.index("label")]

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies the cells of some rows.

        Args:
          rows: int64 [n].

        Returns:
          uint8 RGB [n, size, size, 3] and int64 [n]; fewer than n if damaged records are skipped.

        Raises:
          InputError: if a record is damaged and must not be skipped.
        """
        rows = self.check(rows)
        images = _aligned_empty((len(rows), self._size, self._size, 3))
        self.copy(rows, images)
        return images, self.labels[rows]

    def check(self, rows: np.ndarray) -> np.ndarray:
        """Compares the checksums of rows that were not met yet; returns the rows that are whole."""
        for row in rows[~self._is_checked[rows]].tolist():
            try:
                tfrecord.read_at(self._views[self._part[row]], int(self._index[row, 0]))  # a view: nothing is copied
            except tfrecord.DamagedRecord:
                self._damaged.add(self._files[self._part[row]], int(self._number[row]))
                self._is_damaged[row] = True
            self._is_checked[row] = True
        return rows[~self._is_damaged[rows]] if self._is_damaged.any() else rows

    def copy(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Copies images of whole rows into uint8 RGB [n, size, size, 3].

        Raises:
          InputError: if one is no PNG of that size, where PNGs are expected.
        """
        columns = self._index[rows, 1:3].tolist()
        flat = images.reshape(len(rows), -1)
        parts = self._part[rows].tolist()
        try:
            for i, (part, (start, num_bytes)) in enumerate(zip(parts, columns, strict=True)):
                stored = self._views[part][start : start + num_bytes]
                flat[i] = decode.decode_png(stored).reshape(-1) if self._is_png else stored
        except ValueError as error:
            raise InputError(
                f"{self._files[parts[i]]} is damaged ({error}); check the data set with python -m pipeline.verify, or "
                "make it again"
            ) from error

    def keys(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """File names and patients of some rows: bytes [n] each."""
        parsed = [parsing.parse(self._record(row)) for row in rows.tolist()]
        return (
            np.array([cell.filename.encode() for cell in parsed], object),
            np.array([cell.patient_id.encode() for cell in parsed], object),
        )

    def _record(self, row: int) -> bytes:
        return tfrecord.read_at(self._maps[self._part[row]], int(self._index[row, 0]))


def _manifest_entries(split: Split) -> dict[str, dict[str, Any]]:
    """The manifest's entries of a split's shards by file name; empty for shards that have no manifest."""
    directory = Path(split.files[0]).parent
    if not (directory / layout.MANIFEST).exists():
        return {}
    made = manifest.read(epath.Path(directory))
    return {shard["file"]: shard for entry in made["splits"].values() for shard in entry["shards"]}


def _read_index(file: str, entry: dict[str, Any] | None) -> np.ndarray:
    """A shard's index, compared with the manifest as the shard's size is."""
    path = Path(layout.index_name(file))
    try:
        num_bytes, content = Path(file).stat().st_size, path.read_bytes()
        index = np.load(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} or its index cannot be read ({error}); make the data set again") from error
    if entry is not None and (num_bytes, sha256(content).hexdigest()) != (entry["num_bytes"], entry["index_sha256"]):
        raise InputError(
            f"{file} or its index is not what the manifest says; check the data set with python -m pipeline.verify"
        )
    if index.ndim != 2 or index.shape[1] != len(INDEX_COLUMNS) or index.dtype != np.int64:
        raise InputError(f"{path} is no index of {', '.join(INDEX_COLUMNS)}; make the data set again")
    return index


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    num_bytes = int(np.prod(shape))
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + num_bytes].reshape(shape)
