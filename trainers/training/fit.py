"""Keras's `fit` with the callbacks of a run: compiles a setup, resumes it from a checkpoint, trains it to its end."""

import keras
from keras import ops

from trainers import run_dir
from trainers.input_pipeline.input_stall import InputStall, measured
from trainers.run_dir import HistoryRow
from trainers.training import checkpoint, optimizer
from trainers.training.callbacks import CallbackList, Progress, ResumablePlateau, ValidateAndSaveBest, WeightAverage
from trainers.training.setup import TrainSetup
from trainers.training.signals import StopRequest


def fit(setup: TrainSetup, resume_from: checkpoint.Checkpoint | None, request: StopRequest) -> list[HistoryRow]:
    """Trains until the last epoch or an early stop; returns the history.

    Args:
      setup: what is trained.
      resume_from: the checkpoint to continue from, if any.
      request: whether the process was told to end.

    Raises:
      InputError: if the loss became NaN or infinite, or the checkpoint does not fit.
      checkpoint.Stopped: if the process was told to end; a checkpoint has been written.
    """
    options, model = setup.options, setup.training_model
    stall, history = InputStall(), list(resume_from.history) if resume_from else []
    progress = Progress(setup, stall)
    folder = setup.directory / run_dir.CHECKPOINT
    if resume_from:
        epoch, step_in_epoch = resume_from.epoch, resume_from.step_in_epoch
        if epoch + bool(step_in_epoch) > options.epochs or step_in_epoch >= setup.steps_per_epoch:
            raise checkpoint.damaged(folder, f"it is of step {step_in_epoch} in epoch {epoch + 1}")
        progress.epoch, progress.step_in_epoch, progress.seconds_before = epoch, step_in_epoch, resume_from.seconds
    with setup.hardware.scope():
        running_metrics = _compile(setup)
        average = WeightAverage(model, options.ema_momentum, progress) if options.ema_momentum else None
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
    state = [variable for variable in model.variables if variable.dtype != "uint8"]  # not the cells on the device
    state += [*model.optimizer.variables, *running_metrics, *(average.averages if average else [])]
    distinct = {id(v): v for v in state}  # the metrics' variables may or may not be among the model's own
    variables = checkpoint.named([*distinct.values()])

    def is_trained() -> bool:
        patience = options.early_stopping_patience
        return progress.epoch >= options.epochs or checkpoint.has_stood_still(history, patience)

    if resume_from:
        checkpoint.restore(variables, resume_from.arrays, folder)
        if is_trained():
            print("all epochs are trained already")
        else:
            print(f"continuing in epoch {epoch + 1} after step {step_in_epoch} of {setup.steps_per_epoch}")
    metric_values = [ops.convert_to_numpy(variable) for variable in running_metrics]

    def restore_metrics(epoch: int, logs: dict[str, float] | None) -> None:
        """Gives an epoch that continues the running metrics of the checkpoint, which `fit` has reset."""
        for variable, value in zip(running_metrics, metric_values, strict=True):
            variable.assign(value * bool(progress.step_in_epoch))  # Keras resets only what it has used

    is_plateau = options.schedule == "plateau"
    callbacks = [  # the order matters: each relies on what the ones before have counted, checked or logged
        keras.callbacks.LambdaCallback(on_epoch_begin=restore_metrics),
        progress,
        *([average] if average else []),
        ValidateAndSaveBest(setup, average, history),
        *([ResumablePlateau(history, options.learning_rate, **optimizer.PLATEAU)] if is_plateau else []),
        keras.callbacks.TensorBoard(setup.directory / run_dir.TENSORBOARD, histogram_freq=1),
        checkpoint.Checkpointer(setup, progress, variables, history, request),
    ]
    while not is_trained():
        # An epoch that was interrupted is finished by a `fit` of its own: Keras's epochs are of one length. Where Keras
        # takes several steps per call, each epoch is: Keras takes fewer at its end only if the data set ends there.
        is_one_epoch = progress.step_in_epoch or (setup.steps_per_call > 1 and not setup.is_stacked)
        last_epoch = progress.epoch + 1 if is_one_epoch else options.epochs
        first_step = progress.epoch * setup.order.steps_per_epoch + progress.step_in_epoch
        model.fit(
            measured(setup.training_batches(setup.order.starts(first_step, last_epoch)), stall),
            steps_per_epoch=setup.num_calls(progress.step_in_epoch),
            initial_epoch=progress.epoch,
            epochs=last_epoch,
            callbacks=CallbackList(callbacks, add_history=True, model=model),
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    return history


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
