"""The numbers of a verdict: labels and probabilities in, metrics out. Pure.

What is reported comes from scikit-learn wherever it has the metric; `Sums` computes the same from weights, for
thousands of resamples at once, which scikit-learn cannot.
"""

from collections.abc import Iterable

import numpy as np
from sklearn import metrics

THRESHOLD = 0.5
_NUM_CALIBRATION_BINS = 15

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
    """True and false negatives and positives; a cell is called parasitized from `threshold` on.

    Args:
      labels: int [cells], 1 is parasitized.
      probabilities: float [cells] in 0…1, of being parasitized.
      threshold: in 0…1.
    """
    tn, fp, fn, tp = metrics.confusion_matrix(labels, probabilities >= threshold, labels=[0, 1]).ravel()
    return {"tn": int(tn), "fp": int(fp), "fn": int(fn), "tp": int(tp)}


def compute(labels: np.ndarray, probabilities: np.ndarray, threshold: float = THRESHOLD) -> dict[str, float]:
    """All metrics of one model, by the names in `NAMES`.

    Sensitivity and specificity are the recalls of parasitized and of uninfected cells; the Brier score is the mean
    squared error of the probability; for `ece` see `expected_calibration_error`.

    Args:
      labels: int [cells], both classes present.
      probabilities: float [cells] in 0…1, of being parasitized.
      threshold: a cell is called parasitized from here on.
    """
    calls = (probabilities >= threshold).astype(np.int64)
    return {
        "accuracy": float(metrics.accuracy_score(labels, calls)),
        "sensitivity": float(metrics.recall_score(labels, calls)),
        "specificity": float(metrics.recall_score(labels, calls, pos_label=0)),
        "precision": float(metrics.precision_score(labels, calls, zero_division=0.0)),
        "f1": float(metrics.f1_score(labels, calls, zero_division=0.0)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(labels, calls)),
        "auc": float(metrics.roc_auc_score(labels, probabilities)),
        "average_precision": float(metrics.average_precision_score(labels, probabilities)),
        "mcc": float(metrics.matthews_corrcoef(labels, calls)),
        "brier": float(metrics.brier_score_loss(labels, probabilities)),
        "ece": expected_calibration_error(labels, probabilities),
    }


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, num_bins: int = _NUM_CALIBRATION_BINS
) -> float:
    """Mean distance between the probability said and the share of parasitized cells, over bins of equal width.

    The binary form (bins of the positive class's probability) of Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017.

    Args:
      labels: int [cells].
      probabilities: float [cells] in 0…1.
      num_bins: number of bins over 0…1, each closed on the right.
    """
    bins = calibration_bins(probabilities, num_bins)
    count = np.bincount(bins, minlength=num_bins)
    distance = np.abs(
        np.bincount(bins, weights=probabilities, minlength=num_bins)
        - np.bincount(bins, weights=labels, minlength=num_bins)
    )
    return float(distance.sum() / count.sum())


def calibration_bins(probabilities: np.ndarray, num_bins: int = _NUM_CALIBRATION_BINS) -> np.ndarray:
    """The bin of equal width of each probability: int64 [cells] in 0…num_bins - 1, each bin closed on the right."""
    return np.clip(np.ceil(probabilities * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def class_weighted(labels: np.ndarray, calls: np.ndarray) -> dict[str, float]:
    """The original's table: accuracy, and precision, recall and F1 as means over both classes, weighted by their cells.

    Its recall equals its accuracy, whatever the model, so it hides which class is missed.

    Args:
      labels, calls: int [cells], 1 is parasitized.
    """
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, calls, average="weighted", zero_division=0.0
    )
    accuracy = metrics.accuracy_score(labels, calls)
    return {"accuracy": float(accuracy), "precision": float(precision), "recall": float(recall), "f1": float(f1)}


class Sums:
    """What all metrics are made of, summed by unit (patient or cell), so that any weighting of units is cheap.

    Args:
      labels: int [cells].
      probabilities: float [cells] in 0…1.
      unit: int [cells], the unit of each cell, from 0 on.
      threshold: a cell is called parasitized from here on.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, unit: np.ndarray, threshold: float) -> None:
        positive, called = labels == 1, probabilities >= threshold
        num_units = int(unit.max()) + 1

        def by_unit(values: np.ndarray) -> np.ndarray:
            return np.bincount(unit, weights=values, minlength=num_units)

        counts = (~positive & ~called, ~positive & called, positive & ~called, positive & called)
        self._confusion = np.stack([by_unit(part) for part in counts], axis=1)
        self._squared_error = by_unit((probabilities - labels) ** 2)
        bins = calibration_bins(probabilities)
        in_bin = np.zeros((num_units, _NUM_CALIBRATION_BINS))
        np.add.at(in_bin, (unit, bins), probabilities - labels)
        self._excess = in_bin
        order = np.argsort(-probabilities, kind="stable")
        self._unit, self._is_positive = unit[order], positive[order].astype(np.float64)
        # Cells of the same probability stand or fall together: sums are taken at the last cell of each value.
        self._last = np.append(np.flatnonzero(np.diff(probabilities[order])), len(labels) - 1)

    def compute(self, weights: np.ndarray, names: Iterable[str] = NAMES) -> dict[str, np.ndarray]:
        """Metrics under many weightings.

        Args:
          weights: float64 [weightings, units], at least 0.
          names: which of `NAMES`.

        Returns:
          float64 [weightings] by name; NaN where a metric is undefined.
        """
        names = set(names)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = self._of_calls(weights)
            found["brier"] = weights @ self._squared_error / found.pop("total")
            if "ece" in names:
                found["ece"] = np.abs(weights @ self._excess).sum(axis=1) / (weights @ self._confusion).sum(axis=1)
            if names & {"auc", "average_precision"}:
                found |= self._of_ranks(weights)
        return {name: found[name] for name in NAMES if name in names}

    def _of_calls(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        tn, fp, fn, tp = (weights @ self._confusion).T
        sensitivity, specificity, precision = tp / (tp + fn), tn / (tn + fp), tp / (tp + fp)
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return {
            "total": tn + fp + fn + tp,
            "accuracy": (tn + tp) / (tn + fp + fn + tp),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": np.where(tp + fp > 0, precision, 0.0),  # as scikit-learn has it
            "f1": np.where(tp + fp + fn > 0, 2 * tp / (2 * tp + fp + fn), 0.0),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "mcc": np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(product), 0.0),
        }

    def _of_ranks(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        by_cell = weights[:, self._unit]
        above = np.cumsum(by_cell, axis=1)[:, self._last]  # weight of what is called parasitized at each threshold
        tp = np.cumsum(by_cell * self._is_positive, axis=1)[:, self._last]
        fp = above - tp
        step = np.diff(tp, axis=1, prepend=0)
        before = np.pad(fp, ((0, 0), (1, 0)))[:, :-1]
        positives, negatives = tp[:, -1], fp[:, -1]
        wins = (step * (negatives[:, None] - (fp + before) / 2)).sum(axis=1)
        precision = np.divide(tp, above, out=np.zeros_like(tp), where=above > 0)
        return {"auc": wins / (positives * negatives), "average_precision": (step * precision).sum(axis=1) / positives}
