"""Keras callbacks of an epoch's end, in their order: validate, lower the learning rate, save everything, stop early."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import keras

from pipeline.errors import InputError
from trainers import run_dir
from trainers.run_dir import HistoryRow
from trainers.training.callbacks import TrainStep, WeightAverage
from trainers.training.setup import TrainSetup
from trainers.training.signals import StopRequest


class ValidateAndSaveBest(keras.callbacks.Callback):
    """Validates the compiled `validation_model` after each epoch, on averaged weights if any, and saves the best model.

    It only reads the history of the epochs so far, which `Checkpointer` extends.
    """

    def __init__(self, setup: TrainSetup, average: WeightAverage | None, history: Sequence[HistoryRow]) -> None:
        super().__init__()
        self._setup, self._average, self._history = setup, average, history

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        setup = self._setup
        with self._average.applied() if self._average else nullcontext():
            keras.distribution.set_distribution(None)  # of several hosts, each validates all cells
            metrics = setup.validation_model.evaluate(setup.validation_batches, verbose=0, return_dict=True)
            keras.distribution.set_distribution(setup.hardware.distribution)
            tn, fp = metrics.pop("tn"), metrics.pop("fp")
            metrics["specificity"] = tn / max(1, tn + fp)  # Keras has no metric of that name
            setup.check_data()
            logs |= {f"val_{name}": value for name, value in metrics.items()}
            if not math.isfinite(logs["val_loss"]):
                raise InputError(
                    f"the validation loss was NaN or infinite after epoch {epoch + 1}; the last good checkpoint stays; "
                    "give a lower --learning_rate or another --precision, and another --run_dir"
                )
            if logs["val_loss"] < min((row["val_loss"] for row in self._history), default=math.inf):
                path = setup.directory / run_dir.MODEL
                partial = path.with_name(f"partial.{path.name}")  # Keras wants the suffix
                setup.model.save(partial)
                partial.replace(path)


class ResumablePlateau(keras.callbacks.ReduceLROnPlateau):
    """ReduceLROnPlateau that knows the epochs of earlier processes: Keras saves none of its state.

    `learning_rate` is the rate that the first epoch starts with.
    """

    def __init__(self, history: Sequence[HistoryRow], learning_rate: float, **plateau: float | str) -> None:
        super().__init__(**plateau)
        self._history, self._first_learning_rate = history, learning_rate

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        super().on_train_begin(logs)
        self.model.optimizer.learning_rate = self._first_learning_rate
        for row in self._history:
            self.on_epoch_end(int(row["epoch"]), {self.monitor: row[self.monitor]})


class Checkpointer(keras.callbacks.Callback):
    """After every epoch writes the history, then a checkpoint; within epochs, checkpoints at times or when asked to.

    It also stops early where the validation loss has stood still.

    A kill at any moment leaves a run that can continue: each file is complete or not there, and they are written in the
    order best model, history, checkpoint.
    """

    def __init__(
        self,
        setup: TrainSetup,
        step: TrainStep,
        history: list[HistoryRow],
        save: Callable[[], None],
        request: StopRequest,
    ) -> None:
        super().__init__()
        self._step, self._history, self._save_checkpoint, self._request = step, history, save, request
        self._setup, self._path = setup, setup.directory / run_dir.HISTORY
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._request.end_call()
        if self._step.step_in_epoch == self._setup.steps_per_epoch:
            return  # the epoch's end will save
        if self._request or time.monotonic() - self._saved_at >= self._setup.options.checkpoint_minutes * 60:
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        row = {"epoch": epoch, **{name: float(logs[name]) for name in run_dir.HISTORY_COLUMNS[1:]}}
        self._history.append(row)
        run_dir.write_history(self._history, self._path)
        metrics = ", ".join(f"{name} {row[name]:.4f}" for name in ("loss", "accuracy", "val_loss", "val_accuracy"))
        print(f"epoch {epoch + 1}: {metrics}, {row['images_per_second']:.0f} images/s", flush=True)
        self._save()
        # Keras's `EarlyStopping` forgets the epochs of earlier processes.
        self.model.stop_training = has_stood_still(self._history, self._setup.options.early_stopping_patience)

    def _save(self) -> None:
        self._save_checkpoint()
        self._saved_at = time.monotonic()
        if self._request:
            raise Stopped


def has_stood_still(history: Sequence[HistoryRow], patience: int) -> bool:
    """Whether the last `patience` epochs brought no lower validation loss; never for a patience of 0."""
    losses = [row["val_loss"] for row in history]
    return bool(patience and losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


class Stopped(Exception):
    """The process was told to stop, and a checkpoint has been written."""
