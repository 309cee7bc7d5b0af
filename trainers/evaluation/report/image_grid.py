"""Cells to look at: the worst misclassified ones with Grad-CAM, and suspected label errors.

Grad-CAM shows which parts of a cell a convolutional model's prediction depends on: Selvaraju et al., "Grad-CAM: Visual
Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib.figure import Figure

from pipeline.cells import LABELS
from pipeline.plot_style import optional
from trainers.data import DataSet, Split
from trainers.evaluation import predictions
from trainers.evaluation.metrics.label_issues import LabelIssue
from trainers.evaluation.metrics.metrics import THRESHOLD
from trainers.evaluation.predictions import ModelPredictions, Predictions
from trainers.evaluation.report import plots

MAX_CELLS = 16
TAG = "misclassified validation cells"
_COLUMNS = 4
_MAX_NAME = 36  # characters
_OPACITY = 0.45  # of a heatmap


class GridCell(NamedTuple):
    """A cell of the grid."""

    filename: str  # path from the class folder on
    label: str
    probability: float  # of being parasitized
    image: np.ndarray  # uint8 RGB [size, size, 3]
    heatmap: np.ndarray | None = None  # the same under Grad-CAM; None without


def worst_misclassified(cells: Predictions) -> list[int]:
    """Indices of the cells misclassified most confidently, at most `MAX_CELLS`, worst first, then by file name."""
    wrong = np.flatnonzero((cells.probabilities >= THRESHOLD) != (cells.labels == 1))
    distance = np.abs(cells.probabilities - cells.labels)[wrong]
    return wrong[np.lexsort((cells.filenames[wrong], -distance))][:MAX_CELLS].tolist()


def collect(
    model: ModelPredictions, indices: Sequence[int], data_set: DataSet, failures: dict[str, str] | None = None
) -> list[GridCell]:
    """Reads the images of some cells, by index; given `failures` (see `optional`), also their Grad-CAM."""
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
                maps = heatmaps(predictions.load_model(run.path), images)
        overlays = [None] * len(own) if maps is None else overlay(images, maps)
        for i, image, heatmap in zip(own, images, overlays, strict=True):
            cells[i] = GridCell(str(filenames[i]), LABELS[labels[i]], float(probabilities[i]), image, heatmap)
    return [cells[i] for i in indices]


def collect_issues(model: ModelPredictions, issues: Sequence[LabelIssue], data_set: DataSet) -> list[GridCell]:
    """Reads the images of the first label issues, at most `MAX_CELLS`."""
    index = {name: i for i, name in enumerate(model.predictions.filenames.tolist())}
    first = issues[:MAX_CELLS]
    cells = collect(model, [index[issue.filename] for issue in first], data_set)
    return [cell._replace(probability=issue.probability) for cell, issue in zip(cells, first, strict=True)]


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
    """Writes the worst misclassified cells of a split, if any, as an image into TensorBoard's folder, at a step."""
    worst = worst_misclassified(cells)
    if not worst:
        return
    filenames, png = cells.filenames[worst].tolist(), io.BytesIO()
    labels, probabilities = np.array(LABELS)[cells.labels[worst]], cells.probabilities[worst]
    grid = map(GridCell, filenames, labels, probabilities, predictions.fetch_images(split, filenames))
    plots.save(plot(list(grid), TAG), png)
    with tf.summary.create_file_writer(str(folder)).as_default(step):
        tf.summary.image(TAG, tf.io.decode_png(png.getvalue(), channels=3)[tf.newaxis])
        tf.summary.flush()


def heatmaps(model: keras.Model, images: np.ndarray) -> np.ndarray | None:
    """How much each place of images, uint8 RGB [n, size, size, 3], supports the model's prediction.

    Returns float32 [n, size, size] in 0…1, each with a maximum of 1 unless it is 0 everywhere; None for a model without
    convolutions, or whose last layer is not dense.
    """
    convolutions, head = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)], model.layers[-1]
    if not convolutions or not isinstance(head, layers.Dense):
        return None
    activations = keras.Model(model.inputs, convolutions[-1].output)(ops.convert_to_tensor(images), training=False)
    rest = keras.Model(convolutions[-1].output, head.input)
    kernel, bias = (ops.cast(weight, "float32") for weight in head.weights)

    def supported(activations: Any) -> Any:
        logit = ops.cast(rest(activations, training=False), "float32") @ kernel + bias
        # Of the logit, since the gradient of a probability near 0 or 1 vanishes. Every cell's depends on its own
        # activations only, so the gradient of the sum is that of every cell.
        return ops.sum(ops.where(logit >= 0, logit, -logit))

    if keras.config.backend() == "jax":  # Keras itself has no gradients
        import jax  # only there where it is the backend

        gradient = jax.grad(supported)(activations)
    else:
        with tf.GradientTape() as tape:
            tape.watch(activations)
            value = supported(activations)
        gradient = tape.gradient(value, activations)
    gradient, activations = (ops.cast(item, "float32") for item in (gradient, activations))
    weights = ops.mean(gradient, axis=(1, 2), keepdims=True)
    maps = ops.convert_to_numpy(ops.relu(ops.sum(weights * activations, axis=-1)))
    peaks = maps.max(axis=(1, 2), keepdims=True)
    maps = np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)
    return np.stack([np.clip(cv2.resize(item, images.shape[2:0:-1]), 0, 1) for item in maps])


def overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Lays heatmaps, float [n, size, size] in 0…1, over images, uint8 RGB [n, size, size, 3]; 0 changes nothing."""
    colours = matplotlib.colormaps["plasma"](maps)[..., :3] * 255
    opacity = (_OPACITY * np.sqrt(maps))[..., None]
    return np.rint(images * (1 - opacity) + colours * opacity).astype(np.uint8)
