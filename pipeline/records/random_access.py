"""Cells by index and shuffled batches by step, for PyTorch, Grain and JAX: neither TensorFlow nor TFDS is needed.

To PyTorch `Cells` and `ShuffledBatches` are map-style data sets, to Grain random-access sources. They can be sent to
worker processes.
"""

import math
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.records import example, manifest
from pipeline.records.index import INDEX_COLUMNS, read_index

_FIRST_KEY = 498247692  # TensorFlow's, before the two words of the seed
_MIN_BLOCK_BITS = 16
_SMALL = 1 << 12


class MappedCells:
    """Cells by index, straight from the TFRecord files of a split on a local disk; `labels` are int64 [cells].

    Images are copied once, from the page cache; no memory grows with the data. The checksum of a record is verified
    when it is first read: about 10 µs. Raises InputError if a shard or its index is not what the manifest says.
    """

    def __init__(
        self,
        files: Sequence[str],  # shards
        skips: Sequence[int],  # first record of each
        takes: Sequence[int],  # number of records of each
        entries: Sequence[Mapping[str, Any]],  # of each in the manifest
        size_px: int,
        is_png: bool,
    ) -> None:
        self._files, self._skips, self._is_png, self._shape = files, skips, is_png, (size_px, size_px, 3)
        self._views: list[np.ndarray] = []
        rows = []
        for file, skip, take, entry in zip(files, skips, takes, entries, strict=True):
            index = read_index(file, entry)
            if len(index) < skip + take:
                raise manifest.corrupt_shard(file, f"has {len(index)} records, expected {skip + take}")
            rows.append(index[skip : skip + take])
            if not is_png and (rows[-1][:, 2] != math.prod(self._shape)).any():
                raise manifest.corrupt_shard(file, f"its index does not fit images of {size_px} px")
            with Path(file).open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            mapped.madvise(mmap.MADV_RANDOM)
            self._views.append(np.frombuffer(mapped, np.uint8))
        self._rows = np.concatenate(rows)
        self.labels = self._rows[:, INDEX_COLUMNS.index("label")]
        self._part = np.repeat(np.arange(len(files)), takes)
        self._is_verified = np.zeros(len(self._rows), bool)
        # All maps are one array of overlapping windows, since an image may begin at any byte: NumPy gathers from it in
        # one call, without the interpreter lock. What lies between the maps is in no window that is read.
        addresses = np.array([view.ctypes.data for view in self._views])
        self._starts = (addresses - addresses.min())[self._part] + self._rows[:, 1]
        shape = (int(self._starts.max()) + 1, math.prod(self._shape))
        lowest = self._views[addresses.argmin()]
        self._windows = np.lib.stride_tricks.as_strided(lowest, shape, (1, 1), writeable=False)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Copies images, integers [n] -> uint8 RGB [n, size, size, 3]; InputError if a record is corrupt."""
        unread = indices[~self._is_verified[indices]]
        for i, start in zip(unread.tolist(), self._rows[unread, 0].tolist(), strict=True):
            try:
                example.read_at(self._views[self._part[i]], start)  # a view: nothing is copied
            except example.CorruptRecord as error:
                raise self._corrupt(i, error) from error
        self._is_verified[unread] = True
        shape = (len(indices), *self._shape)
        if not self._is_png:
            return self._windows[self._starts[indices]].reshape(shape)
        images = np.empty(shape, np.uint8)
        for number, (i, (start, num_bytes)) in enumerate(zip(indices, self._rows[indices, 1:3].tolist(), strict=True)):
            try:
                stored = self._views[self._part[i]][start : start + num_bytes]
                images[number] = example.decode_png(stored).reshape(self._shape)
            except ValueError as error:
                raise self._corrupt(int(i), error) from error
        return images

    def _corrupt(self, i: int, error: Exception) -> InputError:
        i %= len(self._part)  # it may count from the end
        part = self._part[i]
        number = self._skips[part] + i - int(np.argmax(self._part == part))
        return manifest.corrupt_shard(self._files[part], f"record {number} is corrupt ({error})")


class Cells(MappedCells):
    """The cells of a split on a local disk: `cells[i]` is {"image": uint8 RGB [size, size, 3], "label": 0 or 1}.

    `data_dir` is the root of the data sets, as given to pipeline.preprocess. Raises InputError if there is no such
    split, or if now or at `cells[i]` a shard is not what the manifest says.
    """

    def __init__(self, data_dir: str | os.PathLike[str], split: str, config: str = "by_patient") -> None:
        self._arguments = data_dir, split, config
        directory, contents = manifest.read_dataset(os.fspath(data_dir), config)
        if split not in contents["splits"]:
            raise InputError(f"split={split} is not in {directory}; expected one of {', '.join(contents['splits'])}")
        shards = contents["splits"][split]["shards"]
        files = [os.fspath(directory / shard["file"]) for shard in shards]
        takes = [shard["num_records"] for shard in shards]
        size_px, encoding = (contents["settings"][name] for name in ("image_size_px", "image_encoding"))
        super().__init__(files, [0] * len(files), takes, shards, size_px, encoding == "png")

    def __reduce__(self) -> tuple[Any, ...]:  # a worker process opens the shards itself
        return Cells, self._arguments

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, np.ndarray | int]:
        label = int(self.labels[i])
        return {"image": self.gather(np.array([i]))[0], "label": label}


class ShuffledBatches:
    """The batches of a training, in the order of `trainers`: `batches[step]`, with steps counted over all epochs.

    A batch is {"image": uint8 RGB [n, size, size, 3], "label": int64 [n]}; the last one of an epoch may be smaller.
    """

    def __init__(self, cells: Cells, batch_size: int, seed: int, epochs: int = 1) -> None:
        self._cells, self._batch_size, self._seed, self._epochs = cells, batch_size, seed, epochs
        self.steps_per_epoch = -(-len(cells) // batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch * self._epochs

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is not in 0…{len(self) - 1}")
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        positions = np.arange(in_epoch * self._batch_size, min((in_epoch + 1) * self._batch_size, len(self._cells)))
        rows = index_shuffle(positions, (self._seed, epoch), len(self._cells) - 1)
        return {"image": self._cells.gather(rows), "label": self._cells.labels[rows]}


def index_shuffle(indices: np.ndarray, seed: tuple[int, int], max_index: int) -> np.ndarray:
    """The positions of some indices in a permutation of `0…max_index`: `tf.random.experimental.index_shuffle` in NumPy.

    A Simon cipher of four rounds permutes the numbers of a power of four; what it takes beyond the last cell is
    enciphered again. Source: tensorflow/core/kernels/random_index_shuffle.cc; R. Beaulieu et al., "The SIMON and SPECK
    Families of Lightweight Block Ciphers", 2013.

    Takes integers [n] in 0…max_index, of at most 2⁶³−1; the seed is two integers, of which the lowest 32 bits count: in
    a training its seed, and the epoch from 0. Returns int64 [n], equal to TensorFlow's. Raises ValueError if an index
    is out of range.
    """
    if ((indices < 0) | (indices > max_index)).any():
        raise ValueError(f"indices are in {indices.min()}…{indices.max()}, expected 0…{max_index}")
    if not max_index:
        return np.zeros(len(indices), np.int64)
    bits = max(math.ceil(math.log2(max_index)), _MIN_BLOCK_BITS)
    half = (bits + 1) // 2
    keys = _round_keys(seed, half)
    if max_index < _SMALL:  # most of a block lies beyond: double the step along each cycle instead of walking it
        following = _encrypt(np.arange(1 << bits, dtype=np.uint64), keys, half)
        while (following[: max_index + 1] > max_index).any():
            following = np.where(following > max_index, following[following], following)
        return following[indices].astype(np.int64)
    result = indices.astype(np.uint64)
    beyond = np.arange(len(result))
    while len(beyond):
        result[beyond] = _encrypt(result[beyond], keys, half)
        beyond = beyond[result[beyond] > max_index]
    return result.astype(np.int64)


def _round_keys(seed: tuple[int, int], half: int) -> list[np.uint64]:
    mask = (1 << half) - 1
    first, second, third = (word & 0xFFFFFFFF & mask for word in (_FIRST_KEY, *map(int, seed)))
    rotated = third >> 3 | third << (half - 3), third >> 4 | third << (half - 4)
    fourth = (0xFFFFFFFC ^ 1 ^ first ^ rotated[0] ^ rotated[1]) & mask
    return [np.uint64(key) for key in (first, second, third, fourth)]


def _encrypt(values: np.ndarray, keys: list[np.uint64], half: int) -> np.ndarray:
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half) & mask, values & mask  # masked for 4ⁿ itself, which TensorFlow takes for 0

    def rotate(x: np.ndarray, by: int) -> np.ndarray:
        return (x << np.uint64(by) | x >> np.uint64(half - by)) & mask

    for key in keys:
        left, right = right, left ^ (rotate(right, 1) & rotate(right, 8) ^ rotate(right, 2)) ^ key
    return left << np.uint64(half) | right
