"""Cells to look at: the worst misclassified ones with Grad-CAM, and suspected label errors."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.cells import LABELS
from trainers.data import DataSet
from trainers.evaluation import predictions
from trainers.evaluation.metrics.metrics import THRESHOLD
from trainers.evaluation.predictions import ModelPredictions
from trainers.evaluation.report import gradcam, plots

MAX_CELLS = 16
TAG = "misclassified validation cells"
_COLUMNS = 4
_MAX_NAME = 36  # characters


class GridCell(NamedTuple):
    """A cell of the grid.

    Attributes:
      filename: path from the class folder on.
      label: its label.
      probability: of being parasitized.
      image: uint8 RGB [size, size, 3].
      heatmap: the same under Grad-CAM; None without.
    """

    filename: str
    label: str
    probability: float
    image: np.ndarray
    heatmap: np.ndarray | None = None


def worst_misclassified(labels: np.ndarray, probabilities: np.ndarray, filenames: np.ndarray) -> list[int]:
    """Indices of the cells that a model misclassifies most confidently, worst first, at most `MAX_CELLS`.

    Args:
      labels, probabilities, filenames: see `Predictions`; file names order cells of equal probability.
    """
    wrong = np.flatnonzero((probabilities >= THRESHOLD) != (labels == 1))
    distance = np.abs(probabilities - labels)[wrong]
    return wrong[np.lexsort((filenames[wrong], -distance))][:MAX_CELLS].tolist()


def collect(model: ModelPredictions, indices: Sequence[int], data_set: DataSet, with_heatmaps: bool) -> list[GridCell]:
    """Reads the images of some cells, by index, and with heatmaps computes Grad-CAM of the run that predicted each."""
    labels, probabilities, filenames, _ = model.predictions
    cells: dict[int, GridCell] = {}
    for number, run in enumerate(model.model_runs.runs):
        own = [i for i in indices if model.run_index[i] == number]
        if not own:
            continue
        images = predictions.fetch_images(data_set.open_split(run.expression), filenames[own].tolist())
        maps = gradcam.heatmaps(predictions.load_model(run.path), images) if with_heatmaps else None
        overlays = [None] * len(own) if maps is None else list(gradcam.overlay(images, maps))
        for i, image, overlay in zip(own, images, overlays, strict=True):
            cells[i] = GridCell(str(filenames[i]), LABELS[labels[i]], float(probabilities[i]), image, overlay)
    return [cells[i] for i in indices]


@rc_context(plots.STYLE)
def plot(cells: Sequence[GridCell], title: str) -> Figure:
    """At least one cell in a figure, each beside its heatmap."""
    rows = -(-len(cells) // _COLUMNS)
    figure = Figure(figsize=(3.4 * _COLUMNS, 0.5 + 2.3 * rows))
    figure.suptitle(title)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, cell in zip(axes.flat, cells, strict=False):
        axis.imshow(np.concatenate([cell.image, *([] if cell.heatmap is None else [cell.heatmap])], axis=1))
        name = cell.filename.rpartition("/")[2]
        short = name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME // 2 - 1]}…{name[-_MAX_NAME // 2 :]}"
        axis.set_title(f"{short}\nlabel {cell.label}, predicted {cell.probability:.3f}", fontsize=8)
    return figure


def log_misclassified(model: keras.Model, batches: Iterable[tuple[tf.Tensor, ...]], folder: Path, step: int) -> int:
    """Writes the validation cells that a model misclassifies most confidently as an image summary for TensorBoard.

    Args:
      model: uint8 RGB images -> probability [n, 1].
      batches: of (image, label, filename, …), see `batching.evaluation_batches`; read once.
      folder: of TensorBoard's event files; nothing is written if no cell is misclassified.
      step: such as the epoch.

    Returns:
      the number of cells in the image.
    """
    cells: list[GridCell] = []
    for image, label, filename, *_ in batches:
        labels, filenames = np.asarray(label), np.array([name.decode() for name in filename.numpy()])
        probabilities = np.asarray(model.predict_on_batch(image.numpy()), np.float64)[:, 0]
        for i in worst_misclassified(labels, probabilities, filenames):
            cells.append(GridCell(str(filenames[i]), LABELS[labels[i]], float(probabilities[i]), image[i].numpy()))
        cells = sorted(cells, key=lambda cell: (-abs(cell.probability - LABELS.index(cell.label)), cell.filename))
        del cells[MAX_CELLS:]
    if cells:
        png = io.BytesIO()
        plots.save(plot(cells, TAG), png)
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step):
            tf.summary.image(TAG, tf.io.decode_png(png.getvalue(), channels=3)[tf.newaxis])
        writer.close()
    return len(cells)
