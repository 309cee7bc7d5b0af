"""Operating points: thresholds chosen on validation, to be reported on the test split. Pure."""

import numpy as np
from sklearn import metrics

from trainers.evaluation.metrics.metrics import THRESHOLD

DEFAULT = "default"
NAMES = (DEFAULT, "youden", "specificity_95", "sensitivity_95")
"""The threshold 0.5; the largest Youden index; the most sensitivity at a specificity of 95 %; the most specificity at a
sensitivity of 95 %."""

TITLES = dict(zip(NAMES, ("0.5", "best Youden index", "95 % specificity", "95 % sensitivity"), strict=True))
"""For people."""

AIM = 0.95


def choose(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Chooses a threshold for each of `NAMES`.

    A threshold lies midway between two neighbouring probabilities, so that it does not hang on one cell's last digit.

    Source: W. J. Youden, "Index for rating diagnostic tests", Cancer 3:32, 1950.

    Args:
      labels: int [cells] of the validation split, both classes present.
      probabilities: float [cells] in 0…1.

    Returns:
      thresholds in 0…1 by name; a cell is called parasitized from its threshold on.
    """
    false_positive_rate, sensitivity, thresholds = metrics.roc_curve(labels, probabilities, drop_intermediate=False)
    specificity = 1 - false_positive_rate
    chosen = {
        "youden": int(np.argmax(sensitivity + specificity)),
        "specificity_95": _best(sensitivity, specificity >= AIM),
        "sensitivity_95": _best(specificity, sensitivity >= AIM),
    }
    next_lower = np.append(thresholds[1:], 0.0)
    # The first threshold calls no cell parasitized and is infinite; no probability is larger than 1.
    between = (np.minimum(thresholds, 1.0 + 1e-6) + next_lower) / 2
    return {DEFAULT: THRESHOLD, **{name: float(min(between[i], 1.0)) for name, i in chosen.items()}}


def _best(aim: np.ndarray, allowed: np.ndarray) -> int:
    """The first of the allowed places where the aim is largest."""
    return int(np.argmax(np.where(allowed, aim, -1.0)))
