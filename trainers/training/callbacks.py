"""Keras callbacks of a step: count it, stop at nonsense, show progress. Those of an epoch's end: `epoch_end`."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from pipeline.errors import InputError
from pipeline.progress import progress_bar
from trainers import run_dir
from trainers.input_pipeline.input_stall import InputStall, message
from trainers.training.position import TrainStep


class Counter(keras.callbacks.Callback):
    """Keeps the position up to date; an epoch under way is continued from the step that it had reached."""

    def __init__(self, position: TrainStep) -> None:
        super().__init__()
        self._position = position

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._first_step = self._position.step_in_epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._position.step_in_epoch = self._first_step + batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._position.epoch, self._position.step_in_epoch, self._first_step = epoch + 1, 0, 0


class Resumed(keras.callbacks.Callback):
    """Gives the first epoch the running metrics of the checkpoint, which `fit` resets at its beginning.

    Args:
      variables: of the metrics.
      values: what they were.
    """

    def __init__(self, variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
        super().__init__()
        self._pending = list(zip(variables, values, strict=True))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for variable, value in self._pending:
            variable.assign(value)
        self._pending = []


class StopAtNoNumber(keras.callbacks.Callback):
    """Stops at the first step whose loss is no finite number, before anything of it is kept.

    Raises:
      InputError: from within the step.
    """

    def __init__(self, position: TrainStep, directory: Path) -> None:
        super().__init__()
        self._position, self._directory = position, directory

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"the loss was no number at step {self._position.step}; the last good checkpoint stays in "
                f"{self._directory / run_dir.CHECKPOINT}; give a lower --learning_rate or another --precision, and "
                "another --run_dir"
            )


class Progress(keras.callbacks.Callback):
    """Shows each epoch as a bar, and logs its `learning_rate`, `seconds`, `images_per_second` and `waiting_share`.

    The rate is that of training alone: from the first step to the last, validation excluded. After the first epoch it
    says whether training waits for its input.

    Args:
      position: see `TrainStep`.
      num_cells: cells an epoch.
      batch_size: cells a step; the last one may have fewer.
      epochs: number of epochs.
      waiting: how long batches were waited for.
      mode: of the input.
    """

    def __init__(
        self, position: TrainStep, num_cells: int, batch_size: int, epochs: int, waiting: InputStall, mode: str
    ) -> None:
        super().__init__()
        self._position, self._waiting, self._mode, self._has_judged = position, waiting, mode, False
        self._num_cells, self._batch_size, self._epochs = num_cells, batch_size, epochs
        self.seconds_before = 0.0
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """What the epoch under way has taken, processes before this one included."""
        return self.seconds_before + self._seconds

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._done_before = self._seen = min(self._position.step_in_epoch * self._batch_size, self._num_cells)
        self._bar = progress_bar(
            self._num_cells, f"epoch {epoch + 1}/{self._epochs}", "images", initial=self._done_before
        )
        self._waiting.reset()
        self._seconds = self._waited = 0.0
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        seen = min(self._position.step_in_epoch * self._batch_size, self._num_cells)
        self._bar.set_postfix({"loss": f"{logs['loss']:.4f}"}, refresh=False)
        self._bar.update(seen - self._seen)
        self._seen = seen
        self._seconds = time.perf_counter() - self._started
        self._waited = self._waiting.seconds

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        logs["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["seconds"] = round(self.seconds, 3)
        logs["images_per_second"] = round((self._seen - self._done_before) / self._seconds, 1)
        logs["waiting_share"] = round(min(self._waited / self._seconds, 1.0), 5)
        self.seconds_before = 0.0
        self._bar.close()
        if not self._has_judged:
            self._has_judged = True
            print(message(logs["waiting_share"], self._mode), flush=True)
