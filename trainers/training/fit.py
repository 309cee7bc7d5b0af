"""Keras's `fit` with the callbacks of a run: compiles a setup, resumes it from a checkpoint, trains it to its end."""

import keras
from keras import ops

from trainers import run_dir
from trainers.input_pipeline import batching
from trainers.run_dir import HistoryRow
from trainers.training import checkpoint
from trainers.training.callbacks import CallbackList, Progress, ResumablePlateau, ValidateAndSaveBest, WeightAverage
from trainers.training.setup import TrainSetup
from trainers.training.signals import StopRequest
from trainers.training_flags import Options

PLATEAU: dict[str, float | str] = {"monitor": "val_loss", "factor": 0.5, "patience": 2, "min_lr": 1e-6}
"""Of `keras.callbacks.ReduceLROnPlateau`, for --schedule=plateau."""

_OPTIMIZERS = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}


def fit(
    setup: TrainSetup, resume_from: checkpoint.Checkpoint | None, request: StopRequest
) -> tuple[list[HistoryRow], str]:
    """Trains until the last epoch or an early stop, if need be from a checkpoint on.

    Returns the history, and the sha256 of the best epoch's `model.keras`.

    Raises InputError if the loss became NaN or infinite, or the checkpoint does not fit; Stopped after a stop request.
    """
    options, model = setup.options, setup.training_model
    stall, history = batching.stall_clock(), list(resume_from.history) if resume_from else []
    progress = Progress(setup, stall)
    folder = setup.directory / run_dir.CHECKPOINT
    if resume_from:
        epoch, step_in_epoch = resume_from.epoch, resume_from.step_in_epoch
        if epoch + bool(step_in_epoch) > options.epochs or step_in_epoch >= setup.steps_per_epoch:
            raise checkpoint.damaged(folder, f"it is of step {step_in_epoch} in epoch {epoch + 1}")
        progress.epoch, progress.step_in_epoch, progress.seconds_before = epoch, step_in_epoch, resume_from.seconds
    with setup.hardware.scope():
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
        model.compile(
            optimizer=build_optimizer(options, setup.steps_per_epoch),
            loss=build_loss(options),
            metrics=[accuracy],
            jit_compile=setup.hardware.jit_compile,
            steps_per_execution=1 if setup.is_stacked else setup.steps_per_call,
        )
        model.optimizer.build(model.trainable_variables)
        average = WeightAverage(model, options.ema_momentum, progress) if options.ema_momentum else None
    (loss,) = (metric for metric in model.metrics if metric.name == "loss")
    running_metrics = [*loss.variables, *accuracy.variables]
    # Outside of the devices' scope: on one of them, which takes batches of any size.
    validation_metrics = ["accuracy", keras.metrics.AUC(name="auc"), keras.metrics.Recall(name="sensitivity")]
    validation_metrics += [keras.metrics.TrueNegatives(name="tn"), keras.metrics.FalsePositives(name="fp")]
    setup.validation_model.compile(
        loss="binary_crossentropy",
        metrics=validation_metrics,
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

    best = ValidateAndSaveBest(setup, average, history, resume_from.model_sha256 if resume_from else "")
    if resume_from:
        checkpoint.restore(variables, resume_from.arrays, folder)
        best.keep()
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
        best,
        *([ResumablePlateau(history, options.learning_rate, **PLATEAU)] if is_plateau else []),
        keras.callbacks.TensorBoard(setup.directory / run_dir.TENSORBOARD, histogram_freq=1),
        checkpoint.Checkpointer(setup, progress, best, (variables, history), request),
    ]
    while not is_trained():
        # An epoch that was interrupted is finished by a `fit` of its own: Keras's epochs are of one length. Where Keras
        # takes several steps per call, each epoch is: Keras takes fewer at its end only if the data set ends there.
        is_one_epoch = progress.step_in_epoch or (setup.steps_per_call > 1 and not setup.is_stacked)
        last_epoch = progress.epoch + 1 if is_one_epoch else options.epochs
        first_step = progress.epoch * setup.order.steps_per_epoch + progress.step_in_epoch
        model.fit(
            batching.measured(setup.training_batches(setup.order.starts(first_step, last_epoch)), stall),
            steps_per_epoch=setup.num_calls(progress.step_in_epoch),
            initial_epoch=progress.epoch,
            epochs=last_epoch,
            callbacks=CallbackList(callbacks, add_history=True, model=model),
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    return history, best.model_sha256


def build_optimizer(options: Options, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The learning rate is a number, which a callback may change, or with --schedule=cosine a function of the step
    (Loshchilov & Hutter, "SGDR", ICLR 2017, without restarts).
    """
    rate = options.learning_rate
    if options.schedule == "cosine":
        warmup_steps = round(options.warmup_epochs * steps_per_epoch)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup_steps else options.learning_rate,
            decay_steps=options.epochs * steps_per_epoch - warmup_steps,
            warmup_target=options.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    return _OPTIMIZERS[options.optimizer](rate, weight_decay=options.weight_decay or None)


def build_loss(options: Options) -> keras.losses.Loss:
    """Binary cross-entropy, or generalized cross-entropy where --gce_q is not 0, with --label_smoothing."""
    if not options.gce_q:
        return keras.losses.BinaryCrossentropy(label_smoothing=options.label_smoothing)
    return GeneralizedCrossentropy(options.gce_q, options.label_smoothing)


class GeneralizedCrossentropy(keras.losses.Loss):
    """(1 - p^q) / q of the labelled class's probability p, q in (0, 1]: wrong labels pull less than in cross-entropy
    (Zhang & Sabuncu, NeurIPS 2018). Keras has it for one-hot classes only, without label smoothing, and with an
    infinite gradient where p is 0.
    """

    def __init__(self, q: float, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self._q, self._label_smoothing = q, label_smoothing

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Labels [batch] or [batch, 1] and probabilities [batch, 1], float32 -> losses [batch]."""
        y_true = ops.reshape(y_true, ops.shape(y_pred)) * (1 - self._label_smoothing) + self._label_smoothing / 2
        p = ops.clip(y_pred, keras.config.epsilon(), 1 - keras.config.epsilon())
        losses = y_true * (1 - p**self._q) + (1 - y_true) * (1 - (1 - p) ** self._q)
        return ops.mean(losses / self._q, axis=-1)
