"""Thresholds and temperature of a run: fitted on validation when training ends, stored in `thresholds.json`.

`trainers.evaluate` and `trainers.predict` only read the file. It holds for one model file, named by its sha256.
"""

import json
import math
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special
from sklearn.metrics import roc_curve

from pipeline import storage
from pipeline.errors import InputError
from pipeline.records.manifest import compute_checksum
from trainers import run_dir
from trainers.evaluation.metrics import metrics

FILE = "thresholds.json"
DEFAULT = "default"
TITLES = {
    DEFAULT: "0.5, not fitted",
    "youden": "best Youden index",
    "specificity_95": "aimed at 95 % specificity",
    "sensitivity_95": "aimed at 95 % sensitivity",
}
"""Operating points: the threshold 0.5, the largest Youden index, the highest sensitivity at a specificity of at least
95 %, and the highest specificity at a sensitivity of at least 95 %."""
NAMES = tuple(TITLES)

_MINIMUM_RATE = 0.95
_TEMPERATURES = (0.05, 20.0)
_ENTRIES = ("without_test_time_flips", "with_test_time_flips")


class Thresholds(NamedTuple):
    """Thresholds and temperature, fitted on a validation split."""

    split: str  # expression of the validation split
    num_cells: int
    num_patients: int  # 0 if they are unknown
    thresholds: dict[str, float]  # by operating point; a cell is predicted parasitized from its threshold on
    temperature: float  # see `fit_temperature`
    not_fitted: str = ""  # why there is only the default threshold and temperature 1, if so


def defaults(not_fitted: str, split: str = "", num_cells: int = 0, num_patients: int = 0) -> Thresholds:
    """The default threshold and temperature 1, with the reason why nothing has been fitted."""
    return Thresholds(split, num_cells, num_patients, {DEFAULT: metrics.THRESHOLD}, 1.0, not_fitted)


def fit(split: str, labels: np.ndarray, probabilities: np.ndarray, patient_ids: np.ndarray) -> Thresholds:
    """Fits both on the `Predictions` of a validation split; one with cells of one class only has the defaults."""
    size = len(labels), len(set(patient_ids.tolist()) - {""})
    if len(np.unique(labels)) < 2:
        return defaults(f"--validation_split={split} has cells of one class only", split, *size)
    return Thresholds(split, *size, fit_thresholds(labels, probabilities), fit_temperature(labels, probabilities))


def fit_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Fits the threshold of each operating point, `NAMES` -> 0…1; labels are int [cells], both classes present.

    A threshold lies midway between two neighbouring probabilities, so that it does not depend on one cell's last digit.
    Source: W. J. Youden, "Index for rating diagnostic tests", Cancer 3:32, 1950.
    """
    false_positive_rate, sensitivity, cuts = roc_curve(labels, probabilities, drop_intermediate=False)
    specificity = 1 - false_positive_rate
    best = {
        "youden": sensitivity + specificity,
        "specificity_95": np.where(specificity >= _MINIMUM_RATE, sensitivity, -1.0),
        "sensitivity_95": np.where(sensitivity >= _MINIMUM_RATE, specificity, -1.0),
    }
    # The first cut predicts no cell parasitized and is infinite; no probability is larger than 1.
    between = (np.minimum(cuts, 1.0 + 1e-6) + np.append(cuts[1:], 0.0)) / 2
    return {DEFAULT: metrics.THRESHOLD} | {
        name: float(min(between[int(np.argmax(rate))], 1.0)) for name, rate in best.items()
    }


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature in 0.05…20 that minimises the log loss; above 1 it softens probabilities.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    best = optimize.minimize_scalar(
        lambda logarithm: metrics.log_loss(labels, apply_temperature(probabilities, np.exp(logarithm))),
        bounds=np.log(_TEMPERATURES),
        options={"xatol": 1e-6},
    )
    return float(np.exp(best.x))


def apply_temperature(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Divides logits by a temperature, one or float [cells]: float64 [cells] in 0…1; predictions at 0.5 stay."""
    return special.expit(special.logit(metrics.clip(probabilities)) / temperature)


def write(run_folder: str, without_flips: Thresholds, with_flips: Thresholds) -> None:
    """Writes `thresholds.json` for the model that lies in a run's folder, atomically."""
    content: dict[str, Any] = {"model_sha256": run_dir.digest(run_folder, run_dir.MODEL)}
    content |= {name: fitted._asdict() for name, fitted in zip(_ENTRIES, (without_flips, with_flips), strict=True)}
    content["checksum"] = compute_checksum(content)
    storage.write_atomic(Path(run_folder) / FILE, (json.dumps(content, indent=1) + "\n").encode())


def read(run_folder: str, test_time_flips: bool) -> Thresholds | None:
    """Reads what was fitted for a run's very model, None without; raises InputError for what was never written."""
    path = Path(run_folder) / FILE
    try:
        if not path.exists():
            return None
        with storage.open_regular(str(path)) as file:
            content = json.loads(file.read())
        if content.pop("checksum", None) != compute_checksum(content):
            raise ValueError("its checksum does not fit: it has been changed")
        if content["model_sha256"] != run_dir.digest(run_folder, run_dir.MODEL):
            return None
        fitted = Thresholds(**content[_ENTRIES[test_time_flips]])
        _check(fitted)
        return fitted
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it and {_training_command(run_folder)}") from error


def _check(fitted: Thresholds) -> None:
    """Raises ValueError for other types, names or ranges than `fit` gives: NaN would call every cell uninfected."""
    if not all(isinstance(text, str) for text in (fitted.split, fitted.not_fitted)):
        raise ValueError("its split or not_fitted is no text")
    expected = {DEFAULT} if fitted.not_fitted else set(NAMES)
    if fitted.thresholds.keys() != expected:
        raise ValueError(f"it has the thresholds {sorted(fitted.thresholds)}, expected {sorted(expected)}")
    numbers = {f"threshold {name}": (value, 0.0, 1.0) for name, value in fitted.thresholds.items()}
    numbers |= {name: (getattr(fitted, name), 0, math.inf) for name in ("num_cells", "num_patients")}
    for name, (value, low, high) in (numbers | {"temperature": (fitted.temperature, *_TEMPERATURES)}).items():
        if type(value) not in (int, float) or not low <= value <= high:  # bool is an int, too; NaN is in no range
            raise ValueError(f"its {name} is {value!r}, expected a number in {low:g}…{high:g}")


def read_threshold(value: str, run_folder: str, test_time_flips: bool) -> float:
    """The number that `--threshold` means, itself or one of `NAMES`; raises InputError if the run has none such."""
    if value == DEFAULT:
        return metrics.THRESHOLD
    if value not in NAMES:
        with suppress(ValueError):
            if 0 <= (threshold := float(value)) <= 1:
                return threshold
        raise InputError(f"--threshold={value} is neither a number in 0…1 nor one of {', '.join(NAMES)}")
    fitted = read(run_folder, test_time_flips)
    if fitted is None:
        raise InputError(f"--threshold={value} is unknown: {missing(run_folder)}, or give a number in 0…1")
    if value not in fitted.thresholds:
        text = f"{run_folder} has no threshold {value}: {fitted.not_fitted}"
        raise InputError(f"{text}; expected {DEFAULT} or a number in 0…1")
    return fitted.thresholds[value]


def _training_command(run_folder: str) -> str:
    run = run_dir.read(run_folder)
    path = run["flags"].get("model")
    trainer = f"custom {shlex.quote(f'--model={path}')}" if path else run["model"]
    return (
        "run its training command again, which fits them on validation (a finished run is not trained again): "
        f"python -m trainers.{trainer} --run_dir={shlex.quote(run_folder)} with the flags of its training"
    )


def missing(run_folder: str) -> str:
    """That a run has no thresholds for its model, and the command that writes them."""
    return f"{run_folder} has no {FILE} for its model; {_training_command(run_folder)}"
