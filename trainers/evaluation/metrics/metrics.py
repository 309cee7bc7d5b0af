"""Metrics of labels and probabilities, from scikit-learn wherever it has them. Pure."""

import numpy as np
from sklearn import metrics

from trainers.evaluation.metrics.calibration import expected_calibration_error

THRESHOLD = 0.5

NAMES = (
    "accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "balanced_accuracy",
    "auc",
    "average_precision",
    "mcc",
    "brier",
    "ece",
)
"""Metric names in the order of the table, as in `metrics.json`."""


def confusion(labels: np.ndarray, probabilities: np.ndarray, threshold: float = THRESHOLD) -> dict[str, int]:
    """True and false negatives and positives; a cell is predicted parasitized from `threshold` on.

    Args:
      labels: int [cells], 1 is parasitized.
      probabilities: float [cells] in 0…1, of being parasitized.
      threshold: in 0…1.
    """
    counts = metrics.confusion_matrix(labels, probabilities >= threshold, labels=[0, 1])
    return dict(zip(("tn", "fp", "fn", "tp"), counts.ravel().tolist(), strict=True))


def compute(labels: np.ndarray, probabilities: np.ndarray, threshold: float = THRESHOLD) -> dict[str, float]:
    """All metrics of one model, by the names in `NAMES`.

    Sensitivity and specificity are the recalls of parasitized and of uninfected cells; the Brier score is the mean
    squared error of the probability; for `ece` see `calibration.expected_calibration_error`.

    Args:
      labels: int [cells], both classes present.
      probabilities: float [cells] in 0…1, of being parasitized.
      threshold: a cell is predicted parasitized from here on.
    """
    predictions = (probabilities >= threshold).astype(np.int64)
    return {
        "accuracy": float(metrics.accuracy_score(labels, predictions)),
        "sensitivity": float(metrics.recall_score(labels, predictions)),
        "specificity": float(metrics.recall_score(labels, predictions, pos_label=0)),
        "precision": float(metrics.precision_score(labels, predictions, zero_division=0.0)),
        "f1": float(metrics.f1_score(labels, predictions, zero_division=0.0)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(labels, predictions)),
        "auc": float(metrics.roc_auc_score(labels, probabilities)),
        "average_precision": float(metrics.average_precision_score(labels, probabilities)),
        "mcc": float(metrics.matthews_corrcoef(labels, predictions)),
        "brier": float(metrics.brier_score_loss(labels, probabilities)),
        "ece": expected_calibration_error(labels, probabilities),
    }


def class_weighted(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """The table of the original work: accuracy, and the means of precision, recall and F1 weighted by class size.

    Its recall equals its accuracy, whatever the model, so it hides which class is missed.

    Args:
      labels, predictions: int [cells], 1 is parasitized.
    """
    means = metrics.precision_recall_fscore_support(labels, predictions, average="weighted", zero_division=0.0)[:3]
    accuracy = metrics.accuracy_score(labels, predictions)
    return dict(zip(("accuracy", "precision", "recall", "f1"), map(float, (accuracy, *means)), strict=True))
