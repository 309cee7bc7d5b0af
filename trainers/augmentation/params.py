"""The random numbers of augmentation, sampled from (seed, position) without state, on the CPU for every backend."""

import math

import numpy as np
import tensorflow as tf

from trainers.augmentation.ranges import FLIPS, Ranges

_STREAM = 0x5EED  # keeps these numbers apart from those that decide the order
_PHILOX = 1
_COUNTS_PER_CELL = 5  # of Philox, which makes four numbers each: 18 are needed
_STRANGER_STREAM = 0xA11E  # a stream of its own, so that what was sampled before there was `surroundings` stays
_STRANGER_COUNTS_PER_CELL = 4  # 16 numbers are needed
_DARKEST, _TINT = 0.3, 0.15  # of light surroundings: how much is taken from 255, from all channels and from each
_XY = tuple[tf.Tensor, tf.Tensor]
RAMP_CELLS = 20_000  # over the first of them they become more frequent, or a model learns nothing for epochs
_WITH_NEIGHBOURS = 0.7  # fraction of the cells with surroundings
_NEIGHBOUR_DISTANCE = (0.75, 1.1)  # from centre to centre, as a fraction of the image's side


def sample(ranges: Ranges, image_size_px: int, seed: int, position: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Samples the numbers for cells of a shape, [num_cells] or [num_steps, num_cells], whose positions follow one
    another from `position` on, int64: the step, counted over all epochs from 0, times the batch size.

    Returns float32 [*shape, ranges.num_numbers]: 8 of `apply.warp`, 15 of `apply.stain` and, if they are used, 12 of
    `apply.surround` and `apply.blur`.
    """
    uniform = _uniform(seed ^ _STREAM, _COUNTS_PER_CELL, position, shape)
    flips = FLIPS.index(ranges.flip)
    shift_px, is_flipped_x, is_flipped_y = ranges.shift * image_size_px, float(flips >= 1), float(flips >= 2)
    centres_and_spans = [
        (0, ranges.rotation_degrees),
        *[(1, ranges.zoom)] * 2,
        *[(0, shift_px)] * 2,
        (0, ranges.shear_degrees),
        (1 - is_flipped_x, is_flipped_x),
        (1 - is_flipped_y, is_flipped_y),
        (0, ranges.stain_hue_degrees),
        *[(1, ranges.stain_gain)] * 3,
        *[(1, ranges.stain_contrast)] * 3,
        *[(0, ranges.stain_offset * 255)] * 3,
    ]
    centres, spans = np.transpose(centres_and_spans).astype(np.float32)
    values = centres - spans + uniform[:, : len(spans)] * (2 * spans)
    rotation, zoom_x, zoom_y, shift_x, shift_y, shear, flip_x, flip_y, hue, *gains = tf.unstack(values[:, :12], axis=1)
    strangers = []
    if ranges.num_numbers > 23:
        scale, *strangers = _strangers(ranges, image_size_px, seed, position, shape)
        zoom_x, zoom_y = zoom_x * scale, zoom_y * scale
    zooms = tf.where(flip_x < 0, -zoom_x, zoom_x), tf.where(flip_y < 0, -zoom_y, zoom_y)
    transforms = compose(image_size_px, rotation, zooms, (shift_x, shift_y), shear)
    numbers = tf.concat([transforms, _hue_and_gain(hue, gains), values[:, 12:], *strangers], axis=1)
    return tf.reshape(numbers, tf.concat([shape, numbers.shape[1:]], 0))


def _uniform(key: int, counts_per_cell: int, position: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    # In one operation for all cells; `tf.random.stateless_uniform` would begin at one position for each seed.
    return tf.raw_ops.StatelessRandomUniformV2(
        shape=[tf.reduce_prod(shape), 4 * counts_per_cell],
        key=tf.constant([key], tf.uint64),
        counter=tf.stack([tf.cast(position * counts_per_cell, tf.uint64), tf.constant(0, tf.uint64)]),
        alg=_PHILOX,
    )


def _strangers(
    ranges: Ranges, image_size_px: int, seed: int, position: tf.Tensor, shape: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """What makes cells look like another laboratory's: the scale [n] by which they are smaller, exponents of density
    [n, 3], the numbers [n, 1 + 3 + 2 + 2] of `apply.surround`, and the part of the blur [n, 1].
    """
    uniform = _uniform(seed ^ _STRANGER_STREAM, _STRANGER_COUNTS_PER_CELL, position, shape)
    positions = tf.cast(position + tf.range(tf.shape(uniform, tf.int64)[0]), tf.float32)[:, None]
    ramp = tf.minimum(positions / RAMP_CELLS, 1)
    has_surroundings = tf.cast(uniform[:, :1] < ranges.surroundings * ramp, tf.float32)
    colour = 255 * (1 - _DARKEST * uniform[:, 1:2] - _TINT * uniform[:, 2:5])
    nearest, farthest = _NEIGHBOUR_DISTANCE
    is_out_of_sight = tf.cast(uniform[:, 5:6] > _WITH_NEIGHBOURS, tf.float32)
    distance = nearest + (farthest - nearest) * uniform[:, 7:8] + is_out_of_sight
    angle = 2 * math.pi * uniform[:, 6:7]
    neighbour = image_size_px * distance * tf.concat([tf.cos(angle), tf.sin(angle)], axis=1)
    scale = 1 + (ranges.margin * has_surroundings * uniform[:, 8:9])[:, 0]
    density = ranges.stain_density * has_surroundings * (2 * uniform[:, 10:14] - 1)
    exponents = tf.exp(density[:, :1] + density[:, 1:] / 2)
    copies = tf.round(uniform[:, 14:])
    return scale, exponents, has_surroundings, colour, neighbour, copies, ranges.blur * ramp * uniform[:, 9:10]


def compose(
    image_size_px: int, rotation_degrees: tf.Tensor, zooms: _XY, shifts_px: _XY, shear_degrees: tf.Tensor
) -> tf.Tensor:
    """Combines rotation, shift, shear and zoom about the centre into one map from result to source, see `apply.warp`.

    Order and directions are those of Keras's `ImageDataGenerator`, which the original used. Changes are float32 [n], of
    x and y, the map float32 [n, 8]; a negative zoom flips.
    """
    theta, phi = rotation_degrees * (math.pi / 180), shear_degrees * (math.pi / 180)
    centre = (image_size_px - 1) / 2
    cos, sin = tf.cos(theta), tf.sin(theta)
    (scale_x, scale_y), (shift_x_px, shift_y_px) = zooms, shifts_px
    # The product of the matrices; a shear by phi after the rotation turns the second axis by as much.
    a0, a1 = cos * scale_x, -tf.sin(theta + phi) * scale_y
    b0, b1 = sin * scale_x, tf.cos(theta + phi) * scale_y
    a2 = cos * shift_x_px - sin * shift_y_px + (1 - a0 - a1) * centre
    b2 = sin * shift_x_px + cos * shift_y_px + (1 - b0 - b1) * centre
    zero = tf.zeros_like(theta)
    return tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=-1)


def _hue_and_gain(degrees: tf.Tensor, gains: list[tf.Tensor]) -> tf.Tensor:
    """A rotation of RGB about the grey axis (Rodrigues' formula), behind gains: float32 [n, 9], row by row."""
    angle = degrees * (math.pi / 180)
    rest = (1 - tf.cos(angle)) / 3
    diagonal, turned = rest + tf.cos(angle), tf.sin(angle) / math.sqrt(3)
    rows = [[diagonal, rest - turned, rest + turned]]
    rows += [rows[0][-i:] + rows[0][:-i] for i in (1, 2)]  # each is the one above, moved on by a channel
    return tf.stack([entry * gain for row in rows for entry, gain in zip(row, gains, strict=True)], axis=-1)
