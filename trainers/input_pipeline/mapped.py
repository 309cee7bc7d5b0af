"""Random access into the TFRecord files of a split: memory maps, and the index of where each image lies.

The shards must lie on a local disk, each with the index that the Beam job wrote. Images are copied once, from the page
cache into the batch. Nothing is loaded beforehand, and no memory grows with the data.

The checksum of a record is verified when a run first reads it: about 10 µs per cell in the first epoch.
"""

import mmap
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.records import image, layout, tfrecord
from pipeline.records.index import INDEX_COLUMNS, read_index
from pipeline.records.manifest import corrupt_shard
from pipeline.storage import is_remote
from trainers.data import Split

_ALIGNMENT = 64  # TensorFlow takes arrays that are aligned like this without a copy


def is_mappable(split: Split) -> bool:
    """Whether all shards of a split lie on a local disk and have an index."""
    return all(not is_remote(file) and Path(layout.index_name(file)).exists() for file in split.files)


class MappedCells:
    """The cells of a split, by index.

    Args:
      split: see `is_mappable`.

    Raises:
      InputError: if a shard or its index is missing, or is not what the manifest says.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._views: list[np.ndarray] = []
        rows = []
        for file, skip, take, entry in zip(split.files, split.skips, split.takes, split.shards, strict=True):
            index = read_index(file, entry)
            if len(index) < skip + take:
                raise corrupt_shard(file, f"has {len(index)} records, expected {skip + take}")
            rows.append(index[skip : skip + take])
            with Path(file).open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            mapped.madvise(mmap.MADV_RANDOM)
            self._views.append(np.frombuffer(mapped, np.uint8))
        self._rows = np.concatenate(rows)
        self._part = np.repeat(np.arange(len(split.files)), split.takes)
        self._is_verified = np.zeros(split.num_cells, bool)

    @property
    def labels(self) -> np.ndarray:
        """int64 [cells]."""
        return self._rows[:, INDEX_COLUMNS.index("label")]

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies some cells.

        Args:
          indices: int64 [n].

        Returns:
          uint8 RGB [n, size, size, 3] and int64 [n].

        Raises:
          InputError: if a record is corrupt.
        """
        size = self._split.image_size_px
        images = _aligned_empty((len(indices), size, size, 3))
        self.copy(indices, images)
        return images, self.labels[indices]

    def copy(self, indices: np.ndarray, images: np.ndarray) -> None:
        """Copies the images of some cells into uint8 RGB [n, size, size, 3].

        Raises:
          InputError: if a record is corrupt.
        """
        self._verify(indices)
        columns = self._rows[indices, 1:3].tolist()
        parts = self._part[indices].tolist()
        flat = images.reshape(len(indices), -1)
        for i, (part, (start, num_bytes)) in enumerate(zip(parts, columns, strict=True)):
            stored = self._views[part][start : start + num_bytes]
            try:
                flat[i] = image.decode_png(stored).reshape(-1) if self._split.is_png else stored
            except ValueError as error:
                raise self._corrupt(int(indices[i]), error) from error

    def _verify(self, indices: np.ndarray) -> None:
        """Checks the checksums of the records that were not read before."""
        for i in indices[~self._is_verified[indices]].tolist():
            try:
                tfrecord.read_at(self._views[self._part[i]], int(self._rows[i, 0]))  # a view: nothing is copied
            except tfrecord.CorruptRecord as error:
                raise self._corrupt(i, error) from error
            self._is_verified[i] = True

    def _corrupt(self, i: int, error: Exception) -> InputError:
        part = self._part[i]
        number = self._split.skips[part] + i - int(np.argmax(self._part == part))
        return corrupt_shard(self._split.files[part], f"record {number} is corrupt ({error})")


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    num_bytes = int(np.prod(shape))
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + num_bytes].reshape(shape)
