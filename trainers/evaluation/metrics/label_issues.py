"""Label issues: cells whose label is probably wrong, with the probability that it is. Pure.

How far predictions contradict a label is measured after temperature scaling on these very labels, so that models of any
confidence are measured alike. Platt scaling (J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999) turns
it into the probability of being wrong; docs/decisions.md tells how its two constants were fitted.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special
from sklearn.metrics import balanced_accuracy_score

from pipeline.cells import LABELS
from pipeline.terminal import csv_text
from trainers.evaluation.metrics import metrics, thresholds

_SCALE, _SHIFT = 1.2, -1.0  # of the logit of the other class, fitted to disputed labels
_MIN_PROBABILITY = 2 / 3
_MIN_BALANCED_ACCURACY = 0.6  # chance is 0.5: what a model that has learned nothing contradicts is no suspect


class LabelIssue(NamedTuple):
    """A cell whose label is probably wrong; the columns of the CSV."""

    filename: str  # path from the class folder on
    patient_id: str
    label: str  # as given
    probability: float  # of being parasitized, as predicted
    label_probability: float  # of the given label, as predicted
    error_probability: float  # of the label being wrong


def find(
    labels: np.ndarray, probabilities: np.ndarray, filenames: np.ndarray, patient_ids: np.ndarray
) -> list[LabelIssue]:
    """Finds labels that are wrong with a probability of at least 2/3, the most likely first.

    Args:
      labels: int [cells], both classes present.
      probabilities: float [cells] in 0…1, of models that were not trained on these cells. If they classify hardly
        better than chance, there are no issues.
      filenames, patient_ids: str [cells].
    """
    if balanced_accuracy_score(labels, probabilities >= metrics.THRESHOLD) < _MIN_BALANCED_ACCURACY:
        return []
    wrong = error_probabilities(labels, probabilities)
    of_label = np.where(labels == 1, probabilities, 1 - probabilities)
    issues = np.flatnonzero(wrong >= _MIN_PROBABILITY)
    return [
        LabelIssue(
            str(filenames[i]),
            str(patient_ids[i]),
            LABELS[labels[i]],
            *(float(values[i]) for values in (probabilities, of_label, wrong)),
        )
        for i in issues[np.lexsort((filenames[issues], -wrong[issues]))]
    ]


def error_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability that each label is wrong, float64 [cells] in 0…1; arguments as of `find`."""
    scaled = thresholds.apply_temperature(probabilities, thresholds.fit_temperature(labels, probabilities))
    of_other = metrics.clip(np.where(labels == 1, 1 - scaled, scaled))
    return special.expit(_SCALE * special.logit(of_other) + _SHIFT)


def write(issues: list[LabelIssue], path: Path) -> None:
    """Writes label issues as CSV; see `csv_text` for names that look like formulas."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(LabelIssue._fields)
        for item in issues:
            writer.writerow(map(csv_text, (*item[:3], *(f"{probability:.6f}" for probability in item[3:]))))
