"""Metrics of labels and probabilities, calibration among them; from scikit-learn wherever it has them. Pure."""

import numpy as np
from sklearn import metrics

THRESHOLD = 0.5
NUM_BINS = 15  # of calibration

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

_MARGIN = 1e-7  # a float32 sigmoid returns exactly 0 and 1 for large logits


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, int]:
    """True and false negatives and positives; arguments as of `compute`."""
    counts = metrics.confusion_matrix(labels, probabilities >= THRESHOLD, labels=[0, 1])
    return dict(zip(("tn", "fp", "fn", "tp"), counts.ravel().tolist(), strict=True))


def compute(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """All metrics of one model, by the names in `NAMES`.

    Sensitivity and specificity are the recalls of parasitized and of uninfected cells; the Brier score is the mean
    squared error of the probability; for `ece` see `expected_calibration_error`.

    Args:
      labels: int [cells], 1 is parasitized, both classes present.
      probabilities: float [cells] in 0…1, of being parasitized; from `THRESHOLD` on a cell is predicted so.
    """
    predictions = (probabilities >= THRESHOLD).astype(np.int64)
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
    bins = assign_bins(probabilities)
    sums = [np.bincount(bins, weights, NUM_BINS) for weights in (probabilities, labels)]
    return float(np.abs(sums[0] - sums[1]).sum() / len(labels))


def assign_bins(probabilities: np.ndarray) -> np.ndarray:
    """The bin of each probability, closed on the right: int64 [cells] in 0…`NUM_BINS` - 1."""
    return np.clip(np.ceil(probabilities * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def calibration_errors(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Log loss, Brier score and expected calibration error."""
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
