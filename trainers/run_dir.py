"""A run's folder, whose files BUILD.md lists, and `run.json`, which vouches for them: model, flags, data (source,
settings, digest, patients), statistics of the training images, versions, timings, status, checksums.
"""

import csv
import hashlib
import io
import json
import platform
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from etils import epath

from pipeline import storage
from pipeline.cells import BACKGROUNDS
from pipeline.errors import InputError
from pipeline.records import schema
from pipeline.records.manifest import compute_checksum
from pipeline.splits.configs import CONFIGS
from trainers.image_statistics import STATISTICS

RUN = "run.json"
MODEL = "model.keras"
PARTIAL_MODEL = "partial.model.keras"  # Keras wants the suffix
HISTORY = "history.csv"
CURVES = "curves.png"
AUGMENTATION = "augmentation.png"
TENSORBOARD = "tensorboard"
CHECKPOINT = "checkpoint"
FEATURES = "features"
LOCK = "run.lock"

_PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow-datasets")
_MAY_DIFFER = {"data_dir", "run_dir", "checkpoint_minutes", "hosts", "host_index"}  # these do not affect the result

HISTORY_COLUMNS = (
    *("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"),
    *("seconds", "images_per_second", "waiting_share"),
)
"""Columns of `history.csv`."""

_COUNT = range(1, 2**48)
_FORM = {  # of what is read of `run.json`, see `schema.check`
    "model": re.compile(r"[^\W\d]\w*"),
    "status": ("unfinished", "finished"),
    "backend": ("tensorflow", "jax"),
    "seed": range(2**31),
    "flags": {
        "config": tuple(CONFIGS),
        **dict.fromkeys(("train_split", "validation_split", "test_split"), str),
        **dict.fromkeys(("epochs", "batch_size"), _COUNT),
        "learning_rate": float,
    },
    "data": {
        **dict.fromkeys(("dataset", "source", "fingerprint", "content_digest"), str),
        "settings": {"background": BACKGROUNDS},
        "train_patients": [str],
        "validation_patients": [str],
        **dict.fromkeys(("num_train_cells", "num_validation_cells"), _COUNT),
    },
    "versions": {"keras": str},
    "timings": {"seconds": float},
}
_FORM_OF_LATER_ENTRIES = {
    "best_epoch": _COUNT,
    "image_statistics": {"ranges": {name: [float] for name in STATISTICS}, "swapped": [float]},
    "input": {"mode": ("device", "resident", "mapped", "streaming", "features")},
    "hardware": {"policy": ("float32", "mixed_bfloat16", "mixed_float16")},
    "files": {re.compile(f"{MODEL}|{HISTORY}"): str},
}

Run = dict[str, Any]
HistoryRow = dict[str, float]
"""One epoch of `history.csv`; `epoch` counts from 0."""


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on."""
    distributions = metadata.packages_distributions()  # that of TensorFlow may be tensorflow-cpu
    installed = {name: metadata.version(distributions[name.replace("-", "_")][0]) for name in _PACKAGES}
    return {"python": platform.python_version(), **installed}


def read(run_dir: str) -> Run:
    """Reads `run.json`; InputError if it is missing or damaged or has values that no trainer writes, or if the model or
    the history of a finished run is not the one that was saved.
    """
    path = Path(run_dir) / RUN
    if not path.exists():
        raise InputError(f"{run_dir} is no run: it has no {RUN}; expected the --run_dir of a trainer")
    try:
        with storage.open_regular(str(path)) as file:
            run = json.loads(file.read(), parse_constant=_refuse)
        if not isinstance(run, dict):
            raise ValueError(f"it holds a {type(run).__name__}, expected an object")
        if run.pop("checksum", None) != compute_checksum(run):
            raise ValueError("its checksum is missing or does not fit: it has been changed")
        schema.check(run, _FORM | {name: form for name, form in _FORM_OF_LATER_ENTRIES.items() if name in run})
        for name, sha256 in run.get("files", {}).items():
            if digest(run_dir, name) != sha256:
                raise ValueError(f"{name} is not the file that the run has saved")
        return run
    except (OSError, ValueError, RecursionError) as error:
        advice = "copy the run's folder again, or train again into another --run_dir"
        raise InputError(f"{path} cannot be read ({error}); {advice}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def write(run_dir: str, run: Run) -> None:
    """Writes `run.json` atomically, with its checksum."""
    content = json.dumps({**run, "checksum": compute_checksum(run)}, indent=1, ensure_ascii=False) + "\n"
    storage.write_atomic(Path(run_dir) / RUN, content.encode())


def digest(run_dir: str, name: str) -> str:
    """The sha256 of a run's file."""
    with storage.open_regular(str(Path(run_dir) / name)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(run_dir: str) -> dict[str, str]:
    """Those of the files that the `run.json` of a finished run vouches for."""
    return {name: digest(run_dir, name) for name in (MODEL, HISTORY)}


@contextmanager
def lock(folder: str, flag: str = "--run_dir", name: str = LOCK) -> Iterator[None]:
    """Holds the folder of a flag, which is made if it is missing; InputError if another process does, or it cannot."""
    was_there = Path(folder).exists()
    if not folder or not folder.isprintable():  # a lone surrogate included, which TensorFlow would not take
        raise InputError(f"{flag}={folder} is empty, not UTF-8 or has control characters; give another")
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(storage.lock(epath.Path(folder), epath.Path(folder) / name))
            except OSError as error:
                raise InputError(f"{flag}={folder} cannot be written: {error}; give another") from error
            yield
    finally:
        with suppress(OSError):  # unless it is empty: nothing was begun in it
            if not was_there:
                Path(folder).rmdir()


def acquire(run_dir: str, wanted: Run) -> Run:
    """The `run.json` of a folder, which gets one if empty; InputError if it holds something else or another run."""
    directory = Path(run_dir)
    if not (directory / RUN).exists():
        if {path.name for path in directory.iterdir()} - {LOCK}:
            raise InputError(f"--run_dir={run_dir} exists and is no run; expected a new or empty folder")
        write(run_dir, wanted)
        return wanted
    run = read(run_dir)
    if differing := differences(run, wanted):
        text = f"--run_dir={run_dir} holds a run with other settings: {'; '.join(differing)}"
        advice = "give the same flags and the same data set to continue it (its --epochs cannot be raised)"
        raise InputError(f"{text}; {advice}, or another --run_dir")
    return run


def release(run_dir: str) -> None:
    """Empties the folder of a run that failed before anything was saved, so that other flags may use it."""
    directory = Path(run_dir)
    folders = [directory / name for name in (CHECKPOINT, FEATURES)]
    saved = [directory / MODEL, directory / HISTORY, *(path for folder in folders for path in folder.glob("*"))]
    if not any(path.exists() for path in saved):
        for folder in (*folders, directory / TENSORBOARD):
            shutil.rmtree(folder, ignore_errors=True)
        for name in (AUGMENTATION, RUN, PARTIAL_MODEL):
            (directory / name).unlink(missing_ok=True)


def differences(run: Run, wanted: Run) -> list[str]:
    """How a run differs from the wanted one; empty if it can continue."""
    names = sorted((run["flags"].keys() | wanted["flags"].keys()) - _MAY_DIFFER)
    compared = [
        ("model", run["model"], wanted["model"]),
        ("KERAS_BACKEND", run["backend"], wanted["backend"]),
        *((f"--{name}", run["flags"].get(name), wanted["flags"].get(name)) for name in names),
    ]
    result = [f"its {name} is {old}, wanted {new}" for name, old, new in compared if old != new]
    return result + data_differences(run["data"], wanted["data"])


def data_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """How a data set, as of `data.DataSet.identity`, differs from the `data` of a run; empty if it does not."""
    if old["fingerprint"] != new["fingerprint"]:
        return ["its data set was made from another source"]
    was, wanted = old["settings"], new["settings"]
    result = [
        f"its data set's {name} was {was.get(name)}, is {wanted.get(name)}"
        for name in sorted(was.keys() | wanted.keys())
        if was.get(name) != wanted.get(name)
    ]
    if not result and old["content_digest"] != new["content_digest"]:
        result.append("its data set has other shards now, of the same source and settings")
    return result


def identity(run: Run) -> str:
    """What tells a run from others with other numbers: a checkpoint of another one does not continue it."""
    return compute_checksum({name: run[name] for name in ("model", "flags", "data")})


def next_steps(run_dir: str, data_dir: str, model: str | None) -> str:
    """Where everything is, and what to do next; with the --model of `trainers.custom`."""
    runs = f'"{run_dir.replace(chr(34), chr(34) * 2)}"' if {",", '"'} & set(run_dir) else run_dir  # a list is CSV
    more = [f"--model={model}"] if model else []
    flags = shlex.join([f"--data_dir={data_dir}", f"--run_dirs={runs}", "--output_dir=report", *more])
    return f"everything is in {run_dir}; next: python -m trainers.evaluate {flags}"


def read_history(path: Path) -> list[HistoryRow]:
    """Reads `history.csv`; empty if there is none, InputError if it holds anything but numbers."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it, and the plots go without it") from error


def write_history(history: Sequence[HistoryRow], path: Path) -> None:
    """Writes `history.csv` atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS)
    writer.writeheader()
    writer.writerows(history)
    storage.write_atomic(path, text.getvalue().encode())
