"""A run's folder: what lies in it, and `run.json`, which records its settings and data.

run.json        model, flags, data (fingerprint, patients), versions, timings, status
model.keras     the model of the best epoch by validation loss
history.csv     one line per epoch
thresholds.json   thresholds and temperature of model.keras, fitted on the validation split
curves.png      loss and accuracy over the epochs
augmentation.png   a training cell and five augmented versions of it
tensorboard/    event files
checkpoint/     the newest checkpoint, while the run is unfinished
features/       features from a frozen backbone, while the run is unfinished
export/         the model in other formats, with --export
"""

import csv
import io
import json
import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import InputError

RUN = "run.json"
MODEL = "model.keras"
HISTORY = "history.csv"
CURVES = "curves.png"
AUGMENTATION = "augmentation.png"
TENSORBOARD = "tensorboard"
CHECKPOINT = "checkpoint"
FEATURES = "features"

_PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow-datasets")
# Paths and checkpoints do not affect the result; the last is a flag of earlier versions.
_MAY_DIFFER = {"data_dir", "run_dir", "checkpoint_minutes", "max_corrupt_records"}

HISTORY_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "images_per_second",
    "waiting_share",
)
"""Columns of `history.csv`."""

Run = dict[str, Any]
HistoryRow = dict[str, float]
"""One epoch of `history.csv`; `epoch` counts from 0."""


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


def read(run_dir: str) -> Run:
    """Reads a run's `run.json`.

    Raises:
      InputError: if there is no run, or the file is damaged.
    """
    path = Path(run_dir) / RUN
    try:
        run = json.loads(path.read_text())
        if not isinstance(run, dict) or "model" not in run:
            raise ValueError("no model in it")
        return run
    except FileNotFoundError as error:
        raise InputError(f"{run_dir} is no run: it has no {RUN}; expected the --run_dir of a trainer") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); train again into another --run_dir") from error


def write(run_dir: str, run: Run) -> None:
    """Writes `run.json` atomically."""
    content = json.dumps(run, indent=1, ensure_ascii=False) + "\n"
    storage.write_atomic(Path(run_dir) / RUN, content.encode())


def acquire(run_dir: str, wanted: Run) -> Run:
    """Creates the folder of a new run, or reads the unfinished or finished run in it.

    Returns:
      the `run.json` of the folder: `wanted` if it is new.

    Raises:
      InputError: if the folder holds something else, or a run with other settings.
    """
    directory = Path(run_dir)
    if not (directory / RUN).exists():
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"--run_dir={run_dir} exists and is no run; expected a new or empty folder")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write(run_dir, wanted)
        except OSError as error:
            raise InputError(f"--run_dir={run_dir} cannot be written: {error}; give another") from error
        return wanted
    run = read(run_dir)
    if differing := differences(run, wanted):
        raise InputError(
            f"--run_dir={run_dir} holds a run with other settings: {'; '.join(differing)}; give the same flags to "
            "continue it, or another --run_dir"
        )
    return run


def release(run_dir: str) -> None:
    """Empties the folder of a run that failed before anything was saved, so that other flags may use it."""
    directory = Path(run_dir)
    if not any((directory / name).exists() for name in (MODEL, HISTORY, CHECKPOINT, FEATURES)):
        shutil.rmtree(directory / TENSORBOARD, ignore_errors=True)
        for name in (AUGMENTATION, RUN):
            (directory / name).unlink(missing_ok=True)


def differences(run: Run, wanted: Run) -> list[str]:
    """How a run differs from the wanted one; empty if it can continue."""
    result = []
    if run["model"] != wanted["model"]:
        result.append(f"its model is {run['model']}, wanted {wanted['model']}")
    for name in sorted(run["flags"].keys() | wanted["flags"].keys()):
        old, new = run["flags"].get(name), wanted["flags"].get(name)
        if old != new and name not in _MAY_DIFFER:
            result.append(f"its --{name} is {old}, wanted {new}")
    if run["data"]["fingerprint"] != wanted["data"]["fingerprint"]:
        result.append("its data set was made from another source")
    return result


def next_steps(run_dir: str, data_dir: str) -> str:
    """Where everything is, and what to do next."""
    return (
        f"everything is in {run_dir}; next: python -m trainers.evaluate --data_dir={data_dir} --run_dirs={run_dir} "
        "--output_dir=report"
    )


def read_history(path: Path) -> list[HistoryRow]:
    """Reads `history.csv`; empty if there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def write_history(history: Sequence[HistoryRow], path: Path) -> None:
    """Writes `history.csv` atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS)
    writer.writeheader()
    writer.writerows(history)
    storage.write_atomic(path, text.getvalue().encode())
