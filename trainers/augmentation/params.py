"""The numbers that augmentation needs, drawn from (seed, step) without state: any step can be the first.

In: how far each change may go. Out: for each cell of a batch one affine transform and one change of its colours, which
`trainers.augmentation.apply` applies on the device. Drawn in the input pipeline, on the CPU, whatever the backend.
"""

import math

import tensorflow as tf

from trainers.augmentation.ranges import FLIPS, Ranges

_NUM_TRANSFORM = 8
_STREAM = 0x5EED  # keeps these numbers apart from those that decide on the order
_NUM_UNIFORM = 18
_HUE_AXIS = 1 / math.sqrt(3)


def draw(ranges: Ranges, image_size_px: int, seed: int, step: tf.Tensor, num_cells: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Draws for a batch.

    Args:
      ranges: how far.
      image_size_px: side of the images.
      seed: of the run.
      step: int64 scalar, counted over all epochs from 0.
      num_cells: int scalar, of the batch.

    Returns:
      transforms float32 [num_cells, 8] and stains float32 [num_cells, 15], see `trainers.augmentation.apply`.
    """
    key = tf.stack([tf.constant(seed ^ _STREAM, tf.int64), tf.cast(step, tf.int64)])
    # The algorithm is named, since the one chosen by itself may differ from device to device.
    uniform = tf.random.stateless_uniform([num_cells, _NUM_UNIFORM], key, -1.0, 1.0, alg="philox")
    u = tf.unstack(uniform[:, :8], axis=1)
    flips = FLIPS.index(ranges.flip)
    transforms = compose(
        image_size_px,
        rotation_degrees=u[0] * ranges.rotation_degrees,
        zoom_x=1 + u[1] * ranges.zoom,
        zoom_y=1 + u[2] * ranges.zoom,
        shift_x_px=u[3] * ranges.shift * image_size_px,
        shift_y_px=u[4] * ranges.shift * image_size_px,
        shear_degrees=u[5] * ranges.shear_degrees,
        flip_x=(u[6] > 0) & (flips >= 1),
        flip_y=(u[7] > 0) & (flips >= 2),
    )
    stains = tf.concat(
        [
            tf.reshape(
                _hue(uniform[:, 8] * ranges.stain_hue_degrees) * (1 + uniform[:, None, 9:12] * ranges.stain_gain),
                [-1, 9],
            ),
            1 + uniform[:, 12:15] * ranges.stain_contrast,
            uniform[:, 15:18] * ranges.stain_offset * 255,
        ],
        axis=1,
    )
    return transforms, stains


def compose(
    image_size_px: int,
    *,
    rotation_degrees: tf.Tensor,
    zoom_x: tf.Tensor,
    zoom_y: tf.Tensor,
    shift_x_px: tf.Tensor,
    shift_y_px: tf.Tensor,
    shear_degrees: tf.Tensor,
    flip_x: tf.Tensor,
    flip_y: tf.Tensor,
) -> tf.Tensor:
    """Rotation, shift, shear, zoom about the image's centre, then flips, as one map from result to source.

    The order and the senses are those of Keras's `ImageDataGenerator`, which the original used.

    Args:
      image_size_px: side of the images.
      **changes: float32 [n] each; flips bool [n].

    Returns:
      float32 [n, 8], see `augmentation.warp`.
    """
    theta, phi = (tf.cast(degrees, tf.float32) * (math.pi / 180) for degrees in (rotation_degrees, shear_degrees))
    zero, one = tf.zeros_like(theta), tf.ones_like(theta)
    centre = (image_size_px - 1) / 2

    def matrix(*rows: tuple[tf.Tensor, ...]) -> tf.Tensor:
        return tf.stack([tf.stack(row, axis=-1) for row in (*rows, (zero, zero, one))], axis=-2)

    sign_x, sign_y = (1 - 2 * tf.cast(flip, tf.float32) for flip in (flip_x, flip_y))
    whole = matrix((one, zero, one * centre), (zero, one, one * centre))
    for factor in (
        matrix((tf.cos(theta), -tf.sin(theta), zero), (tf.sin(theta), tf.cos(theta), zero)),
        matrix((one, zero, shift_x_px), (zero, one, shift_y_px)),
        matrix((one, -tf.sin(phi), zero), (zero, tf.cos(phi), zero)),
        matrix((zoom_x, zero, zero), (zero, zoom_y, zero)),
        matrix((one, zero, -one * centre), (zero, one, -one * centre)),
        matrix((sign_x, zero, (1 - sign_x) * centre), (zero, sign_y, (1 - sign_y) * centre)),
    ):
        whole = tf.matmul(whole, factor)
    return tf.reshape(whole, [-1, 9])[:, :_NUM_TRANSFORM]


def _hue(degrees: tf.Tensor) -> tf.Tensor:
    """Turns of RGB about the grey axis (Rodrigues' formula): float32 [n] -> [n, 3, 3]."""
    angle = degrees[:, None, None] * (math.pi / 180)
    cross = _HUE_AXIS * tf.constant([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return tf.cos(angle) * tf.eye(3) + tf.sin(angle) * cross + (1 - tf.cos(angle)) / 3 * tf.ones([3, 3])
