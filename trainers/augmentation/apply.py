"""Augmentation on the device: uint8 images and the numbers that `params` samples in, changed uint8 images out.

It belongs to the training step and is not part of the saved model. It uses Keras's operations alone, for any backend.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from matplotlib.figure import Figure

from pipeline import plot_style
from pipeline.cells import LABELS
from trainers.augmentation import params
from trainers.augmentation.ranges import FILLS, Ranges

_FILL_MODES = dict(zip(FILLS, ("constant", "nearest"), strict=True))
_NUM_CELLS, _NUM_VERSIONS = 5, 5  # in a preview


def augmented(model: keras.Model, ranges: Ranges, *, by_gathers: bool) -> keras.Model:
    """A model for training with the same weights that takes `image` and `augmentation`, of `params.sample`, and changes
    its images first; `by_gathers` is as of `warp`.
    """
    image = keras.Input(model.input_shape[1:], dtype="uint8", name="image")
    numbers = keras.Input((ranges.num_numbers,), dtype="float32", name="augmentation")
    changed = change(image, numbers, ranges.fill, by_gathers=by_gathers)
    return keras.Model({"image": image, "augmentation": numbers}, model(changed), name=f"{model.name}_augmented")


def change(images: keras.KerasTensor, numbers: keras.KerasTensor, fill: str, *, by_gathers: bool) -> keras.KerasTensor:
    """Images uint8 [batch, size, size, 3], changed by the numbers of `params.sample`; see the functions below."""
    transforms, stains, strangers = ops.split(numbers, [8, 23], axis=-1)
    images = ops.cast(images, "float32")
    if strangers.shape[-1]:
        exponents, surroundings, part = ops.split(ops.reshape(strangers, (-1, 1, 1, 12)), [3, 11], axis=-1)
        images = 255 * ops.exp(exponents * ops.log(images / 255))  # a quarter of the time of a power; 0 stays 0
        images = blur(surround(stain(images, stains), transforms, surroundings, fill, by_gathers), part)
    else:
        images = warp(stain(images, stains), transforms, fill, by_gathers=by_gathers)
    return ops.cast(ops.clip(ops.round(images), 0.0, 255.0), "uint8")


def surround(
    images: keras.KerasTensor, transforms: keras.KerasTensor, numbers: keras.KerasTensor, fill: str, by_gathers: bool
) -> keras.KerasTensor:
    """Warps cells, float32 RGB [batch, size, size, 3] on black, and puts some of them before plain light, where a
    neighbour may reach into the image; the result is in 0…255.

    A neighbour is the cell itself once more: it has the same stain, and its parasites do not change the label. Two
    further ones are the first one's image turned by 180° and mirrored at the diagonal.

    The numbers are float32 [batch, 1, 1, 8]: 1 for cells that get them, 0 for others; their colour in 0…255; how far
    the neighbour lies from the cell, x and y in pixels; 1 or 0 for each of the two further ones.
    """
    is_chosen, behind, neighbour, *copies = ops.split(numbers, [1, 4, 6, 7], axis=-1)
    outside = ops.cast(ops.max(images, axis=-1, keepdims=True) <= 0, "float32")
    # The outermost pixels of a cell are mixed with black, which would draw a dark line around it.
    rim = ops.max_pool(outside, _window(images), 1, "same")
    opaque = 1 - (outside + (rim - outside) * is_chosen)
    cells = ops.concatenate([ops.clip(images, 0.0, 255.0) * opaque, opaque], axis=-1)
    cells = warp(cells, transforms, fill, by_gathers=by_gathers)
    one, zero = ops.ones_like(is_chosen[:, 0, 0]), ops.zeros_like(is_chosen[:, 0, 0])
    x, y = ops.split(neighbour[:, 0, 0], 2, axis=-1)
    moved = ops.concatenate([one, zero, x, zero, one, y, zero, zero], axis=-1)
    first = warp(cells, moved, "black", by_gathers=by_gathers)
    neighbours = ops.maximum(first, first[:, ::-1, ::-1] * copies[0])
    neighbours = ops.maximum(neighbours, ops.transpose(first, (0, 2, 1, 3)) * copies[1])
    behind = neighbours[..., :3] + behind * (1 - neighbours[..., 3:])
    return cells[..., :3] + is_chosen * (1 - cells[..., 3:]) * behind


def blur(images: keras.KerasTensor, part: keras.KerasTensor) -> keras.KerasTensor:
    """Moves images [batch, size, size, 3] by a part, [batch, 1, 1, 1] in 0…1, of the way to blurred ones: two box
    filters of 5 pixels at 125 pixels are close to a Gaussian with a standard deviation of 2 pixels.
    """
    blurred, width = images, _window(images)
    for window in ((width, 1), (1, width)) * 2:
        blurred = ops.average_pool(blurred, window, 1, "same")
    return images + part * (blurred - images)


def _window(images: keras.KerasTensor) -> int:
    return images.shape[1] // 50 * 2 + 1


def warp(images: keras.KerasTensor, transforms: keras.KerasTensor, fill: str, *, by_gathers: bool) -> keras.KerasTensor:
    """Rotation, zoom, shift, shear and flip of each image, float32 [batch, size, size, channels], in one bilinear
    resampling: pixel (x, y) of the result, x to the right, y down, comes from (a0 x + a1 y + a2, b0 x + b1 y + b2).
    `transforms` are float32 [batch, 8], of which the last two are 0.

    By gathers, as XLA compiles it, or by Keras's `affine_transform`, which XLA cannot compile on TensorFlow but which
    is faster on a processor without XLA. They differ by rounding alone.
    """
    if not by_gathers:
        return ops.image.affine_transform(images, transforms, interpolation="bilinear", fill_mode=_FILL_MODES[fill])
    size, border = images.shape[1], int(fill == "black")
    # With a black frame around the image, the nearest pixel beyond the border is black.
    images = ops.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    side = size + 2 * border
    x = ops.arange(size, dtype="float32")
    y = ops.reshape(x, (size, 1))
    rows = ops.reshape(transforms, (-1, 8, 1, 1))

    def pixel_and_fraction(first: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        source = rows[:, first] * x + rows[:, first + 1] * y + rows[:, first + 2] + border
        source = ops.clip(source, 0, side - 1)
        pixel = ops.minimum(ops.floor(source), side - 2)  # so that the next pixel is one of the image
        return ops.cast(pixel, "int32"), ops.expand_dims(source - pixel, -1)

    (left, fraction_x), (top, fraction_y) = pixel_and_fraction(0), pixel_and_fraction(3)
    pixels = ops.reshape(images, (-1, images.shape[-1]))
    number = ops.cumsum(ops.ones_like(transforms[:, 0], dtype="int32")) - 1  # of the image, in a batch of any size
    corner = (ops.reshape(number, (-1, 1, 1)) * side + top) * side + left

    def row_at(offset: int) -> keras.KerasTensor:
        left, right = ops.take(pixels, corner + offset, axis=0), ops.take(pixels, corner + offset + 1, axis=0)
        return left + (right - left) * fraction_x

    above, below = row_at(0), row_at(side)
    return above + (below - above) * fraction_y


def stain(images: keras.KerasTensor, stains: keras.KerasTensor) -> keras.KerasTensor:
    """Changes stain and light: contrast about the cell's mean colour, then gain and hue, then an offset.

    Images are float32 RGB [batch, height, width, 3] in 0…255, not clipped in the result; pixels of 0 in all channels
    stay so. `stains` are float32 [batch, 15]: a 3×3 matrix of gain and hue row by row, contrast and offset per channel.
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


def save_preview(images: np.ndarray, labels: np.ndarray, ranges: Ranges, seed: int, path: Path) -> None:
    """Plots cells, uint8 RGB [cells, size, size, 3], the first few of both classes, with augmented versions of each."""
    shown = np.concatenate([np.flatnonzero(labels == label)[:3] for label in (1, 0)])[:_NUM_CELLS]
    position, shape = tf.constant(params.RAMP_CELLS, tf.int64), tf.constant([len(shown) * _NUM_VERSIONS])
    numbers = params.sample(ranges, images.shape[1], seed, position, shape)
    repeated = np.tile(images[shown], (_NUM_VERSIONS, 1, 1, 1))  # in this order neighbours in the batch are others
    changed = np.asarray(change(repeated, np.asarray(numbers), ranges.fill, by_gathers=False))
    with plot_style.style():
        figure = Figure(figsize=(1.5 * (1 + _NUM_VERSIONS), 1.5 * len(shown) + 0.3))
        axes = figure.subplots(len(shown), 1 + _NUM_VERSIONS, squeeze=False)
        for number, (row, cell) in enumerate(zip(axes, shown, strict=True)):
            row[0].set_ylabel(LABELS[labels[cell]], fontsize=9)
            for axis, image in zip(row, [images[cell], *changed[number :: len(shown)]], strict=True):
                axis.imshow(image)
                axis.set(xticks=[], yticks=[])
        for number, axis in enumerate(axes[0]):
            axis.set_title(f"version {number}" if number else "as stored", fontsize=9)
        plot_style.save(figure, path, dpi=100)
