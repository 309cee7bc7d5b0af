"""A preview of augmented cells: check before a long training whether they still look like cells."""

from pathlib import Path

import matplotlib
import numpy as np
import tensorflow as tf

matplotlib.use("agg")  # no display needed
from matplotlib import pyplot as plt

from trainers.augmentation import apply, params
from trainers.augmentation.ranges import Ranges

_NUM_VERSIONS = 5


def augment(image: np.ndarray, ranges: Ranges, seed: int, num_versions: int = _NUM_VERSIONS) -> np.ndarray:
    """Augmented versions of one cell, as the training step makes them.

    Args:
      image: uint8 RGB [size, size, 3].
      ranges: how far it is changed.
      seed: seed of the run.
      num_versions: how many.

    Returns:
      uint8 RGB [num_versions, size, size, 3].
    """
    step = tf.constant(0, tf.int64)
    transforms, stains = params.sample(ranges, image.shape[0], seed, step, tf.constant(num_versions))
    images = np.repeat(image[None].astype(np.float32), num_versions, axis=0)
    changed = apply.warp(apply.stain(images, np.asarray(stains)), np.asarray(transforms), ranges.fill)
    return np.asarray(apply.to_uint8(changed))


def save(image: np.ndarray, ranges: Ranges, seed: int, path: Path) -> None:
    """Plots a cell beside its augmented versions.

    Args:
      image, ranges, seed: see `augment`.
      path: PNG to write.
    """
    versions = [image, *augment(image, ranges, seed)]
    figure, axes = plt.subplots(1, len(versions), figsize=(2 * len(versions), 2.3), layout="constrained")
    for axis, version, title in zip(axes, versions, ["as stored", *range(1, len(versions))], strict=True):
        axis.imshow(version)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.savefig(path, dpi=100)
    plt.close(figure)
