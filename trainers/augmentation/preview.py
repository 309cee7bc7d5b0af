"""A preview of augmented cells: check before a long training whether they still look like cells."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from trainers.augmentation import apply, params
from trainers.augmentation.ranges import Ranges

_NUM_VERSIONS = 5


def save(image: np.ndarray, ranges: Ranges, seed: int, path: Path) -> None:
    """Plots a cell beside five augmented versions of it, as the training step makes them.

    Args:
      image: uint8 RGB [size, size, 3].
      ranges: how far it is changed.
      seed: seed of the run.
      path: PNG to write.
    """
    step = tf.constant(0, tf.int64)
    transforms, stains = params.sample(ranges, image.shape[0], seed, step, tf.constant(_NUM_VERSIONS))
    images = np.repeat(image[None].astype(np.float32), _NUM_VERSIONS, axis=0)
    changed = apply.warp(apply.stain(images, np.asarray(stains)), np.asarray(transforms), ranges.fill)
    versions = [image, *np.asarray(apply.to_uint8(changed))]
    figure = Figure(figsize=(2 * len(versions), 2.3), layout="constrained")
    for axis, version, title in zip(
        figure.subplots(1, len(versions)), versions, ["as stored", *range(1, len(versions))], strict=True
    ):
        axis.imshow(version)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.savefig(path, dpi=100)
