"""Label issues: cells whose label is probably wrong, with the probability that it is. Pure.

Predictions are scaled by a temperature on these very labels, so that models of any confidence are measured alike, and
Platt scaling ("Probabilistic Outputs for Support Vector Machines", 1999) makes them the probability of being wrong;
docs/decisions.md tells how its two constants were fitted.
"""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special
from sklearn.metrics import balanced_accuracy_score

from pipeline.cells import LABELS
from pipeline.terminal import csv_text
from trainers.evaluation.metrics import metrics, thresholds

_SCALE, _SHIFT = 1.2, -1.0  # of the logit of the other class, fitted to disputed labels
_MIN_PROBABILITY = 2 / 3
_LENGTHS = (50, 100, 200)  # of the beginning of the list, for `count_disputed`
_MIN_BALANCED_ACCURACY = 0.9  # what a weaker model contradicts is seldom a wrong label; _SCALE was fitted at 0.95


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
    """Finds labels of `Predictions` that are wrong with a probability of at least 2/3, the most likely first.

    The cells are of both classes and unseen in training; a model whose balanced accuracy is below 0.9 finds none.
    """
    if balanced_accuracy_score(labels, probabilities >= metrics.THRESHOLD) < _MIN_BALANCED_ACCURACY:
        return []
    wrong = error_probabilities(labels, probabilities)
    of_label = np.where(labels == 1, probabilities, 1 - probabilities)
    issues = np.flatnonzero(wrong >= _MIN_PROBABILITY)
    issues = issues[np.lexsort((filenames[issues], -wrong[issues]))]
    names = np.array(LABELS)[labels]
    columns = (filenames, patient_ids, names, probabilities, of_label, wrong)
    return [LabelIssue(*row) for row in zip(*(column[issues].tolist() for column in columns), strict=True)]


def error_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability that each label is wrong, float64 [cells] in 0…1; arguments as of `find`."""
    scaled = thresholds.apply_temperature(probabilities, thresholds.fit_temperature(labels, probabilities))
    of_other = metrics.clip(np.where(labels == 1, 1 - scaled, scaled))
    return special.expit(_SCALE * special.logit(of_other) + _SHIFT)


def count_disputed(
    issues: Sequence[LabelIssue], disputed: Collection[str], filenames: np.ndarray
) -> list[dict[str, Any]]:
    """How many disputed cells are among the first 50, 100, 200 and all issues; recall is among those of `filenames`."""
    hits = np.cumsum([0, *(issue.filename in disputed for issue in issues)]).tolist()
    num_disputed = len(set(disputed) & set(filenames.tolist()))
    found = []
    for length in [*(length for length in _LENGTHS if length < len(issues)), len(issues)]:
        precision = hits[length] / length if length else None
        recall = hits[length] / num_disputed if num_disputed else None
        found.append({"length": length, "num_disputed": hits[length], "precision": precision, "recall": recall})
    return found


def write(issues: list[LabelIssue], path: Path) -> None:
    """Writes label issues as CSV; see `csv_text` for names that look like formulas."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(LabelIssue._fields)
        for item in issues:
            writer.writerow(map(csv_text, (*item[:3], *(f"{probability:.6f}" for probability in item[3:]))))
