"""Checkpoints: all that the next step depends on, in one `.npz` that is complete or not there, and what writes them.

Keras's own files leave out dropout's seeds and running metrics, so a run that continues from them differs; and
`Model.set_state_tree` ignores unknown names silently, where a mismatch has to be an error.
"""

import json
import math
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from pipeline import storage
from pipeline.errors import InputError
from trainers import npz, run_dir
from trainers.run_dir import HistoryRow
from trainers.training.callbacks import Progress, ValidateAndSaveBest
from trainers.training.setup import TrainSetup
from trainers.training.signals import StopRequest

_META = "meta"
_ADVICE = "give another --run_dir"
Variables = Mapping[str, keras.Variable]
State = tuple[Variables, list[HistoryRow]]
# RuntimeError is that of a zip that says it is encrypted, and includes RecursionError.
_ERRORS = OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error


class Checkpoint(NamedTuple):
    """The state of a run after a step."""

    epoch: int  # number of finished epochs
    step_in_epoch: int  # steps of the current epoch that are done; 0 between epochs
    history: list[HistoryRow]  # a row for each finished epoch
    seconds: float  # how long the current epoch has taken so far
    arrays: Mapping[str, np.ndarray]  # values of all variables, by name, in their order
    run: str  # see `run_dir.identity`
    model_sha256: str  # of the best model so far, "" before the first


def save(folder: Path, checkpoint: Checkpoint, step: int) -> None:
    """Writes a checkpoint, named by its step over all epochs, then removes the one before."""
    folder.mkdir(exist_ok=True)
    meta = checkpoint._asdict()
    arrays = {**meta.pop("arrays"), _META: np.frombuffer(json.dumps(meta).encode(), np.uint8)}
    path = folder / f"step_{step:09d}.npz"
    with storage.open_atomic(path) as file:
        np.savez(file, **arrays)
    for other in folder.iterdir():
        if other != path:
            other.unlink()


def read_newest(folder: Path, run: str) -> Checkpoint | None:
    """Reads the newest checkpoint of a folder; None if there is none, InputError if it is damaged or of another run."""
    paths = sorted(folder.glob("step_*.npz"))
    if not paths:
        return None
    try:
        arrays = npz.read(paths[-1])
        checkpoint = Checkpoint(arrays=arrays, **json.loads(bytes(arrays.pop(_META))))
        _check(checkpoint, run)
        return checkpoint
    except _ERRORS as error:
        raise damaged(paths[-1], error) from error


def damaged(path: Path, reason: object) -> InputError:
    """The error for a checkpoint that no training writes."""
    advice = f"remove it to train this run from its beginning, or {_ADVICE}"
    return InputError(f"{path} is damaged ({reason}); nothing was changed: {advice}")


def _check(checkpoint: Checkpoint, run: str) -> None:
    """Raises ValueError or TypeError for numbers that no training has; `fit` knows how large they may be."""
    if any(type(number) is not int or number < 0 for number in (checkpoint.epoch, checkpoint.step_in_epoch)):
        raise ValueError(f"it is of step {checkpoint.step_in_epoch!r:.60} in epoch {checkpoint.epoch!r:.60}")
    if not 0 <= checkpoint.seconds < math.inf:
        raise ValueError(f"its seconds are {checkpoint.seconds}")
    if [row["epoch"] for row in checkpoint.history] != list(range(checkpoint.epoch)):
        raise ValueError(f"its history is not that of {checkpoint.epoch} epochs")
    if not all(math.isfinite(row[name]) for row in checkpoint.history for name in run_dir.HISTORY_COLUMNS):
        raise ValueError("its history holds a value that is NaN or infinite")
    if not isinstance(checkpoint.model_sha256, str):
        raise ValueError(f"its model_sha256 is {checkpoint.model_sha256!r:.60}")
    if checkpoint.run != run:
        raise ValueError("it is of another run")


def named(variables: Sequence[keras.Variable]) -> Variables:
    """Variables by number and own name; `variable.path` would not do, since it counts the layers built before."""
    return {f"{i:04d}:{variable.name}": variable for i, variable in enumerate(variables)}


def restore(variables: Variables, arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    """Sets variables, see `named`, to the arrays of a checkpoint in a folder; all, or none with an InputError."""
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    stored = {name: array.shape for name, array in arrays.items()}
    for name in sorted(shapes.keys() | stored.keys()):
        if shapes.get(name) != stored.get(name):
            text = f"{name} has the shape {stored.get(name)}, expected {shapes.get(name)}"
            advice = f"use the version that began the run, or {_ADVICE}"
            raise InputError(f"the checkpoint in {folder} does not fit this model: {text}; {advice}")
    for name, variable in variables.items():
        variable.assign(arrays[name])


class Checkpointer(keras.callbacks.Callback):
    """After every epoch writes the history, then a checkpoint; within epochs, checkpoints at times or when asked to.

    It also stops early where the validation loss has stood still. A kill at any moment leaves a run that can continue:
    each file is complete or not there, and the best model gets its name after the checkpoint that knows its sha256.
    """

    def __init__(
        self, setup: TrainSetup, progress: Progress, best: ValidateAndSaveBest, state: State, request: StopRequest
    ) -> None:
        super().__init__()
        self._setup, self._progress, self._best, self._request = setup, progress, best, request
        self._variables, self._history = state
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._request.end_call()
        if self._progress.step_in_epoch == self._setup.steps_per_epoch:
            return  # the epoch's end will save
        if self._request or time.monotonic() - self._saved_at >= self._setup.options.checkpoint_minutes * 60:
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        row = {"epoch": epoch, **{name: float(logs[name]) for name in run_dir.HISTORY_COLUMNS[1:]}}
        self._history.append(row)
        run_dir.write_history(self._history, self._setup.directory / run_dir.HISTORY)
        metrics = ", ".join(f"{name} {row[name]:.4f}" for name in ("loss", "accuracy", "val_loss", "val_accuracy"))
        print(f"epoch {epoch + 1}: {metrics}, {row['images_per_second']:.0f} images/s")
        self._save()
        # Keras's `EarlyStopping` forgets the epochs of earlier processes.
        self.model.stop_training = has_stood_still(self._history, self._setup.options.early_stopping_patience)

    def _save(self) -> None:
        setup, progress = self._setup, self._progress
        progress.read_loss()
        setup.data.train.check_unchanged()
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        arrays = {name: np.asarray(variable) for name, variable in self._variables.items()}
        position = progress.epoch, progress.step_in_epoch, self._history, progress.seconds
        state = Checkpoint(*position, arrays, setup.identity, self._best.model_sha256)
        save(setup.directory / run_dir.CHECKPOINT, state, progress.step)
        self._best.keep()
        self._saved_at = time.monotonic()
        if self._request:
            raise Stopped


def has_stood_still(history: Sequence[HistoryRow], patience: int) -> bool:
    """Whether the last `patience` epochs brought no lower validation loss; never for a patience of 0."""
    losses = [row["val_loss"] for row in history]
    return bool(patience and losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


class Stopped(Exception):
    """The process was told to stop, and a checkpoint has been written."""
