"""What is chosen on a run's own validation split, kept in its folder: thresholds and temperature.

`trainers.evaluate` writes it and `trainers.predict` reads it. It vouches for one model file by its sha256.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import InputError
from trainers import run_dir
from trainers.evaluation.metrics import calibration, operating_points

if TYPE_CHECKING:
    from trainers.evaluation.predictions import Predictions

FILE = "operating_points.json"
_WITHOUT_FLIPS, _WITH_FLIPS = "without_test_time_flips", "with_test_time_flips"


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
      split: the validation split's expression.
      num_cells, num_patients: of it; 0 patients if they are unknown.
      thresholds: by name, see `operating_points.NAMES`.
      temperature: see `calibration.fit_temperature`.
    """

    split: str
    num_cells: int
    num_patients: int
    thresholds: dict[str, float]
    temperature: float


UNCHOSEN = Choice("", 0, 0, {operating_points.DEFAULT: operating_points.THRESHOLD}, 1.0)
"""Without a validation split at hand: the default threshold alone."""


def choose(split: str, predictions: "Predictions") -> Choice:
    """Chooses on a validation split with both classes."""
    labels, probabilities, _, patient_ids = predictions
    return Choice(
        split,
        len(labels),
        len(set(patient_ids.tolist()) - {""}),
        operating_points.choose(labels, probabilities),
        calibration.fit_temperature(labels, probabilities),
    )


def read(run_folder: str, test_time_flips: bool) -> Choice | None:
    """What was chosen for the model that lies in a run's folder; None if nothing was, or for another model.

    Raises:
      InputError: if the file is damaged.
    """
    path = Path(run_folder) / FILE
    try:
        kept = _read_kept(path)
        if kept.get("model_sha256") != _digest(run_folder):
            return None
        entry = kept.get(_key(test_time_flips))
        return Choice(**entry) if entry else None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it and run trainers.evaluate again") from error


def find_threshold(value: str, run_folder: str, test_time_flips: bool) -> float:
    """Reads `--threshold`.

    Args:
      value: a number in 0…1 or one of `operating_points.NAMES`.
      run_folder: whose operating points they are.
      test_time_flips: whether probabilities will be means over flips, which has operating points of its own.

    Raises:
      InputError: if it is neither, or has not been chosen yet.
    """
    if value == operating_points.DEFAULT:
        return operating_points.THRESHOLD
    if value in operating_points.NAMES:
        flips = " --test_time_flips" if test_time_flips else ""
        if kept := read(run_folder, test_time_flips):
            return kept.thresholds[value]
        raise InputError(
            f"{run_folder} has no operating point {value} for its model; choose it with: python -m trainers.evaluate "
            f"--data_dir=… --run_dirs={run_folder} --output_dir=…{flips}"
        )
    try:
        threshold = float(value)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise InputError(
            f"--threshold={value} is neither a number in 0…1 nor one of {', '.join(operating_points.NAMES)}"
        )
    return threshold


def write(run_folder: str, test_time_flips: bool, choice: Choice) -> None:
    """Keeps a choice in a run's folder, beside that with (or without) flips; the file appears whole or not at all.

    Raises:
      OSError: if the folder cannot be written.
    """
    path = Path(run_folder) / FILE
    digest = _digest(run_folder)
    try:
        kept = _read_kept(path)
    except ValueError:
        kept = {}
    if kept.get("model_sha256") != digest:
        kept = {"model_sha256": digest}
    kept[_key(test_time_flips)] = choice._asdict()
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1) + "\n")
    partial.replace(path)


def _read_kept(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _key(test_time_flips: bool) -> str:
    return _WITH_FLIPS if test_time_flips else _WITHOUT_FLIPS


def _digest(run_folder: str) -> str:
    with (Path(run_folder) / run_dir.MODEL).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
