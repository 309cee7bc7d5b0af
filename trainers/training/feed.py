"""From batches of cells to what a training step takes: drawn augmentation and weights of the classes beside them."""

from collections.abc import Mapping

import tensorflow as tf

from trainers.augmentation import params
from trainers.augmentation.ranges import Ranges

_PREFETCHED_BATCHES = 2


def with_draws(
    batches: tf.data.Dataset, ranges: Ranges, image_size_px: int, seed: int, start_step: int
) -> tf.data.Dataset:
    """Puts the augmentation's numbers beside each batch's images.

    Args:
      batches: (image, label) from `start_step` on.
      ranges: how far cells are changed.
      image_size_px: side of the images.
      seed: of the run.
      start_step: step of the first batch, counted over all epochs.

    Returns:
      a data set of ({"image", "transform", "stain"}, label), see `augmentation.augmented`.
    """

    def draw(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        image, label = batch
        transform, stain = params.draw(ranges, image_size_px, seed, step, tf.shape(label)[0])
        return {"image": image, "transform": transform, "stain": stain}, label

    steps = tf.data.Dataset.range(start_step, tf.int64.max)
    return tf.data.Dataset.zip(steps, batches).map(draw).prefetch(_PREFETCHED_BATCHES)


def with_class_weights(batches: tf.data.Dataset, class_weights: Mapping[int, float]) -> tf.data.Dataset:
    """Puts each cell's weight behind its label.

    Args:
      batches: (anything, label).
      class_weights: label -> weight.
    """
    weights = tf.constant([class_weights[label] for label in sorted(class_weights)], tf.float32)
    return batches.map(lambda image, label: (image, label, tf.gather(weights, label)))


def whole_batches(batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Leaves out batches that are smaller, which several devices could not share evenly."""
    return batches.filter(lambda _, label: tf.shape(label)[0] == batch_size)
