"""Keras's `fit` with the callbacks of a run: compiles a setup, resumes it from a checkpoint, trains it to its end."""

import keras
import numpy as np
from keras import ops

from trainers import run_dir
from trainers.input_pipeline.input_stall import InputStall, measured
from trainers.run_dir import HistoryRow
from trainers.training import checkpoint, optimizer
from trainers.training.callbacks import (
    CallbackList,
    Progress,
    TrainStep,
    WeightAverage,
)
from trainers.training.epoch_end import (
    Checkpointer,
    ResumablePlateau,
    ValidateAndSaveBest,
    has_stood_still,
)
from trainers.training.setup import TrainSetup
from trainers.training.signals import StopRequest
from trainers.training_flags import Options


def fit(setup: TrainSetup, resume_from: checkpoint.Checkpoint | None, request: StopRequest) -> list[HistoryRow]:
    """Trains until the last epoch or an early stop.

    Args:
      setup: what is trained.
      resume_from: the checkpoint to continue from, if any.
      request: whether the process was told to end.

    Returns:
      the history.

    Raises:
      InputError: if the loss became NaN or infinite, or the checkpoint does not fit.
      epoch_end.Stopped: if the process was told to end; a checkpoint has been written.
    """
    options, model = setup.options, setup.training_model
    step = TrainStep(setup)
    folder = setup.directory / run_dir.CHECKPOINT
    if resume_from:
        step.epoch, step.step_in_epoch = resume_from.epoch, resume_from.step_in_epoch
        if step.epoch + bool(step.step_in_epoch) > options.epochs or step.step_in_epoch >= setup.steps_per_epoch:
            raise checkpoint.damaged(folder, f"it is of step {step.step_in_epoch} in epoch {step.epoch + 1}")
    with setup.hardware.scope():
        running_metrics = _compile(setup)
        average = WeightAverage(model, options.ema_momentum, step) if options.ema_momentum else None
    averages = average.averages if average else []
    # Outside of the devices' scope: on one of them, which takes batches of any size.
    setup.validation_model.compile(
        loss="binary_crossentropy",
        metrics=[
            "accuracy",
            keras.metrics.AUC(name="auc"),
            keras.metrics.Recall(name="sensitivity"),
            keras.metrics.TrueNegatives(name="tn"),
            keras.metrics.FalsePositives(name="fp"),
        ],
        jit_compile=setup.hardware.jit_compile,
        steps_per_execution=setup.steps_per_call,
    )
    states = (*setup.state, *model.optimizer.variables, *running_metrics, *averages)
    distinct = {id(v): v for v in states}  # the metrics' variables may or may not be among the model's own
    variables = checkpoint.named([*distinct.values()])
    history: list[HistoryRow] = []
    stall = InputStall()
    progress = Progress(setup, step, stall)
    if resume_from:
        checkpoint.restore(variables, resume_from.arrays, folder)
        history, progress.seconds_before = list(resume_from.history), resume_from.seconds
        if _is_trained(step, history, options):
            print("all epochs are trained already")
        else:
            print(f"continuing in epoch {step.epoch + 1} after step {step.step_in_epoch} of {setup.steps_per_epoch}")
    metric_values = [ops.convert_to_numpy(variable) for variable in running_metrics]

    def restore_metrics(epoch: int, logs: dict[str, float] | None) -> None:
        """Gives an epoch that continues the running metrics of the checkpoint, which `fit` has reset."""
        for variable, value in zip(running_metrics, metric_values, strict=True):
            variable.assign(value * bool(step.step_in_epoch))  # Keras resets only what it has used

    def save() -> None:
        progress.read_loss()
        setup.check_data()
        if hasattr(model, "jax_state_sync"):
            model.jax_state_sync()
        arrays = {name: np.asarray(variable) for name, variable in variables.items()}
        state = checkpoint.Checkpoint(step.epoch, step.step_in_epoch, history, progress.seconds, arrays, setup.run)
        checkpoint.save(folder, state, step.step)

    is_plateau = options.schedule == "plateau"
    callbacks = [  # the order matters: each relies on what the ones before have counted, checked or logged
        keras.callbacks.LambdaCallback(on_epoch_begin=restore_metrics),
        step,
        progress,
        *([average] if average else []),
        ValidateAndSaveBest(setup, average, history),
        *([ResumablePlateau(history, options.learning_rate, **optimizer.PLATEAU)] if is_plateau else []),
        keras.callbacks.TensorBoard(setup.directory / run_dir.TENSORBOARD, histogram_freq=1),
        Checkpointer(setup, step, history, save, request),
    ]
    while not _is_trained(step, history, options):
        # An epoch that was interrupted is finished by a `fit` of its own: Keras's epochs are of one length. Where Keras
        # takes several steps per call, each epoch is: Keras takes fewer at its end only if the data set ends there.
        is_one_epoch = step.step_in_epoch or (setup.steps_per_call > 1 and not setup.is_stacked)
        last_epoch = step.epoch + 1 if is_one_epoch else options.epochs
        starts = setup.order.starts(step.epoch * setup.order.steps_per_epoch + step.step_in_epoch, last_epoch)
        model.fit(
            measured(setup.training_batches(starts), stall),
            steps_per_epoch=setup.num_calls(step.step_in_epoch),
            initial_epoch=step.epoch,
            epochs=last_epoch,
            callbacks=CallbackList(callbacks, add_history=True, model=model),
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    return history


def _is_trained(step: TrainStep, history: list[HistoryRow], options: Options) -> bool:
    return step.epoch >= options.epochs or has_stood_still(history, options.early_stopping_patience)


def _compile(setup: TrainSetup) -> list[keras.Variable]:
    """Compiles the model that is trained; returns the variables of its running loss and accuracy."""
    options, model = setup.options, setup.training_model
    accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
    model.compile(
        optimizer=optimizer.build_optimizer(options, setup.steps_per_epoch),
        loss=optimizer.build_loss(options),
        metrics=[accuracy],
        jit_compile=setup.hardware.jit_compile,
        steps_per_execution=1 if setup.is_stacked else setup.steps_per_call,
    )
    model.optimizer.build(model.trainable_variables)
    (loss,) = (metric for metric in model.metrics if metric.name == "loss")
    return [*loss.variables, *accuracy.variables]
