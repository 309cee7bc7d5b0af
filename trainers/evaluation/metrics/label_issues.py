"""Label issues: cells whose label is probably wrong, by confident learning. Pure.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021,
section 3.1: a cell has a label issue if its probability of the other class is at least the mean probability that cells
with that other label have. About 5 % of these labels are disputed (Fuhad et al., Diagnostics 10:329, 2020).
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.cells import LABELS
from pipeline.terminal import csv_text


class LabelIssue(NamedTuple):
    """A cell whose label is probably wrong."""

    filename: str  # path from the class folder on
    patient_id: str
    label: str  # as given
    probability: float  # of being parasitized
    label_probability: float  # of the given label; the smaller, the more likely the label is wrong


def find(
    labels: np.ndarray, probabilities: np.ndarray, filenames: np.ndarray, patient_ids: np.ndarray
) -> list[LabelIssue]:
    """Finds label issues, the most likely first.

    Args:
      labels: int [cells], both classes present.
      probabilities: float [cells] in 0…1, of models that were not trained on these cells.
      filenames, patient_ids: str [cells].
    """
    by_class = np.stack([1 - probabilities, probabilities], axis=1)
    means = np.array([by_class[labels == label, label].mean() for label in (0, 1)])
    of_label, of_other = (by_class[np.arange(len(labels)), classes] for classes in (labels, 1 - labels))
    issues = np.flatnonzero((of_other >= means[1 - labels]) & (of_other > of_label))
    return [
        LabelIssue(
            str(filenames[i]), str(patient_ids[i]), LABELS[labels[i]], float(probabilities[i]), float(of_label[i])
        )
        for i in issues[np.lexsort((filenames[issues], of_label[issues]))]
    ]


def write(issues: list[LabelIssue], path: Path) -> None:
    """Writes label issues as CSV; see `csv_text` for names that look like formulas."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(LabelIssue._fields)
        for item in issues:
            probabilities = (f"{item.probability:.6f}", f"{item.label_probability:.6f}")
            writer.writerow((csv_text(item.filename), csv_text(item.patient_id), item.label, *probabilities))
