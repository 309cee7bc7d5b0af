"""Keras callbacks of a run, but for the one that saves everything; a call is one training step or several."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import keras
import tensorflow as tf
from keras import ops

from pipeline.errors import InputError
from pipeline.terminal import progress_bar, quantity
from trainers import run_dir
from trainers.run_dir import HistoryRow
from trainers.tf_import import TENSORFLOW
from trainers.training.setup import TrainSetup

_SECONDS_BETWEEN_READS = 0.5
_STEPS_BETWEEN_AVERAGES = 8  # averaging at each step would cost as much memory traffic as the optimizer
_INPUT_BOUND_FRACTION = 0.05
_MIN_STEPS = 100  # in fewer, the wait for the first batch decides
_NAN_ADVICE = "the last good checkpoint stays; give a lower --learning_rate or another --precision and --run_dir"


class CallbackList(keras.callbacks.CallbackList):
    """Leaves what a call returns on the device, and out TensorBoard, which takes a millisecond to do nothing then."""

    def on_train_batch_end(self, batch: int, logs: dict[str, keras.KerasTensor] | None = None) -> None:
        for callback in self.callbacks:
            if not isinstance(callback, keras.callbacks.TensorBoard):
                callback.on_train_batch_end(batch, logs)


class Progress(keras.callbacks.Callback):
    """Counts steps (Keras counts a short call as a full one), shows each epoch as a bar, and logs `learning_rate`,
    `seconds`, `images_per_second` (without validation) and `waiting_share`.

    The epoch's running loss is read from the device twice a second, at the epoch's end and before a checkpoint: each
    reading waits for the device. A loss that is NaN or infinite, which a mean keeps, ends the run.
    """

    def __init__(self, setup: TrainSetup, stall: tf.Variable) -> None:
        super().__init__()
        self._setup, self._stall = setup, stall
        self.epoch = self.step_in_epoch = 0  # the current one, and how many steps of it are done
        self.seconds_before = self._seconds = 0.0  # what it has taken in earlier processes, and in this one
        self._read_at = -math.inf

    @property
    def step(self) -> int:  # over all epochs
        return self.epoch * self._setup.steps_per_epoch + self.step_in_epoch

    @property
    def seconds(self) -> float:
        return self.seconds_before + self._seconds

    def _num_seen(self) -> int:
        return min(self.step_in_epoch * self._setup.options.batch_size, self._setup.num_cells)

    def read_loss(self) -> None:
        """Reads the newest loss; raises InputError if it is NaN or infinite."""
        loss = float(ops.convert_to_numpy(self._newest_loss))
        self._read_at = time.monotonic()
        if not math.isfinite(loss):
            raise InputError(f"the loss was NaN or infinite at or before step {self.step}; {_NAN_ADVICE}")
        self._bar.set_postfix({"loss": f"{loss:.4f}"}, refresh=False)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._seen_before = self._seen = self._num_seen()
        description = f"epoch {epoch + 1}/{self._setup.options.epochs}"
        self._bar = progress_bar(self._setup.num_cells, description, "images", initial=self._seen)
        self._stall.assign(0.0)
        self._seconds, self._started = 0.0, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, keras.KerasTensor]) -> None:
        self.step_in_epoch = self._setup.after_call(self.step_in_epoch)
        seen_before, self._seen = self._seen, self._num_seen()
        self._newest_loss = logs["loss"]
        if time.monotonic() - self._read_at >= _SECONDS_BETWEEN_READS:
            self.read_loss()
        self._bar.update(self._seen - seen_before)
        self._seconds = time.perf_counter() - self._started

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.read_loss()
        logs["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["seconds"] = round(self.seconds, 3)
        logs["images_per_second"] = round((self._seen - self._seen_before) / self._seconds, 1)
        logs["waiting_share"] = round(min(float(self._stall.numpy()) / self._seconds, 1.0), 5)
        self.epoch, self.step_in_epoch, self.seconds_before, self._seconds = epoch + 1, 0, 0.0, 0.0
        self._bar.close()
        if epoch == 0:
            print(stall_message(logs["waiting_share"], self._setup.input_mode, self._setup.steps_per_epoch))


def stall_message(fraction: float, mode: str, num_steps: int) -> str:
    """Whether training waits for its input, which takes a fraction of its steps' time in a mode; which flag helps."""
    waited = f"input: waited {fraction:.1%} of the step time for data"
    if fraction < _INPUT_BOUND_FRACTION:
        return f"{waited}: not input-bound"
    if num_steps < _MIN_STEPS:
        return f"{waited}, in {quantity(num_steps, 'step')}: too few to judge"
    advice = {
        "streaming": "give --input=resident if the split fits into memory, or --input=mapped from a local disk",
        "mapped": "give --input=resident if the split fits into memory",
    }.get(mode, "give a larger --batch_size, or run on more CPU cores")
    return f"{waited}: input-bound; {advice}"


class WeightAverage(keras.callbacks.Callback):
    """A moving average of the weights, which is validated and saved in their place (Izmailov et al., UAI 2018).

    Keras's optimizers can average too, but overwrite the weights by it at the end of each `fit`, after which a run
    could not continue. The momentum in 0…1 is how much of the average a step keeps; less in the first steps.
    """

    def __init__(self, model: keras.Model, momentum: float, progress: Progress) -> None:
        super().__init__()
        self._weights, self._momentum, self._progress = model.trainable_variables, momentum, progress
        self.averages = [
            keras.Variable(ops.convert_to_numpy(weight), trainable=False, name=f"average_{i}")
            for i, weight in enumerate(self._weights)
        ]
        if keras.backend.backend() == TENSORFLOW:  # one call in the place of several operations per weight
            function = tf.function(self._update).get_concrete_function(tf.TensorSpec((), tf.float32))
            self._update = function  # type: ignore[method-assign]

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._num_updates = self._progress.step // _STEPS_BETWEEN_AVERAGES

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        num_updates = self._progress.step // _STEPS_BETWEEN_AVERAGES
        if num_updates == self._num_updates:
            return
        num_steps = (num_updates - self._num_updates) * _STEPS_BETWEEN_AVERAGES
        self._num_updates = num_updates
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        momentum = min(self._momentum**num_steps, (1 + num_updates) / (10 + num_updates))
        self._update(ops.convert_to_tensor(momentum, "float32"))

    def _update(self, momentum: keras.KerasTensor) -> None:
        for average, weight in zip(self.averages, self._weights, strict=True):
            average.assign(momentum * average + (1 - momentum) * ops.cast(weight, average.dtype))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While the block runs, the model has the averages as its weights."""
        weights = [ops.convert_to_numpy(weight) for weight in self._weights]
        for weight, average in zip(self._weights, self.averages, strict=True):
            weight.assign(ops.convert_to_numpy(average))  # a copy: JAX may take over the array of a model's weight
        try:
            yield
        finally:
            for weight, value in zip(self._weights, weights, strict=True):
                weight.assign(value)


class ValidateAndSaveBest(keras.callbacks.Callback):
    """Validates after each epoch, on averaged weights if any, and saves the model if it is the best in the history."""

    def __init__(
        self, setup: TrainSetup, average: WeightAverage | None, history: Sequence[HistoryRow], model_sha256: str
    ) -> None:
        super().__init__()
        self._setup, self._average, self._history = setup, average, history
        self._partial = setup.directory / run_dir.PARTIAL_MODEL
        self.model_sha256 = model_sha256  # of the best model so far

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        setup = self._setup
        with self._average.applied() if self._average else nullcontext():
            keras.distribution.set_distribution(None)  # of several hosts, each validates all cells
            metrics = setup.validation_model.evaluate(setup.validation_batches, verbose=0, return_dict=True)
            keras.distribution.set_distribution(setup.hardware.distribution)
            tn, fp = metrics.pop("tn"), metrics.pop("fp")
            metrics["specificity"] = tn / max(1, tn + fp)  # Keras has no metric of that name
            setup.data.train.check_unchanged()
            logs |= {f"val_{name}": value for name, value in metrics.items()}
            if not math.isfinite(logs["val_loss"]):
                raise InputError(f"the validation loss was NaN or infinite after epoch {epoch + 1}; {_NAN_ADVICE}")
            if logs["val_loss"] < min((row["val_loss"] for row in self._history), default=math.inf):
                setup.model.save(self._partial)
                self.model_sha256 = run_dir.digest(str(setup.directory), run_dir.PARTIAL_MODEL)

    def keep(self) -> None:
        """Gives the best model its name; a kill before the checkpoint that knows it leaves the one before."""
        directory = self._setup.directory
        if self._partial.exists() and run_dir.digest(str(directory), run_dir.PARTIAL_MODEL) == self.model_sha256:
            self._partial.replace(directory / run_dir.MODEL)


class ResumablePlateau(keras.callbacks.ReduceLROnPlateau):
    """ReduceLROnPlateau that knows the epochs of earlier processes: Keras saves none of its state."""

    def __init__(self, history: Sequence[HistoryRow], first_learning_rate: float, **plateau: float | str) -> None:
        super().__init__(**plateau)
        self._history, self._first_learning_rate = history, first_learning_rate

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        super().on_train_begin(logs)
        self.model.optimizer.learning_rate = self._first_learning_rate
        for row in self._history:
            self.on_epoch_end(int(row["epoch"]), {self.monitor: row[self.monitor]})
