"""Keras callbacks of our own: progress in images per second, what a run leaves behind, and how it continues."""

import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path

import keras

from pipeline.progress import progress_bar
from trainers import run_dir
from trainers.curves import Row
from trainers.waiting import Waiting, verdict

_COLUMNS = (
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


class Progress(keras.callbacks.Callback):
    """Shows each epoch as a bar in images per second, and logs `seconds` and `images_per_second` of an epoch.

    The rate is that of training alone: from the first step to the last, validation excluded.

    After the first epoch it says whether training waits for its input.

    Args:
      num_cells: cells an epoch.
      batch_size: cells a step; the last one may have fewer.
      epochs: number of epochs.
      waiting: how long batches were waited for.
      mode: of the input.
    """

    def __init__(self, num_cells: int, batch_size: int, epochs: int, waiting: Waiting, mode: str) -> None:
        super().__init__()
        self._waiting, self._mode, self._has_judged = waiting, mode, False
        self._num_cells, self._batch_size, self._epochs = num_cells, batch_size, epochs

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._seen = 0
        self._bar = progress_bar(self._num_cells, f"epoch {epoch + 1}/{self._epochs}", "images")
        self._waiting.reset()
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        num_cells = min(self._batch_size, self._num_cells - self._seen)
        self._seen += num_cells
        self._bar.set_postfix({"loss": f"{logs['loss']:.4f}"}, refresh=False)
        self._bar.update(num_cells)
        self._seconds = time.perf_counter() - self._started
        self._waited = self._waiting.seconds

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs["seconds"] = round(self._seconds, 3)
        logs["images_per_second"] = round(self._seen / self._seconds, 1)
        logs["waiting_share"] = round(min(self._waited / self._seconds, 1.0), 5)
        self._bar.close()
        if not self._has_judged:
            self._has_judged = True
            print(verdict(logs["waiting_share"], self._mode), flush=True)


class StopOnNaN(keras.callbacks.Callback):
    """Stops at the first step whose loss is no number, and remembers which it was."""

    step: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._steps += 1
        if math.isnan(logs["loss"]):
            self.step = self.step or self._steps
            self.model.stop_training = True


class ResumedPlateau(keras.callbacks.ReduceLROnPlateau):
    """ReduceLROnPlateau that knows the epochs before this process, since Keras saves none of its state.

    Args:
      history: the epochs so far.
      learning_rate: of the optimizer before the first of them.
      **plateau: see keras.callbacks.ReduceLROnPlateau.
    """

    def __init__(self, history: Sequence[Row], learning_rate: float, **plateau: float | str) -> None:
        super().__init__(**plateau)
        self._history, self._first_learning_rate = history, learning_rate

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self.model.optimizer.learning_rate = self._first_learning_rate
        for row in self._history:
            self.on_epoch_end(int(row["epoch"]), {self.monitor: row[self.monitor]})


class Keeper(keras.callbacks.Callback):
    """Keeps, after every epoch, the history, the best model and what is needed to continue.

    Each file appears whole or not at all, in an order that a kill at any moment leaves a run that can continue:
    history line, best model, then the checkpoint that vouches for both.

    Args:
      directory: the run's folder.
      history: the epochs so far; what the file holds beyond them is dropped.
    """

    def __init__(self, directory: Path, history: Sequence[Row]) -> None:
        super().__init__()
        self._directory, self._history = directory, list(history)
        self._best = min((row["val_loss"] for row in history), default=math.inf)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._history.append({"epoch": epoch, **{name: float(logs[name]) for name in _COLUMNS[1:]}})
        if any(math.isnan(logs[name]) for name in ("loss", "val_loss")):
            return  # the last good checkpoint stays
        self._write_history()
        if logs["val_loss"] < self._best:
            self._best = logs["val_loss"]
            partial = self._directory / f"partial.{run_dir.MODEL}"
            self.model.save(partial)
            partial.replace(self._directory / run_dir.MODEL)
        save_checkpoint(self.model, self._directory, epoch)
        row = self._history[-1]
        shown = ", ".join(f"{name} {row[name]:.4f}" for name in ("loss", "accuracy", "val_loss", "val_accuracy"))
        print(f"epoch {epoch + 1}: {shown}, {row['images_per_second']:.0f} images/s", flush=True)

    def _write_history(self) -> None:
        partial = self._directory / f"{run_dir.HISTORY}.partial"
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(self._history)
        partial.replace(self._directory / run_dir.HISTORY)


def save_checkpoint(model: keras.Model, directory: Path, epoch: int) -> None:
    """Keeps weights and optimizer after an epoch; the one before goes when this one is whole."""
    folder = directory / run_dir.CHECKPOINT
    folder.mkdir(exist_ok=True)
    partial = folder / "partial.weights.h5"
    model.save_weights(partial)
    whole = folder / f"epoch_{epoch:05d}.weights.h5"
    partial.replace(whole)
    for path in folder.glob("epoch_*.weights.h5"):
        if path != whole:
            path.unlink()


def find_checkpoint(directory: Path) -> tuple[Path | None, int]:
    """The newest whole checkpoint of a run, None without one, and the number of epochs before it ends."""
    found = sorted((directory / run_dir.CHECKPOINT).glob("epoch_*.weights.h5"))
    if not found:
        return None, 0
    return found[-1], int(found[-1].name.removeprefix("epoch_").removesuffix(".weights.h5")) + 1
