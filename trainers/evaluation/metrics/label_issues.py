"""Label issues: cells whose label is probably wrong, with the probability that it is. Pure.

Each label is modelled as the true class, swapped at a rate of its own per class: the probability of the label
parasitized is r01 (1 - c) + (1 - r10) c, where c, that of the true class parasitized, is the model's after Platt
scaling. Scaling and rates maximise the likelihood of the labels, as in logistic regression that is robust to label
noise (Bootkrajang and Kabán, "Label-Noise Robust Logistic Regression and Its Applications", ECML PKDD 2012, section 2).
Bayes' theorem then gives the probability that a label is wrong. No list of wrong labels is needed.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from pipeline.cells import LABELS
from pipeline.terminal import csv_text
from trainers.evaluation.metrics import metrics

_MIN_PROBABILITY = 0.5
_START = (0.0, 0.0, 0.05, 0.05)  # log of the scale, shift, r01, r10
_BOUNDS = ((-3, 3), (-10, 10), (1e-4, 0.3), (1e-4, 0.3))


class LabelIssue(NamedTuple):
    """A cell whose label is probably wrong."""

    filename: str  # path from the class folder on
    patient_id: str
    label: str  # as given
    probability: float  # of being parasitized, as predicted
    label_probability: float  # of the given label, as predicted
    error_probability: float  # of the label being wrong


def find(
    labels: np.ndarray, probabilities: np.ndarray, filenames: np.ndarray, patient_ids: np.ndarray
) -> list[LabelIssue]:
    """Finds labels that are more likely wrong than right, the most likely first.

    Args:
      labels: int [cells], both classes present.
      probabilities: float [cells] in 0…1, of models that were not trained on these cells.
      filenames, patient_ids: str [cells].
    """
    wrong = error_probabilities(labels, probabilities)
    issues = np.flatnonzero(wrong >= _MIN_PROBABILITY)
    return [
        LabelIssue(
            str(filenames[i]),
            str(patient_ids[i]),
            LABELS[labels[i]],
            float(probabilities[i]),
            float(probabilities[i] if labels[i] else 1 - probabilities[i]),
            float(wrong[i]),
        )
        for i in issues[np.lexsort((filenames[issues], -wrong[issues]))]
    ]


def error_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability that each label is wrong, float64 [cells] in 0…1; arguments as of `find`."""
    logits = special.logit(metrics.clip(probabilities))

    def model(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability of the given label, and of being given although the true class is the other one."""
        log_scale, shift, r01, r10 = parameters
        parasitized = special.expit(np.exp(log_scale) * logits + shift)
        swapped = np.where(labels == 1, r01 * (1 - parasitized), r10 * parasitized)
        return swapped + np.where(labels == 1, (1 - r10) * parasitized, (1 - r01) * (1 - parasitized)), swapped

    def loss(parameters: np.ndarray) -> float:
        return -float(np.log(model(parameters)[0]).mean())

    given, swapped = model(optimize.minimize(loss, _START, bounds=_BOUNDS, method="L-BFGS-B").x)
    return swapped / given


def write(issues: list[LabelIssue], path: Path) -> None:
    """Writes label issues as CSV; see `csv_text` for names that look like formulas."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(LabelIssue._fields)
        for item in issues:
            writer.writerow(map(csv_text, (*item[:3], *(f"{probability:.6f}" for probability in item[3:]))))
