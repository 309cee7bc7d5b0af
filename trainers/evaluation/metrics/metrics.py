"""Metrics as scikit-learn has them, and what they mean for patients; metrics with intervals: see `bootstrap`. Pure."""

from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

THRESHOLD = 0.5  # a cell is predicted parasitized from this probability on
NUM_BINS = 15  # of calibration

TITLES = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity (recall)",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "AUC (ROC)",
    "average_precision": "Average precision",
    "mcc": "Matthews correlation (MCC)",
    "brier": "Brier score (0 is best)",
    "ece": "Expected calibration error (0 is best)",
}
"""Title of each metric of `metrics.json`. `ece` is the mean distance between predicted probability and fraction of
parasitized cells over the bins of `assign_bins`, the binary form (bins of the positive class's probability) of Guo et
al., "On Calibration of Modern Neural Networks", ICML 2017."""
NAMES = tuple(TITLES)

_SMEAR_CELLS = 5000  # roughly what a microscopist counts in a thin film
_MARGIN = 1e-7  # a float32 sigmoid returns exactly 0 and 1 for large logits


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, int]:
    """True and false negatives and positives of labels, int [cells], and probabilities or predictions, in 0…1."""
    counts = metrics.confusion_matrix(labels, probabilities >= THRESHOLD, labels=[0, 1])
    return dict(zip(("tn", "fp", "fn", "tp"), counts.ravel().tolist(), strict=True))


def class_weighted(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """The table of the original work: accuracy, and means of precision, recall and F1 weighted by class size."""
    means = metrics.precision_recall_fscore_support(labels, predictions, average="weighted", zero_division=0.0)[:3]
    accuracy = metrics.accuracy_score(labels, predictions)
    return dict(zip(("accuracy", "precision", "recall", "f1"), map(float, (accuracy, *means)), strict=True))


def assign_bins(probabilities: np.ndarray) -> np.ndarray:
    """The bin of each probability, closed on the right: int64 [cells] in 0…`NUM_BINS` - 1."""
    return np.clip(np.ceil(probabilities * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Log loss of finite size."""
    return float(metrics.log_loss(labels, clip(probabilities), labels=[0, 1]))


def clip(probabilities: np.ndarray) -> np.ndarray:
    """Moves probabilities to at least 1e-7 from 0 and 1, so that their logits are finite."""
    return np.clip(probabilities, _MARGIN, 1 - _MARGIN)


def count_by_patient(labels: np.ndarray, predictions: np.ndarray, patient_ids: np.ndarray) -> list[dict[str, Any]]:
    """Counts cells, int or str [cells], by patient, in their order; a rate of no cells is None."""
    names, patient = np.unique(patient_ids, return_inverse=True)
    table = np.zeros((len(names), 2, 2), np.int64)
    np.add.at(table, (patient, labels.astype(int), predictions.astype(int)), 1)
    return [
        {
            "patient_id": name,
            "num_uninfected": tn + fp,
            "num_parasitized": fn + tp,
            "false_positives": fp,
            "true_positives": tp,
            "called_positive": fp + tp,
            "sensitivity": _ratio(tp, fn + tp),
            "false_positives_per_1000": _ratio(1000 * fp, tn + fp),
        }
        for name, ((tn, fp), (fn, tp)) in zip(names.tolist(), table.tolist(), strict=True)
    ]


def smear(counts: list[dict[str, Any]], prevalence: float) -> dict[str, Any]:
    """What a smear would show, if its cells were like those of the split, at a fraction of parasitized cells in 0…1.

    Predictive values of one cell follow by Bayes' theorem from the rates of all counted cells, of both classes. Returns
    true_positives, false_positives: expected numbers of cells; positive_predictive_value, negative_predictive_value:
    None where nothing is predicted so; uninfected_patients: false positives in a smear of each, None if there are none,
    and the 95 % interval of the most, as if the cells of that patient were independent;
    hidden_below: the prevalence under which an infected patient's true positives are fewer than the most false
    positives of an uninfected one; 1 if they always are.
    """
    sensitivity, false_positive_rate = (
        sum(row[part] for row in counts) / sum(row[total] for row in counts)
        for part, total in (("true_positives", "num_parasitized"), ("false_positives", "num_uninfected"))
    )
    true_positives = _SMEAR_CELLS * prevalence * sensitivity
    false_positives = _SMEAR_CELLS * (1 - prevalence) * false_positive_rate
    true_negatives = _SMEAR_CELLS * (1 - prevalence) * (1 - false_positive_rate)
    clean = [(row["false_positives"], row["num_uninfected"]) for row in counts if not row["num_parasitized"]]
    uninfected, hidden_below = None, None
    if clean:
        rates = np.divide(*np.transpose(clean))
        low, median, high = (_SMEAR_CELLS * float(rate) for rate in (rates.min(), np.median(rates), rates.max()))
        ends = stats.binomtest(*clean[rates.argmax()]).proportion_ci()  # exact, since the cells are few
        max_ci95 = [_SMEAR_CELLS * float(end) for end in ends]
        uninfected = {"num_patients": len(rates), "min": low, "median": median, "max": high, "max_ci95": max_ci95}
        hidden_below = min(1.0, float(rates.max()) / sensitivity) if sensitivity else 1.0
    return {
        "num_cells": _SMEAR_CELLS,
        "prevalence": prevalence,
        "true_positives": true_positives,
        "false_positives": false_positives,
        "positive_predictive_value": _ratio(true_positives, true_positives + false_positives),
        "negative_predictive_value": _ratio(true_negatives, _SMEAR_CELLS - true_positives - false_positives),
        "uninfected_patients": uninfected,
        "hidden_below": hidden_below,
    }


def _ratio(part: float, total: float) -> float | None:
    return part / total if total > 0 else None
