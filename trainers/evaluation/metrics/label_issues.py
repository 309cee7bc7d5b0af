"""Cells whose label is probably wrong: confident learning. Pure.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021,
section 3.1: a cell is a suspect if its probability of the other class is at least the mean probability that cells with
that other label are given. About 5 % of these labels are disputed (Fuhad et al., Diagnostics 10:329, 2020).
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.cells import LABELS


class Suspect(NamedTuple):
    """A cell that speaks against its label.

    Attributes:
      filename: path from the class folder on.
      patient_id: the patient.
      label: as it was given.
      probability: of being parasitized.
      label_probability: of the given label; the smaller, the more suspect.
    """

    filename: str
    patient_id: str
    label: str
    probability: float
    label_probability: float


def find(
    labels: np.ndarray, probabilities: np.ndarray, filenames: np.ndarray, patient_ids: np.ndarray
) -> list[Suspect]:
    """The suspects, most confident first.

    Args:
      labels: int [cells], both classes present.
      probabilities: float [cells] in 0…1, of models that were not trained on these cells.
      filenames, patient_ids: str [cells].
    """
    of_class = np.stack([1 - probabilities, probabilities], axis=1)
    usual = np.array([of_class[labels == label, label].mean() for label in (0, 1)])
    of_label, of_other = (of_class[np.arange(len(labels)), which] for which in (labels, 1 - labels))
    suspects = np.flatnonzero((of_other >= usual[1 - labels]) & (of_other > of_label))
    order = suspects[np.lexsort((filenames[suspects], of_label[suspects]))]
    return [
        Suspect(str(filenames[i]), str(patient_ids[i]), LABELS[labels[i]], float(probabilities[i]), float(of_label[i]))
        for i in order
    ]


def write(suspects: list[Suspect], path: Path) -> None:
    """Writes the suspects as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Suspect._fields)
        writer.writerows((*item[:3], f"{item.probability:.6f}", f"{item.label_probability:.6f}") for item in suspects)
