"""The images of a split in the memory of the device that trains: read once, then each batch is row numbers."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from pipeline.errors import InputError
from trainers.input_pipeline import batching
from trainers.tf_import import JAX


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
    """A model that takes row numbers, int32 [batch], of images, uint8 RGB [cells, size, size, 3], in their place.

    The given one has one input, or several by name, among them "image". Raises InputError if the device's memory has
    no room for a copy of the images.
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


def evaluation_rows(labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Every cell once, in the order of the records: batches of (row numbers int32 [n], labels int64 [n])."""
    rows = np.arange(len(labels), dtype=np.int32)
    return batching.with_options(tf.data.Dataset.from_tensor_slices((rows, labels)).batch(batch_size).prefetch(2))
