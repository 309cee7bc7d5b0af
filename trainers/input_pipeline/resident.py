"""A complete split in memory, and in that of the device that trains, where each batch is row numbers.

It is copied out of memory maps by several threads, or read record by record where shards have no index or lie on an
object store. Both verify checksums and counts.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from pipeline.errors import InputError
from pipeline.records import example, index
from pipeline.terminal import progress_bar
from trainers.data import Split
from trainers.tf_import import JAX

_CELLS_PER_TASK = 64


class Cells(NamedTuple):
    """A split in memory, in the order of its records."""

    images: np.ndarray  # uint8 RGB [cells, size, size, 3] in 0…255
    labels: np.ndarray  # int64 [cells]


def load(split: Split) -> Cells:
    """Reads a split into memory; InputError if a shard is missing or is not what the data set says."""
    size = split.image_size_px
    images = _zeros(split.num_bytes).reshape(split.num_cells, size, size, 3)
    cells = Cells(images, np.zeros(split.num_cells, np.int64))
    with progress_bar(split.num_cells, f"reading {split.expression}", "cells") as bar:
        if not split.is_mappable:
            for i, (cell, pixels) in enumerate(read_cells(split)):
                cells.images[i], cells.labels[i] = pixels, cell.label
                bar.update()
            return cells
        source = split.mapped()
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
    """Yields every cell with its image, uint8 RGB [size, size, 3]; InputError at the first fault of record or shard."""
    for part in zip(split.files, split.skips, split.takes, strict=True):
        yield from index.read_cells(*part, split.image_size_px, split.is_png)


def _zeros(num_bytes: int) -> np.ndarray:
    """Fresh memory in large pages where the system has them: a random gather misses fewer of them."""
    pages = mmap.mmap(-1, num_bytes)
    with contextlib.suppress(AttributeError, OSError):  # not on Linux, or a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


class CellsOnDevice(keras.layers.Layer):
    """Row numbers int32 [batch] -> images of a split, uint8 RGB [batch, size, size, 3]."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(name="cells_on_device", dtype="uint8")
        # A variable is an argument of the compiled step; a tensor would be a constant in it.
        self._images = self.add_weight(
            name="images",
            shape=images.shape,
            initializer=lambda *_, **__: ops.convert_to_tensor(images),
            trainable=False,
        )

    @property
    def weights(self) -> list[keras.Variable]:
        return []  # the images are in `variables`, where the step finds them, but are nothing to look at or to save

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}  # for TensorBoard; a layer is not made again from it

    def call(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        if keras.backend.backend() == JAX:
            return ops.take(self._images, rows, axis=0)
        return tf.gather(self._images.value, rows)  # of bytes, TensorFlow's GPUs can gather from a variable alone


def on_device(model: keras.Model, images: np.ndarray) -> keras.Model:
    """A model that takes row numbers, int32 [batch], of images, uint8 RGB [cells, size, size, 3], in the place of the
    input of another, or of its input "image"; InputError if the device's memory has no room for them.
    """
    row = keras.Input((), dtype="int32", name="image")
    try:
        cells = CellsOnDevice(images)
    except (tf.errors.OpError, RuntimeError) as error:  # RuntimeError is JAX's
        raise InputError(
            f"--input=device could not copy {images.nbytes / 1e9:.2f} GB of images to the device "
            f"({str(error).partition(chr(10))[0]:.120}); give --input=resident or --input=mapped"
        ) from error
    image = cells(row)
    if not isinstance(model.input, dict):
        return keras.Model(row, model(image), name=f"{model.name}_on_device")
    others = {
        name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name)
        for name, tensor in model.input.items()
        if name != "image"
    }
    return keras.Model({"image": row, **others}, model({"image": image, **others}), name=f"{model.name}_on_device")
