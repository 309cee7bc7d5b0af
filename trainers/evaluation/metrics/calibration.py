"""Calibration: whether a probability means what it says. Reliability diagram and temperature scaling. Pure."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special
from sklearn import metrics

NUM_BINS = 15
_MARGIN = 1e-7  # a float32 sigmoid returns exactly 0 and 1 for large logits
_LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))


class Reliability(NamedTuple):
    """Bins of equal width over the predicted probabilities; empty bins are left out.

    Attributes:
      mean_probabilities: float64 [bins].
      fractions: float64 [bins], fraction of parasitized cells.
      num_cells: int64 [bins].
    """

    mean_probabilities: np.ndarray
    fractions: np.ndarray
    num_cells: np.ndarray


def reliability(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
    """The reliability diagram.

    Args:
      labels: int [cells].
      probabilities: float [cells] in 0…1.
      num_bins: number of bins over 0…1.
    """
    bins = assign_bins(probabilities, num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    counts = counts[filled]
    means, fractions = (
        np.bincount(bins, weights=values, minlength=num_bins)[filled] / counts for values in (probabilities, labels)
    )
    return Reliability(means, fractions, counts)


def assign_bins(probabilities: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """The bin of equal width of each probability: int64 [cells] in 0…num_bins - 1, each bin closed on the right."""
    return np.clip(np.ceil(probabilities * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Mean distance between predicted probability and fraction of parasitized cells, over bins of equal width.

    The binary form (bins of the positive class's probability) of Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017.

    Args:
      labels: int [cells].
      probabilities: float [cells] in 0…1.
      num_bins: number of bins over 0…1, each closed on the right.
    """
    bins = assign_bins(probabilities, num_bins)
    sums = [np.bincount(bins, weights=values, minlength=num_bins) for values in (probabilities, labels)]
    return float(np.abs(sums[0] - sums[1]).sum() / len(labels))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature in 0.05…20 that minimises the log loss of the validation split; above 1 softens probabilities.

    Source: Guo et al., section 4.2.

    Args:
      labels: int [cells] of the validation split.
      probabilities: float [cells] in 0…1.
    """

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, np.exp(log_temperature))
        return metrics.log_loss(labels, scaled, labels=[0, 1])

    best = optimize.minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def apply_temperature(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Divides the logits by a temperature: float64 [cells] in 0…1; order and predictions at 0.5 stay.

    Args:
      probabilities: float [cells] in 0…1.
      temperature: one, or float [cells].
    """
    return special.expit(special.logit(np.clip(probabilities, _MARGIN, 1 - _MARGIN)) / temperature)


def errors(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Log loss, Brier score and expected calibration error.

    Args:
      labels: int [cells].
      probabilities: float [cells] in 0…1; the log loss takes them to be at least 1e-7 from 0 and 1.
    """
    clipped = np.clip(probabilities, _MARGIN, 1 - _MARGIN)
    return {
        "log_loss": float(metrics.log_loss(labels, clipped, labels=[0, 1])),
        "brier": float(metrics.brier_score_loss(labels, probabilities)),
        "ece": expected_calibration_error(labels, probabilities),
    }
