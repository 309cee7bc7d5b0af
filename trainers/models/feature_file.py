"""Features of a split in files, filled block by block, so that a job that was killed continues with what is missing.

    features.npy     float16 [cells, num_features]
    labels.npy       int64 [cells]
    progress.json    what they are of, and the sha256 of each block that is whole; written after the block, renamed

Rows are in the order of the split's records. A block that is not what its checksum says is missing again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import InputError

_FEATURES, _LABELS, _PROGRESS = "features.npy", "labels.npy", "progress.json"


class Columns(NamedTuple):
    """Memory-mapped features of a split.

    Attributes:
      values: float16 [cells, num_features].
      labels: int64 [cells].
    """

    values: np.memmap
    labels: np.memmap


class FeatureFile:
    """The features of one split, as far as they are computed.

    Args:
      folder: for the files; made if missing.
      identity: JSON values that tell what the features are of; files of something else are replaced.
      num_cells, num_features: the size.
      block_cells: cells a block.

    Raises:
      InputError: if the folder cannot be read or written.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], num_cells: int, num_features: int, block_cells: int
    ) -> None:
        self._folder, self._num_cells, self._block_cells = folder, num_cells, block_cells
        self._identity = {**identity, "num_cells": num_cells, "num_features": num_features, "block_cells": block_cells}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            known = self._read_progress()
            if known is None:
                _create(folder / _FEATURES, (num_cells, num_features), np.float16)
                _create(folder / _LABELS, (num_cells,), np.int64)
            self._checksums = known or {}
            columns = self.columns()
            self._checksums = {
                start: checksum
                for start, checksum in self._checksums.items()
                if checksum == _checksum(*(column[start : start + block_cells] for column in columns))
            }
        except OSError as error:
            raise self._unusable(error) from error

    def missing(self) -> list[tuple[int, int]]:
        """Rows (start, stop) of the blocks that are not whole."""
        return [
            (start, min(start + self._block_cells, self._num_cells))
            for start in range(0, self._num_cells, self._block_cells)
            if start not in self._checksums
        ]

    def write(self, start: int, values: np.ndarray, labels: np.ndarray) -> None:
        """Writes a whole block.

        Args:
          start: see `missing`.
          values: float16 [n, num_features].
          labels: int64 [n].

        Raises:
          InputError: if the disk is full or refuses.
        """
        try:
            # Not through the memory map: there a full disk ends the process instead of raising.
            for name, column, rows in zip((_FEATURES, _LABELS), self.columns(), (values, labels), strict=True):
                with (self._folder / name).open("r+b") as file:
                    file.seek(column.offset + start * column[:1].nbytes)
                    file.write(np.ascontiguousarray(rows, column.dtype).data)
            self._checksums[start] = _checksum(values, labels)
            partial = self._folder / f"{_PROGRESS}.partial"
            partial.write_text(json.dumps({**self._identity, "blocks": self._checksums}, indent=1) + "\n")
            partial.replace(self._folder / _PROGRESS)
        except OSError as error:
            raise self._unusable(error) from error

    def columns(self) -> Columns:
        """The arrays, memory-mapped; rows of missing blocks are 0."""
        return Columns(*(np.load(self._folder / name, mmap_mode="r") for name in (_FEATURES, _LABELS)))

    def _read_progress(self) -> dict[int, str] | None:
        """Checksums by a block's first row; None where files are missing, of something else or not readable."""
        try:
            progress = json.loads((self._folder / _PROGRESS).read_text())
            blocks = progress.pop("blocks")
            columns = self.columns()
            shapes = ((self._num_cells, self._identity["num_features"]), (self._num_cells,))
            if progress != self._identity or tuple(column.shape for column in columns) != shapes:
                return None
            return {int(start): checksum for start, checksum in blocks.items()}
        except (FileNotFoundError, EOFError, ValueError, KeyError, AttributeError, TypeError):
            return None

    def _unusable(self, error: OSError) -> InputError:
        return InputError(
            f"{self._folder} cannot hold the features: {error}; free the disk or give another --run_dir; the same "
            "command continues where this one stopped"
        )


def _create(path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """A .npy file of zeros, sparse where the file system can."""
    np.lib.format.open_memmap(path, "w+", dtype, shape)


def _checksum(values: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(values).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
