"""The numbers of a verdict: labels and probabilities in, metrics out. Pure; scikit-learn wherever it has the metric."""

from typing import Any

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
    bins = np.clip(np.ceil(probabilities * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    distance = np.abs(
        np.bincount(bins, weights=probabilities, minlength=num_bins)
        - np.bincount(bins, weights=labels, minlength=num_bins)
    )
    return float(distance.sum() / count.sum())


def entry(split: str, labels: np.ndarray, probabilities: np.ndarray, patient_ids: np.ndarray) -> dict[str, Any]:
    """One model's entry of `metrics.json`.

    Args:
      split: the split expression.
      labels, probabilities: see `compute`.
      patient_ids: [cells], the patient of each cell.
    """
    return {
        "split": split,
        "num_cells": len(labels),
        "num_patients": len(np.unique(patient_ids)),
        "confusion": confusion(labels, probabilities),
        **{name: {"value": value, "ci95": None} for name, value in compute(labels, probabilities).items()},
    }


def table(entries: dict[str, dict[str, Any]]) -> str:
    """The entries of `metrics.json` as a table for people: a line a metric, a column a model."""
    width = max(12, *(len(name) + 2 for name in entries))
    first = next(iter(entries.values()))
    lines = [f"{first['split']}: {first['num_cells']:,} cells of {first['num_patients']} patients"]
    lines.append(f"{'':<20}" + "".join(f"{name:>{width}}" for name in entries))
    for name in NAMES:
        lines.append(f"{name:<20}" + "".join(f"{item[name]['value']:>{width}.4f}" for item in entries.values()))
    for name in ("tn", "fp", "fn", "tp"):
        lines.append(f"{name:<20}" + "".join(f"{item['confusion'][name]:>{width},}" for item in entries.values()))
    return "\n".join(lines)
