"""The validation cells that a model is most wrong about, as a picture in TensorBoard: mislabelled or hard, one sees."""

import heapq
import io
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import keras
import matplotlib
import numpy as np
import tensorflow as tf

matplotlib.use("agg")  # no display needed
from matplotlib import pyplot as plt

from pipeline.cells import LABELS

TAG = "misclassified validation cells"
_AT_MOST = 16
_COLUMNS = 4
_CHARACTERS = 32  # a line over a cell
_THRESHOLD = 0.5


class Mistake(NamedTuple):
    """A cell that was called by the wrong name.

    Attributes:
      image: uint8 RGB [size, size, 3].
      label: 0 uninfected, 1 parasitized.
      probability: of being parasitized, as the model says.
      filename: of the cell.
    """

    image: np.ndarray
    label: int
    probability: float
    filename: str


def worst(model: keras.Model, batches: Iterable[tuple[tf.Tensor, ...]], at_most: int = _AT_MOST) -> list[Mistake]:
    """The misclassified cells, the most confidently wrong first.

    Args:
      model: uint8 RGB images -> probability [n, 1].
      batches: of (image, label, filename, …), see `input_pipeline.evaluation_batches`; read once.
      at_most: how many.
    """
    found: list[tuple[float, int, Mistake]] = []  # a heap, the least wrong on top; equal ones in the order of the cells
    position = 0
    for image, label, filename, *_ in batches:
        images, labels = np.asarray(image), np.asarray(label)
        probabilities = np.asarray(model.predict_on_batch(images), np.float64)[:, 0]
        for i in np.flatnonzero((probabilities >= _THRESHOLD) != labels):
            mistake = Mistake(images[i], int(labels[i]), float(probabilities[i]), filename[i].numpy().decode())
            heapq.heappush(found, (abs(mistake.probability - mistake.label), -(position + int(i)), mistake))
            if len(found) > at_most:
                heapq.heappop(found)
        position += len(labels)
    return [mistake for *_, mistake in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def draw(mistakes: list[Mistake]) -> bytes:
    """A sheet of cells, each with its label, the model's probability and its file; a PNG.

    Args:
      mistakes: at least one.
    """
    rows = -(-len(mistakes) // _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(3 * _COLUMNS, 3.7 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, mistake in zip(axes.flat, mistakes, strict=False):
        axis.imshow(mistake.image)
        name = textwrap.wrap(mistake.filename.rpartition("/")[2], _CHARACTERS)
        lines = [f"labelled {LABELS[mistake.label]}", f"p(parasitized) = {mistake.probability:.3f}", *name]
        axis.set_title("\n".join(lines), fontsize=9)
    png = io.BytesIO()
    figure.savefig(png, dpi=80, format="png")
    plt.close(figure)
    return png.getvalue()


def log(model: keras.Model, batches: Iterable[tuple[tf.Tensor, ...]], folder: Path, step: int) -> int:
    """Writes the worst mistakes as an image summary; nothing if there are none.

    Args:
      model, batches: see `worst`.
      folder: of TensorBoard's event files.
      step: such as the epoch.

    Returns:
      how many cells the picture shows.
    """
    mistakes = worst(model, batches)
    if mistakes:
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step):
            tf.summary.image(TAG, tf.io.decode_png(draw(mistakes), channels=3)[tf.newaxis])
        writer.close()
    return len(mistakes)
