"""Cells by index and shuffled batches by step, for PyTorch, Grain and JAX: neither TensorFlow nor TFDS is needed.

To PyTorch both classes are map-style data sets, to Grain random-access sources. They can be sent to worker processes.
"""

import functools
import math
import os

import numpy as np

from pipeline.errors import InputError
from pipeline.records import example, manifest, tfrecord
from pipeline.records.index import read_index

_FIRST_KEY = 498247692  # TensorFlow's, before the two words of the seed
_MIN_BLOCK_BITS = 16
_SMALL = 1 << 12


class Cells:
    """The cells of a split on a local disk: `cells[i]` is {"image": uint8 RGB [size, size, 3], "label": 0 or 1}.

    `data_dir` is the root of the data sets, as given to pipeline.preprocess. Raises InputError if there is no such
    split, or if now or at `cells[i]` a shard is not what the manifest says.
    """

    def __init__(self, data_dir: str | os.PathLike[str], split: str, config: str = "by_patient") -> None:
        directory, contents = manifest.read_dataset(os.fspath(data_dir), config)
        if split not in contents["splits"]:
            raise InputError(f"split={split} is not in {directory}; expected one of {', '.join(contents['splits'])}")
        shards = contents["splits"][split]["shards"]
        self._files = [(os.fspath(directory / shard["file"]), shard["sha256"]) for shard in shards]
        indexes = [read_index(file, shard) for (file, _), shard in zip(self._files, shards, strict=True)]
        self._rows = np.concatenate(indexes)
        self._part = np.repeat(np.arange(len(shards)), [len(rows) for rows in indexes])
        self._size_px = contents["settings"]["image_size_px"]
        self._is_png = contents["settings"]["image_encoding"] == "png"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, np.ndarray | int]:
        record, start, num_bytes, label = self._rows[i].tolist()
        file = self._files[self._part[i]]
        try:
            tfrecord.read_at(_open(*file), record)  # compares the checksum
            stored = _open(*file)[start : start + num_bytes]
            pixels = example.decode_png(stored) if self._is_png else np.array(stored)
            return {"image": pixels.reshape(self._size_px, self._size_px, 3), "label": label}
        except (tfrecord.CorruptRecord, ValueError) as error:
            raise manifest.corrupt_shard(file[0], f"the record of cell {i} is corrupt ({error})") from error


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
        cells = [self._cells[i] for i in index_shuffle(positions, (self._seed, epoch), len(self._cells) - 1).tolist()]
        return {"image": np.stack([cell["image"] for cell in cells]), "label": np.array([c["label"] for c in cells])}


@functools.cache
def _open(file: str, sha256: str) -> np.ndarray:
    """Maps a shard into the memory of this process; another shard of the same name has another sha256."""
    del sha256
    return np.asarray(np.memmap(file, np.uint8, "r"))


def index_shuffle(indices: np.ndarray, seed: tuple[int, int], max_index: int) -> np.ndarray:
    """The positions of some indices in a permutation of `0…max_index`: `tf.random.experimental.index_shuffle` in NumPy.

    A Simon cipher of four rounds permutes the numbers of a power of four; what it takes beyond the last cell is
    enciphered again. Source: tensorflow/core/kernels/random_index_shuffle.cc; R. Beaulieu et al., "The SIMON and SPECK
    Families of Lightweight Block Ciphers", 2013.

    Args:
      indices: integers [n] in 0…max_index.
      seed: two integers, of which the lowest 32 bits count. In a training: its seed, and the epoch from 0.
      max_index: 0…2⁶³−1.

    Returns int64 [n], equal to TensorFlow's. Raises ValueError if an index is out of range.
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
