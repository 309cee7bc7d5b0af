"""Names of the metrics, and what scikit-learn has of them as it is; values with intervals: see `bootstrap`. Pure."""

import numpy as np
from sklearn import metrics

THRESHOLD = 0.5
"""A cell is predicted parasitized from this probability on."""
NUM_BINS = 15
"""Of calibration."""

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
"""Title of each metric. Sensitivity and specificity are the recalls of parasitized and of uninfected cells, the Brier
score is the mean squared error of the probability; for `ece` see `expected_calibration_error`."""
NAMES = tuple(TITLES)
"""Metric names in the order of the table, as in `metrics.json`."""

_MARGIN = 1e-7  # a float32 sigmoid returns exactly 0 and 1 for large logits


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, int]:
    """True and false negatives and positives, by `tn`, `fp`, `fn`, `tp`.

    Args:
      labels: int [cells], 1 is parasitized.
      probabilities: float [cells] in 0…1, of being parasitized; or predictions.
    """
    counts = metrics.confusion_matrix(labels, probabilities >= THRESHOLD, labels=[0, 1])
    return dict(zip(("tn", "fp", "fn", "tp"), counts.ravel().tolist(), strict=True))


def class_weighted(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """The table of the original work: accuracy, and the means of precision, recall and F1 weighted by class size.

    Its recall equals its accuracy, whatever the model, so it hides which class is missed. Labels and predictions are
    int [cells], 1 is parasitized.
    """
    means = metrics.precision_recall_fscore_support(labels, predictions, average="weighted", zero_division=0.0)[:3]
    accuracy = metrics.accuracy_score(labels, predictions)
    return dict(zip(("accuracy", "precision", "recall", "f1"), map(float, (accuracy, *means)), strict=True))


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance between predicted probability and fraction of parasitized cells, over the bins of `assign_bins`.

    The binary form (bins of the positive class's probability) of Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017.
    """
    excess = np.bincount(assign_bins(probabilities), probabilities - labels, NUM_BINS)
    return float(np.abs(excess).sum() / len(labels))


def assign_bins(probabilities: np.ndarray) -> np.ndarray:
    """The bin of each probability, closed on the right: int64 [cells] in 0…`NUM_BINS` - 1."""
    return np.clip(np.ceil(probabilities * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def calibration_errors(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Log loss, Brier score and expected calibration error, by `log_loss`, `brier` and `ece`."""
    return {
        "log_loss": log_loss(labels, probabilities),
        "brier": float(metrics.brier_score_loss(labels, probabilities)),
        "ece": expected_calibration_error(labels, probabilities),
    }


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Log loss of finite size."""
    return float(metrics.log_loss(labels, clip(probabilities), labels=[0, 1]))


def clip(probabilities: np.ndarray) -> np.ndarray:
    """Moves probabilities to at least 1e-7 from 0 and 1, so that their logits are finite."""
    return np.clip(probabilities, _MARGIN, 1 - _MARGIN)
