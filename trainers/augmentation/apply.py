"""Augmentation on the device: uint8 images and the numbers that `params` samples in, changed uint8 images out.

It belongs to the training step and is not part of the saved model. The step uses Keras's public operations alone, for
any backend.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from matplotlib.figure import Figure

from pipeline import plot_style
from trainers.augmentation import params
from trainers.augmentation.ranges import FILLS, Ranges

_FILL_MODES = dict(zip(FILLS, ("constant", "nearest"), strict=True))
_NUM_VERSIONS = 5  # in a preview


def augmented(model: keras.Model, fill: str) -> keras.Model:
    """A model for training that changes its images first; it shares all weights with `model`.

    Args:
      model: uint8 RGB [batch, size, size, 3] -> probability [batch, 1].
      fill: what lies beyond the border, see `ranges.FILLS`.

    Returns:
      a model of the inputs `image` as before, `transform` float32 [batch, 8] and `stain` float32 [batch, 15].
    """
    image = keras.Input(model.input_shape[1:], dtype="uint8", name="image")
    transform = keras.Input((8,), dtype="float32", name="transform")
    stain_params = keras.Input((15,), dtype="float32", name="stain")
    changed = warp(stain(ops.cast(image, "float32"), stain_params), transform, fill)
    return keras.Model(
        {"image": image, "transform": transform, "stain": stain_params},
        model(to_uint8(changed)),
        name=f"{model.name}_augmented",
    )


def warp(images: keras.KerasTensor, transforms: keras.KerasTensor, fill: str) -> keras.KerasTensor:
    """Rotation, zoom, shift, shear and flip of each image as one bilinear resampling.

    Args:
      images: float32 [batch, height, width, channels], as the result.
      transforms: float32 [batch, 8], from a pixel of the result to the point of the source it is taken from:
        (x, y) ← (a0 x + a1 y + a2, b0 x + b1 y + b2), in pixels, x to the right, y down.
      fill: see `ranges.FILLS`.
    """
    return ops.image.affine_transform(images, transforms, interpolation="bilinear", fill_mode=_FILL_MODES[fill])


def stain(images: keras.KerasTensor, stains: keras.KerasTensor) -> keras.KerasTensor:
    """Changes stain and light: contrast about the cell's mean colour, then gain and hue, then an offset.

    The black background, where all channels are 0, stays black.

    Args:
      images: float32 RGB [batch, height, width, 3] in 0…255; the result is not clipped.
      stains: float32 [batch, 15]: a 3×3 matrix of gain and hue row by row, contrast per channel, offset per channel
        in 0…255.
    """
    matrix = ops.reshape(stains[:, :9], (-1, 3, 3))
    contrast, offset = stains[:, 9:12], stains[:, 12:15]
    is_cell = ops.cast(ops.max(images, axis=-1, keepdims=True) > 0, "float32")
    mean = ops.sum(images, axis=(1, 2)) / ops.maximum(ops.sum(is_cell, axis=(1, 2)), 1.0)
    # All of it is one affine map of the colours: matrix (contrast (x - mean) + mean) + offset.
    slope = matrix * ops.expand_dims(contrast, 1)
    shift = ops.sum(matrix * ops.expand_dims((1 - contrast) * mean, 1), axis=-1) + offset
    pixels = ops.reshape(images, (-1, images.shape[1] * images.shape[2], 3))
    changed = ops.matmul(pixels, ops.transpose(slope, (0, 2, 1))) + ops.expand_dims(shift, 1)
    return ops.reshape(changed, (-1, *images.shape[1:])) * is_cell


def to_uint8(images: keras.KerasTensor) -> keras.KerasTensor:
    """Rounds and clips to uint8 in 0…255, which the saved model takes."""
    return ops.cast(ops.clip(ops.round(images), 0.0, 255.0), "uint8")


def save_preview(image: np.ndarray, ranges: Ranges, seed: int, path: Path) -> None:
    """Plots a cell, uint8 RGB [size, size, 3], and five augmented versions of it: do they still look like cells?"""
    step = tf.constant(0, tf.int64)
    transforms, stains = params.sample(ranges, image.shape[0], seed, step, tf.constant(_NUM_VERSIONS))
    images = np.repeat(image[None].astype(np.float32), _NUM_VERSIONS, axis=0)
    changed = warp(stain(images, np.asarray(stains)), np.asarray(transforms), ranges.fill)
    versions = [image, *np.asarray(to_uint8(changed))]
    with plot_style.optional(path.name), plot_style.style():
        figure = Figure(figsize=(2 * len(versions), 2.3))
        for number, axis in enumerate(figure.subplots(1, len(versions))):
            axis.imshow(versions[number])
            axis.set_title(number or "as stored", fontsize=9)
            axis.axis("off")
        plot_style.save(figure, path, dpi=100)
