"""Random access into the TFRecord files of a split: memory maps, and the index of where each image lies.

The shards must lie on a local disk, each with the index that the Beam job wrote. Images are copied once, from the page
cache into the batch; no memory grows with the data. The checksum of a record is verified when a run first reads it:
about 10 µs per cell in the first epoch.
"""

import mmap
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.records import example, layout, tfrecord
from pipeline.records.index import INDEX_COLUMNS, read_index
from pipeline.records.manifest import corrupt_shard
from pipeline.storage import is_remote
from trainers.data import Split


def is_mappable(split: Split) -> bool:
    """Whether all shards of a split lie on a local disk and have an index."""
    return all(not is_remote(file) and Path(layout.index_name(file)).exists() for file in split.files)


class MappedCells:
    """The cells of a split for which `is_mappable` holds, by index; `labels` are int64 [cells].

    Raises InputError if a shard or its index is missing, or is not what the manifest says.
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
            if not split.is_png and (rows[-1][:, 2] != split.image_size_px**2 * 3).any():
                raise corrupt_shard(file, f"its index does not fit images of {split.image_size_px} px")
            with Path(file).open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            mapped.madvise(mmap.MADV_RANDOM)
            self._views.append(np.frombuffer(mapped, np.uint8))
        self._rows = np.concatenate(rows)
        self.labels = self._rows[:, INDEX_COLUMNS.index("label")]
        self._part = np.repeat(np.arange(len(split.files)), split.takes)
        self._is_verified = np.zeros(split.num_cells, bool)
        # All maps are one array of overlapping windows, since an image may begin at any byte: NumPy gathers from it in
        # one call, without the interpreter lock. What lies between the maps is in no window that is read.
        addresses = np.array([view.ctypes.data for view in self._views])
        self._starts = (addresses - addresses.min())[self._part] + self._rows[:, 1]
        shape = (int(self._starts.max()) + 1, split.image_size_px**2 * 3)
        lowest = self._views[addresses.argmin()]
        self._windows = np.lib.stride_tricks.as_strided(lowest, shape, (1, 1), writeable=False)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Copies images, integers [n] -> uint8 RGB [n, size, size, 3]; InputError if a record is corrupt."""
        unread = indices[~self._is_verified[indices]]
        for i, start in zip(unread.tolist(), self._rows[unread, 0].tolist(), strict=True):
            try:
                tfrecord.read_at(self._views[self._part[i]], start)  # a view: nothing is copied
            except tfrecord.CorruptRecord as error:
                raise self._corrupt(i, error) from error
        self._is_verified[unread] = True
        shape = (len(indices), self._split.image_size_px, self._split.image_size_px, 3)
        if not self._split.is_png:
            return self._windows[self._starts[indices]].reshape(shape)
        images = np.empty(shape, np.uint8)
        for number, (i, (start, num_bytes)) in enumerate(zip(indices, self._rows[indices, 1:3].tolist(), strict=True)):
            try:
                stored = self._views[self._part[i]][start : start + num_bytes]
                images[number] = example.decode_png(stored).reshape(shape[1:])
            except ValueError as error:
                raise self._corrupt(int(i), error) from error
        return images

    def _corrupt(self, i: int, error: Exception) -> InputError:
        part = self._part[i]
        number = self._split.skips[part] + i - int(np.argmax(self._part == part))
        return corrupt_shard(self._split.files[part], f"record {number} is corrupt ({error})")
