"""Cells by index and shuffled batches by step, for PyTorch, Grain and JAX: neither TensorFlow nor TFDS is needed.

To PyTorch both classes are map-style data sets, to Grain random-access sources. They can be sent to worker processes.
"""

import functools
import os

import numpy as np

from pipeline.errors import InputError
from pipeline.records import image, manifest, tfrecord
from pipeline.records.index import read_index
from pipeline.records.index_shuffle import index_shuffle


class Cells:
    """The cells of a split on a local disk: `cells[i]` is {"image": uint8 RGB [size, size, 3], "label": 0 or 1}.

    Args:
      data_dir: root of the data sets, as given to pipeline.preprocess.
      split: name of a split of the config.
      config: of the data set.

    Raises:
      InputError: if there is no such split, or now or at `cells[i]`, a shard is not what the manifest says.
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
            pixels = image.decode_png(stored) if self._is_png else np.array(stored)
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
