"""`tf.random.experimental.index_shuffle` in NumPy: the order of a training's cells without TensorFlow.

A Simon cipher of four rounds permutes the numbers of a power of four; what it takes beyond the last cell is enciphered
again. Source: tensorflow/core/kernels/random_index_shuffle.cc; R. Beaulieu et al., "The SIMON and SPECK Families of
Lightweight Block Ciphers", 2013.
"""

import math

import numpy as np

_FIRST_KEY = 498247692  # TensorFlow's, before the two words of the seed
_MIN_BLOCK_BITS = 16
_SMALL = 1 << 12


def index_shuffle(indices: np.ndarray, seed: tuple[int, int], max_index: int) -> np.ndarray:
    """The positions of some indices in the permutation of `0…max_index` that a seed decides.

    Args:
      indices: integers [n] in 0…max_index.
      seed: two integers, of which the lowest 32 bits count. In a training: its seed, and the epoch from 0.
      max_index: 0…2⁶³−1.

    Returns:
      int64 [n], equal to TensorFlow's.

    Raises:
      ValueError: if an index is out of range.
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
