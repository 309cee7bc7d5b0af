"""Single cells to look at: the worst mistakes with Grad-CAM, and the suspected label errors."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pipeline.cells import LABELS
from pipeline.source.decode import encode_png
from trainers.data import Split
from trainers.evaluation import predictions
from trainers.evaluation.metrics.metrics import THRESHOLD
from trainers.evaluation.model_predictions import ModelPredictions
from trainers.evaluation.report import gradcam

NUM_SHOWN = 16
_COLUMNS = 4


class Shown(NamedTuple):
    """A cell in the report.

    Attributes:
      filename, patient_id: its own.
      label: as given.
      probability: of being parasitized.
      image: uint8 RGB [size, size, 3].
      heatmap: the same with Grad-CAM over it; None without.
    """

    filename: str
    patient_id: str
    label: str
    probability: float
    image: np.ndarray
    heatmap: np.ndarray | None

    @property
    def image_uri(self) -> str:
        """The image for a page."""
        return _data_uri(self.image)

    @property
    def heatmap_uri(self) -> str | None:
        """The heatmap for a page."""
        return None if self.heatmap is None else _data_uri(self.heatmap)


def _data_uri(pixels: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"


def worst_mistakes(judged: ModelPredictions) -> np.ndarray:
    """Rows of the cells that the model is most confidently wrong about, at most `NUM_SHOWN`: int64 [n]."""
    labels, probabilities, filenames, _ = judged.predictions
    wrong = np.flatnonzero((probabilities >= THRESHOLD) != (labels == 1))
    distance = np.abs(probabilities - labels)[wrong]
    return wrong[np.lexsort((filenames[wrong], -distance))][:NUM_SHOWN]


def show(judged: ModelPredictions, rows: np.ndarray, splits: Sequence[Split], with_heatmaps: bool) -> list[Shown]:
    """Fetches cells and, if asked to, draws Grad-CAM over each with the model that predicted it.

    Args:
      judged: what the model said.
      rows: int64 [n], rows of its predictions.
      splits: one a member.
      with_heatmaps: whether to draw Grad-CAM.
    """
    labels, probabilities, filenames, patient_ids = judged.predictions
    found: dict[int, Shown] = {}
    for number, (member, split) in enumerate(zip(judged.candidate.members, splits, strict=True)):
        of_member = [int(row) for row in rows if judged.member[row] == number]
        if not of_member:
            continue
        images = predictions.fetch_images([split], [str(filenames[row]) for row in of_member])
        pixels = np.stack([images[str(filenames[row])] for row in of_member])
        maps = gradcam.heatmaps(predictions.load_model(member.path), pixels) if with_heatmaps else None
        drawn = [None] * len(pixels) if maps is None else list(gradcam.overlay(pixels, maps))
        for row, image, heatmap in zip(of_member, pixels, drawn, strict=True):
            key = str(filenames[row]), str(patient_ids[row]), LABELS[labels[row]], float(probabilities[row])
            found[row] = Shown(*key, image, heatmap)
    return [found[int(row)] for row in rows]


def draw(cells: Sequence[Shown], title: str) -> Figure:
    """The cells as one picture, each beside its heatmap."""
    rows = -(-len(cells) // _COLUMNS)
    figure, axes = plt.subplots(
        rows, _COLUMNS, figsize=(3.4 * _COLUMNS, 0.5 + 2.3 * rows), layout="constrained", squeeze=False
    )
    figure.suptitle(title)
    for axis in axes.flat:
        axis.axis("off")
    for axis, cell in zip(axes.flat, cells, strict=False):
        parts = [cell.image] if cell.heatmap is None else [cell.image, cell.heatmap]
        axis.imshow(np.concatenate(parts, axis=1))
        name = cell.filename.rpartition("/")[2]
        short = name if len(name) <= 36 else f"{name[:16]}…{name[-18:]}"
        axis.set_title(f"{short}\nlabelled {cell.label}, said {cell.probability:.3f}", fontsize=8)
    return figure
