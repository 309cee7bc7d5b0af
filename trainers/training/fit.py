"""Fits a study: compiles it, continues it from a checkpoint, and runs Keras's `fit` with the callbacks of a run."""

import functools
from collections.abc import Sequence
from pathlib import Path

import keras

from trainers import run_dir
from trainers.input_pipeline.input_stall import InputStall, measured
from trainers.run_dir import HistoryRow
from trainers.training import checkpoint, recipe
from trainers.training.averaging import WeightAverage
from trainers.training.callbacks import Counter, Progress, Resumed, StopAtNoNumber
from trainers.training.epoch_end import EarlyStop, Judge, Keeper, ResumedPlateau, has_stood_still
from trainers.training.hardware import Hardware
from trainers.training.position import TrainStep
from trainers.training.setup import TrainSetup
from trainers.training.signals import StopRequest
from trainers.training_flags import Options


def fit(
    study: TrainSetup,
    options: Options,
    used: Hardware,
    mode: str,
    kept: checkpoint.Checkpoint | None,
    request: StopRequest,
) -> list[HistoryRow]:
    """Trains until the last epoch or an early stop.

    Args:
      study: what is trained.
      options: the flags.
      used: the hardware.
      mode: of the input.
      kept: checkpoint to continue from.
      request: whether the process was told to end.

    Returns:
      the history.

    Raises:
      InputError: if the loss became no number, or the checkpoint does not fit.
      epoch_end.Stopped: if the process was told to end; a checkpoint has been kept.
    """
    directory = Path(options.run_dir)
    epoch, step_in_epoch = (kept.epoch, kept.step_in_epoch) if kept else (0, 0)
    position = TrainStep(epoch, step_in_epoch, study.steps_per_epoch)
    with used.scope():
        accuracy = _compile(study, options, used)
        average = WeightAverage(study.trained, options.ema_momentum, position) if options.ema_momentum else None
    study.judged.compile(loss="binary_crossentropy", metrics=["accuracy"], jit_compile=used.jit_compile)
    running = [*study.trained.metrics[0].variables, *accuracy.variables]
    variables = _distinct(
        [
            *study.trained.variables,
            *study.trained.optimizer.variables,
            *running,
            *(average.averages if average else ()),
        ]
    )
    history: list[HistoryRow] = []
    waiting = InputStall()
    progress = Progress(position, study.num_cells, options.batch_size, options.epochs, waiting, mode)
    if kept:
        checkpoint.restore(variables, kept.arrays, directory / run_dir.CHECKPOINT)
        history, progress.seconds_before = list(kept.history), kept.seconds
        print(f"continuing in epoch {epoch + 1} after step {step_in_epoch} of {study.steps_per_epoch}")
    # A checkpoint between epochs still has the metrics of the epoch before, and Keras resets only what it has used.
    values = [keras.ops.convert_to_numpy(variable) * bool(step_in_epoch) for variable in running]
    resumed = Resumed(running, values)

    def save() -> None:
        if hasattr(study.trained, "jax_state_sync"):
            study.trained.jax_state_sync()
        now = checkpoint.Checkpoint(
            position.epoch, position.step_in_epoch, history, progress.seconds, checkpoint.values(variables)
        )
        checkpoint.save(directory / run_dir.CHECKPOINT, now, position.step)

    judge = functools.partial(study.judged.evaluate, study.validation, verbose=0, return_dict=True)
    callbacks = [
        resumed,
        Counter(position),
        StopAtNoNumber(position, directory),
        progress,
        *([average] if average else []),
        Judge(judge, study.saved, average, history, directory),
        *([ResumedPlateau(history, options.learning_rate, **recipe.PLATEAU)] if options.schedule == "plateau" else []),
        keras.callbacks.TensorBoard(directory / run_dir.TENSORBOARD, histogram_freq=1),
        Keeper(position, history, directory / run_dir.HISTORY, save, options.checkpoint_minutes, request),
        EarlyStop(history, options.early_stopping_patience),
    ]
    while position.epoch < options.epochs and not has_stood_still(history, options.early_stopping_patience):
        # An epoch that was under way is ended by a `fit` of its own, since Keras's epochs are all of one length.
        steps = position.steps_per_epoch - position.step_in_epoch
        study.trained.fit(
            measured(study.open_batches(position.epoch, position.step_in_epoch), waiting),
            steps_per_epoch=steps,
            initial_epoch=position.epoch,
            epochs=position.epoch + 1 if position.step_in_epoch else options.epochs,
            callbacks=callbacks,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    return history


def _compile(study: TrainSetup, options: Options, used: Hardware) -> keras.metrics.Metric:
    """Compiles what is trained; returns the running accuracy."""
    accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
    study.trained.compile(
        optimizer=recipe.optimizer(options, study.steps_per_epoch),
        loss=recipe.loss(options),
        metrics=[accuracy],
        jit_compile=used.jit_compile,
        steps_per_execution=_steps_per_execution(options.steps_per_execution, study.steps_per_epoch),
    )
    study.trained.optimizer.build(study.trained.trainable_variables)
    return accuracy


def _steps_per_execution(asked: int, steps_per_epoch: int) -> int:
    """The largest number up to the one asked for that divides an epoch, which a call must not leave."""
    used = max(steps for steps in range(1, asked + 1) if steps_per_epoch % steps == 0)
    if used != asked:
        print(f"steps per execution: {used}, since an epoch has {steps_per_epoch} steps")
    return used


def _distinct(variables: Sequence[keras.Variable]) -> list[keras.Variable]:
    return list({id(variable): variable for variable in variables}.values())
