"""Whether a probability means what it says: reliability, and temperature scaling. Pure."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special
from sklearn import metrics

from trainers.evaluation.metrics.metrics import calibration_bins, expected_calibration_error

_NEAREST_TO_CERTAIN = 1e-7  # a float32 sigmoid gives exactly 0 and 1 for large logits
_LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))


class Reliability(NamedTuple):
    """Bins of equal width over the probabilities that were said; empty bins are left out.

    Attributes:
      said: float64 [bins], mean probability.
      found: float64 [bins], share of parasitized cells.
      num_cells: int64 [bins].
    """

    said: np.ndarray
    found: np.ndarray
    num_cells: np.ndarray


def reliability(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 15) -> Reliability:
    """The reliability diagram.

    Args:
      labels: int [cells].
      probabilities: float [cells] in 0…1.
      num_bins: number of bins over 0…1.
    """
    bins = calibration_bins(probabilities, num_bins)
    count = np.bincount(bins, minlength=num_bins)
    filled = count > 0
    said = np.bincount(bins, weights=probabilities, minlength=num_bins)[filled] / count[filled]
    found = np.bincount(bins, weights=labels, minlength=num_bins)[filled] / count[filled]
    return Reliability(said, found, count[filled])


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature that makes the validation split's log loss smallest, in 0.05…20; above 1 softens.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    Args:
      labels: int [cells] of the validation split.
      probabilities: float [cells] in 0…1.
    """

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, float(np.exp(log_temperature)))
        return metrics.log_loss(labels, scaled, labels=[0, 1])

    found = optimize.minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divides the logits by a temperature: float64 [cells] in 0…1. The order of the cells and the calls at 0.5 stay."""
    clipped = np.clip(probabilities, _NEAREST_TO_CERTAIN, 1 - _NEAREST_TO_CERTAIN)
    return special.expit(special.logit(clipped) / temperature)


def report(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Log loss, Brier score and expected calibration error.

    Args:
      labels: int [cells].
      probabilities: float [cells] in 0…1; in the log loss none is nearer to certain than 1e-7.
    """
    clipped = np.clip(probabilities, _NEAREST_TO_CERTAIN, 1 - _NEAREST_TO_CERTAIN)
    return {
        "log_loss": float(metrics.log_loss(labels, clipped, labels=[0, 1])),
        "brier": float(metrics.brier_score_loss(labels, probabilities)),
        "ece": expected_calibration_error(labels, probabilities),
    }
