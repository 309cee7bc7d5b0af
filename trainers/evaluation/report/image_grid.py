"""Cells to look at: the worst misclassified ones with Grad-CAM, and suspected label errors."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from pipeline.cells import LABELS
from pipeline.label_list import LabelList
from pipeline.plot_style import optional
from trainers.data import DataSet, Split
from trainers.evaluation import predictions
from trainers.evaluation.metrics.label_issues import LabelIssue
from trainers.evaluation.metrics.metrics import THRESHOLD
from trainers.evaluation.predictions import ModelPredictions, Predictions
from trainers.evaluation.report import gradcam, plots

MAX_CELLS = 16
TAG = "misclassified validation cells"
_COLUMNS = 4
_MAX_NAME = 36  # characters


class GridCell(NamedTuple):
    """A cell of the grid."""

    filename: str  # path from the class folder on
    label: str
    probability: float  # of being parasitized
    image: np.ndarray  # uint8 RGB [size, size, 3]
    heatmap: np.ndarray | None = None  # the same under Grad-CAM; None without


def worst_misclassified(cells: Predictions) -> list[int]:
    """Indices of the cells that a model misclassifies most confidently, worst first, at most `MAX_CELLS`.

    File names order cells of equal probability.
    """
    wrong = np.flatnonzero((cells.probabilities >= THRESHOLD) != (cells.labels == 1))
    distance = np.abs(cells.probabilities - cells.labels)[wrong]
    return wrong[np.lexsort((cells.filenames[wrong], -distance))][:MAX_CELLS].tolist()


def collect(
    model: ModelPredictions, indices: Sequence[int], data_set: DataSet, failures: dict[str, str] | None = None
) -> list[GridCell]:
    """Reads the images of some cells, by index.

    Given `failures` (see `optional`), it also computes Grad-CAM of the run that predicted each cell.
    """
    labels, probabilities, filenames, _ = model.predictions
    cells: dict[int, GridCell] = {}
    for number, run in enumerate(model.model_runs.runs):
        own = [i for i in indices if model.run_index[i] == number]
        if not own:
            continue
        images = predictions.fetch_images(data_set.open_split(run.expression), filenames[own].tolist())
        maps = None
        if failures is not None:
            with optional(f"Grad-CAM of {model.name}", failures):
                maps = gradcam.heatmaps(predictions.load_model(run.path), images)
        overlays = [None] * len(own) if maps is None else list(gradcam.overlay(images, maps))
        for i, image, overlay in zip(own, images, overlays, strict=True):
            cells[i] = GridCell(str(filenames[i]), LABELS[labels[i]], float(probabilities[i]), image, overlay)
    return [cells[i] for i in indices]


def collect_issues(
    model: ModelPredictions, issues: Sequence[LabelIssue], disputed: LabelList | None, data_set: DataSet
) -> list[GridCell]:
    """Reads the images of the first label issues, at most `MAX_CELLS`; the label says which are in a list."""
    index = {name: i for i, name in enumerate(model.predictions.filenames.tolist())}
    first = issues[:MAX_CELLS]
    cells = collect(model, [index[issue.filename] for issue in first], data_set)
    return [
        cell._replace(
            label=issue.label + (", disputed" if disputed and issue.filename in disputed.labels else ""),
            probability=issue.probability,
        )
        for cell, issue in zip(cells, first, strict=True)
    ]


@plots.styled
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
        axis.set_title(f"{short}\nlabel {cell.label}, p(parasitized) {cell.probability:.3f}", fontsize=8)
    return figure


def log_misclassified(cells: Predictions, split: Split, folder: Path, step: int) -> None:
    """Writes the cells of a split that are misclassified most confidently, if any, as an image for TensorBoard.

    The folder is that of its event files, the step such as the epoch.
    """
    worst = worst_misclassified(cells)
    if not worst:
        return
    filenames = cells.filenames[worst].tolist()
    labels = [LABELS[label] for label in cells.labels[worst]]
    images = predictions.fetch_images(split, filenames)
    png = io.BytesIO()
    plots.save(plot(list(map(GridCell, filenames, labels, cells.probabilities[worst].tolist(), images)), TAG), png)
    with tf.summary.create_file_writer(str(folder)).as_default(step):
        tf.summary.image(TAG, tf.io.decode_png(png.getvalue(), channels=3)[tf.newaxis])
        tf.summary.flush()
