"""Checkpoints: everything that the next step depends on, whole or not at all.

A checkpoint is one `.npz`: weights, dropout's seeds, optimizer, running metrics, averaged weights, and as JSON the
position and the epochs so far. Keras's own files leave out seeds and metrics, so a run continued from them differs.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import InputError

_META = "meta"
_NAME = "step_{:09d}.npz"


class Checkpoint(NamedTuple):
    """What is kept.

    Attributes:
      epoch: whole epochs before it.
      step_in_epoch: steps of the epoch that is under way; 0 between epochs.
      history: a row for each whole epoch.
      seconds: what the epoch under way has taken so far, in seconds.
      arrays: values of all variables, by name, in their order.
    """

    epoch: int
    step_in_epoch: int
    history: list[dict[str, float]]
    seconds: float
    arrays: Mapping[str, np.ndarray]


def save(folder: Path, checkpoint: Checkpoint, step: int) -> None:
    """Writes a checkpoint; the one before goes when this one is whole.

    Args:
      folder: of the run's checkpoints, made if missing.
      checkpoint: what to keep.
      step: over all epochs, for the name.
    """
    folder.mkdir(exist_ok=True)
    meta = checkpoint._asdict()
    del meta["arrays"]
    content = io.BytesIO()
    arrays = {_META: np.frombuffer(json.dumps(meta).encode(), np.uint8), **checkpoint.arrays}
    np.savez(content, **arrays)  # type: ignore[arg-type]  # to mypy any name may be `allow_pickle`
    partial, whole = folder / "partial.npz", folder / _NAME.format(step)
    with partial.open("wb") as file:
        file.write(content.getbuffer())
    partial.replace(whole)
    for path in folder.glob(_NAME.replace("{:09d}", "*")):
        if path != whole:
            path.unlink()


def find(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a folder; None if there is none.

    Raises:
      InputError: if it is damaged.
    """
    found = sorted(folder.glob(_NAME.replace("{:09d}", "*")))
    if not found:
        return None
    try:
        # Read first: `np.load` leaves a file open that it cannot read.
        with np.load(io.BytesIO(found[-1].read_bytes())) as stored:
            arrays = {name: stored[name] for name in stored.files}
        meta = json.loads(bytes(arrays.pop(_META)))
        return Checkpoint(arrays=arrays, **meta)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{found[-1]} is damaged ({error}); nothing was changed: remove it to train this run from its beginning, "
            "or give another --run_dir"
        ) from error


def names(variables: Sequence[Any]) -> list[str]:
    """One name a variable: its place and its own name; that of its owner may be numbered by what was built before."""
    return [f"{i:04d}:{variable.name}" for i, variable in enumerate(variables)]


def values(variables: Sequence[Any]) -> dict[str, np.ndarray]:
    """The values of Keras variables by `names`."""
    return {name: np.asarray(variable) for name, variable in zip(names(variables), variables, strict=True)}


def restore(variables: Sequence[Any], arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    """Sets Keras variables to what `values` gave.

    Raises:
      InputError: if the checkpoint is of another model; nothing has been changed then.
    """
    expected = dict(zip(names(variables), variables, strict=True))
    if differing := sorted(expected.keys() ^ arrays.keys()):
        raise InputError(
            f"the checkpoint in {folder} does not fit this model: {differing[0]} is in one of them only; use the "
            "version that began the run, or give another --run_dir"
        )
    for name, variable in expected.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise InputError(
                f"the checkpoint in {folder} does not fit this model: {name} has shape {arrays[name].shape}, expected "
                f"{tuple(variable.shape)}; give another --run_dir"
            )
    for name, variable in expected.items():
        variable.assign(arrays[name])
