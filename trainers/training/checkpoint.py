"""Checkpoints: all that the next step depends on, in one `.npz` that is complete or not there.

It has the weights, dropout's seeds, the optimizer, running metrics, averaged weights, and as JSON the step and the
history. Keras's own files leave out seeds and metrics, so a run that continues from them differs; and
`Model.set_state_tree` ignores unknown names silently, where a mismatch has to be an error.
"""

import json
import math
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

_META = "meta"
_NAME = "step_{:09d}.npz"
_ADVICE = "give another --run_dir"


class Checkpoint(NamedTuple):
    """The state of a run after a step.

    Attributes:
      epoch: number of finished epochs.
      step_in_epoch: steps of the current epoch that are done; 0 between epochs.
      history: a row for each finished epoch.
      seconds: how long the current epoch has taken so far.
      arrays: values of all variables, by name, in their order.
      run: see `run_dir.identity`.
    """

    epoch: int
    step_in_epoch: int
    history: list[dict[str, float]]
    seconds: float
    arrays: Mapping[str, np.ndarray]
    run: str


def save(folder: Path, checkpoint: Checkpoint, step: int) -> None:
    """Writes a checkpoint, named by its step over all epochs, then removes the one before."""
    folder.mkdir(exist_ok=True)
    meta = checkpoint._asdict()
    arrays = {**meta.pop("arrays"), _META: np.frombuffer(json.dumps(meta).encode(), np.uint8)}
    path = folder / _NAME.format(step)
    with storage.open_atomic(path) as file:
        np.savez(file, **arrays)
    for other in folder.iterdir():
        if other != path:
            other.unlink()


def read_newest(folder: Path, run: str) -> Checkpoint | None:
    """Reads the newest checkpoint of a folder; None if there is none.

    Raises:
      InputError: if it is damaged, or not of this run, see `run_dir.identity`.
    """
    paths = sorted(folder.glob("step_*.npz"))
    if not paths:
        return None
    try:
        arrays = npz.read(paths[-1])
        checkpoint = Checkpoint(arrays=arrays, **json.loads(bytes(arrays.pop(_META))))
        _check(checkpoint)
        if checkpoint.run != run:
            raise ValueError("it is of another run")
        return checkpoint
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        RuntimeError,  # of a zip that says it is encrypted, and RecursionError
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise damaged(paths[-1], error) from error


def damaged(path: Path, reason: object) -> InputError:
    """The error for a checkpoint that no training has written like this."""
    return InputError(
        f"{path} is damaged ({reason}); nothing was changed: remove it to train this run from its beginning, or "
        f"{_ADVICE}"
    )


def _check(checkpoint: Checkpoint) -> None:
    """Raises ValueError or TypeError for numbers that no training has; `fit` knows how large they may be."""
    if any(type(number) is not int or number < 0 for number in (checkpoint.epoch, checkpoint.step_in_epoch)):
        raise ValueError(f"it is of step {checkpoint.step_in_epoch!r:.60} in epoch {checkpoint.epoch!r:.60}")
    if not 0 <= checkpoint.seconds < math.inf:
        raise ValueError(f"its seconds are {checkpoint.seconds}")
    if [row["epoch"] for row in checkpoint.history] != list(range(checkpoint.epoch)):
        raise ValueError(f"its history is not that of {checkpoint.epoch} epochs")
    if not all(math.isfinite(row[name]) for row in checkpoint.history for name in run_dir.HISTORY_COLUMNS):
        raise ValueError("its history holds a value that is NaN or infinite")


def named(variables: Sequence[keras.Variable]) -> dict[str, keras.Variable]:
    """Variables by number and own name; `variable.path` would not do, since it counts the layers built before."""
    return {f"{i:04d}:{variable.name}": variable for i, variable in enumerate(variables)}


def restore(variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    """Sets variables, see `named`, to the arrays of a checkpoint in a folder.

    Raises:
      InputError: if the checkpoint is of another model; no variable has been changed then.
    """
    if differing := sorted(variables.keys() ^ arrays.keys()):
        raise InputError(
            f"the checkpoint in {folder} does not fit this model: only one of them has {differing[0]}; use the version "
            f"that began the run, or {_ADVICE}"
        )
    for name, variable in variables.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise InputError(
                f"the checkpoint in {folder} does not fit this model: {name} has shape {arrays[name].shape}, expected "
                f"{tuple(variable.shape)}; {_ADVICE}"
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])
