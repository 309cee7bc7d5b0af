"""Keras callbacks of an epoch's end, in their order: judge it, lower the rate, keep everything, stop early."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import keras

from pipeline.errors import InputError
from trainers import run_dir
from trainers.run_dir import HistoryRow
from trainers.training.averaging import WeightAverage
from trainers.training.position import TrainStep
from trainers.training.signals import StopRequest


class Judge(keras.callbacks.Callback):
    """Validates after each epoch, on averaged weights if there are some, and saves the best model.

    Args:
      evaluate: gives loss and accuracy on the validation split.
      model: what is saved.
      average: of the weights, None for the weights themselves.
      history: the epochs so far; kept up to date by `Keeper`.
      directory: the run's folder.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict[str, float]],
        model: keras.Model,
        average: WeightAverage | None,
        history: Sequence[HistoryRow],
        directory: Path,
    ) -> None:
        super().__init__()
        self._evaluate, self._judged, self._average = evaluate, model, average
        self._history, self._path = history, directory / run_dir.MODEL

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        with self._average.applied() if self._average else nullcontext():
            logs |= {f"val_{name}": value for name, value in self._evaluate().items()}
            if not math.isfinite(logs["val_loss"]):
                raise InputError(
                    f"the validation loss was no number after epoch {epoch + 1}; the last good checkpoint stays; give "
                    "a lower --learning_rate or another --precision, and another --run_dir"
                )
            if logs["val_loss"] < min((row["val_loss"] for row in self._history), default=math.inf):
                partial = self._path.with_name(f"partial.{self._path.name}")
                self._judged.save(partial)
                partial.replace(self._path)


class ResumedPlateau(keras.callbacks.ReduceLROnPlateau):
    """ReduceLROnPlateau that knows the epochs before this process, since Keras saves none of its state.

    Args:
      history: the epochs so far.
      learning_rate: of the optimizer before the first of them.
      **plateau: see keras.callbacks.ReduceLROnPlateau.
    """

    def __init__(self, history: Sequence[HistoryRow], learning_rate: float, **plateau: float | str) -> None:
        super().__init__(**plateau)
        self._history, self._first_learning_rate = history, learning_rate

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        super().on_train_begin(logs)
        self.model.optimizer.learning_rate = self._first_learning_rate
        for row in self._history:
            self.on_epoch_end(int(row["epoch"]), {self.monitor: row[self.monitor]})


class Keeper(keras.callbacks.Callback):
    """Writes the history after every epoch, then a checkpoint; and one now and then, or when asked to, in between.

    Each file appears whole or not at all, in an order that a kill at any moment leaves a run that can continue: best
    model, history line, then the checkpoint that vouches for both.

    Args:
      position: see `TrainStep`.
      history: the epochs so far, which this extends.
      path: of `history.csv`.
      save: keeps a checkpoint.
      minutes: between checkpoints within an epoch.
      request: whether the process was told to end; then a checkpoint is kept at once.
    """

    def __init__(
        self,
        position: TrainStep,
        history: list[HistoryRow],
        path: Path,
        save: Callable[[], None],
        minutes: float,
        request: StopRequest,
    ) -> None:
        super().__init__()
        self._position, self._history, self._path, self._save = position, history, path, save
        self._seconds, self._request = minutes * 60, request
        self._saved = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._position.step_in_epoch == self._position.steps_per_epoch:
            return  # validated and kept in a moment
        if self._request or time.monotonic() - self._saved >= self._seconds:
            self._keep()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._history.append({"epoch": epoch, **{name: float(logs[name]) for name in run_dir.HISTORY_COLUMNS[1:]}})
        run_dir.write_history(self._history, self._path)
        row = self._history[-1]
        shown = ", ".join(f"{name} {row[name]:.4f}" for name in ("loss", "accuracy", "val_loss", "val_accuracy"))
        print(f"epoch {epoch + 1}: {shown}, {row['images_per_second']:.0f} images/s", flush=True)
        self._keep()

    def _keep(self) -> None:
        self._save()
        self._saved = time.monotonic()
        if self._request:
            raise Stopped


class EarlyStop(keras.callbacks.Callback):
    """Stops when the validation loss has stood still; it needs nothing but the history, so it continues by itself."""

    def __init__(self, history: Sequence[HistoryRow], patience: int) -> None:
        super().__init__()
        self._history, self._patience = history, patience

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if has_stood_still(self._history, self._patience):
            self.model.stop_training = True


def has_stood_still(history: Sequence[HistoryRow], patience: int) -> bool:
    """Whether the last `patience` epochs brought no lower validation loss; never for a patience of 0."""
    losses = [row["val_loss"] for row in history]
    return bool(patience) and len(losses) - 1 - losses.index(min(losses, default=0)) >= patience if losses else False


class Stopped(Exception):
    """The process was told to stop, and a checkpoint has been kept."""
