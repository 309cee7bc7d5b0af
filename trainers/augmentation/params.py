"""The random numbers of augmentation, sampled from (seed, step) without state: any step can be the first.

They are sampled in the input pipeline, on the CPU, so that they are the same for every backend.
"""

import math

import tensorflow as tf

from trainers.augmentation.ranges import FLIPS, Ranges

_STREAM = 0x5EED  # keeps these numbers apart from those that decide the order
_NUM_UNIFORM = 18


def sample(
    ranges: Ranges,
    image_size_px: int,
    seed: int,
    step: tf.Tensor,
    num_cells: tf.Tensor,
    num_steps: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples the numbers for a batch, or the batches of several steps, of the run of some seed.

    Args:
      ranges, image_size_px: how far cells are changed, and the side of their images.
      seed, step: of the run; int64 scalar, counted over all epochs from 0.
      num_cells: int scalar, cells in a batch.
      num_steps: int64 scalar, how many steps from there on.

    Returns:
      transforms float32 [num_cells, 8] and stains float32 [num_cells, 15], see `trainers.augmentation.apply`; with
      `num_steps` [num_steps, num_cells, …], the same numbers as step by step.
    """
    if num_steps is not None:
        uniform = tf.map_fn(
            lambda step: _uniform(seed, step, num_cells), step + tf.range(num_steps), fn_output_signature=tf.float32
        )
        sampled = _transforms_and_stains(ranges, image_size_px, tf.reshape(uniform, [-1, _NUM_UNIFORM]))
        transforms, stains = (tf.reshape(values, [num_steps, -1, values.shape[1]]) for values in sampled)
        return transforms, stains
    return _transforms_and_stains(ranges, image_size_px, _uniform(seed, step, num_cells))


def _uniform(seed: int, step: tf.Tensor, num_cells: tf.Tensor) -> tf.Tensor:
    key = tf.stack([tf.constant(seed ^ _STREAM, tf.int64), tf.cast(step, tf.int64)])
    # The algorithm is named because TensorFlow's own choice may differ from device to device.
    return tf.random.stateless_uniform([num_cells, _NUM_UNIFORM], key, -1.0, 1.0, alg="philox")


def _transforms_and_stains(ranges: Ranges, image_size_px: int, uniform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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
    gains = 1 + uniform[:, None, 9:12] * ranges.stain_gain
    colours = _hue_rotations(uniform[:, 8] * ranges.stain_hue_degrees) * gains
    contrasts = 1 + uniform[:, 12:15] * ranges.stain_contrast
    offsets = uniform[:, 15:18] * ranges.stain_offset * 255
    return transforms, tf.concat([tf.reshape(colours, [-1, 9]), contrasts, offsets], axis=1)


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
    """Combines rotation, shift, shear, zoom about the centre, then flips, into one map from result to source.

    Order and directions are those of Keras's `ImageDataGenerator`, which the original used. Changes are float32 [n],
    flips bool [n], the map float32 [n, 8], see `trainers.augmentation.apply.warp`.
    """
    theta, phi = (tf.cast(degrees, tf.float32) * (math.pi / 180) for degrees in (rotation_degrees, shear_degrees))
    zero, one = tf.zeros_like(theta), tf.ones_like(theta)
    centre = (image_size_px - 1) / 2

    def matrix(*rows: tuple[tf.Tensor, ...]) -> tf.Tensor:
        return tf.stack([tf.stack(row, axis=-1) for row in (*rows, (zero, zero, one))], axis=-2)

    sign_x, sign_y = (1 - 2 * tf.cast(flip, tf.float32) for flip in (flip_x, flip_y))
    product = matrix((one, zero, one * centre), (zero, one, one * centre))
    for factor in (
        matrix((tf.cos(theta), -tf.sin(theta), zero), (tf.sin(theta), tf.cos(theta), zero)),
        matrix((one, zero, shift_x_px), (zero, one, shift_y_px)),
        matrix((one, -tf.sin(phi), zero), (zero, tf.cos(phi), zero)),
        matrix((zoom_x, zero, zero), (zero, zoom_y, zero)),
        matrix((one, zero, -one * centre), (zero, one, -one * centre)),
        matrix((sign_x, zero, (1 - sign_x) * centre), (zero, sign_y, (1 - sign_y) * centre)),
    ):
        product = tf.matmul(product, factor)
    return tf.reshape(product, [-1, 9])[:, :8]


def _hue_rotations(degrees: tf.Tensor) -> tf.Tensor:
    """Rotations of RGB about the grey axis (Rodrigues' formula): float32 [n] -> [n, 3, 3]."""
    angle = degrees[:, None, None] * (math.pi / 180)
    cross = 1 / math.sqrt(3) * tf.constant([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return tf.cos(angle) * tf.eye(3) + tf.sin(angle) * cross + (1 - tf.cos(angle)) / 3 * tf.ones([3, 3])
