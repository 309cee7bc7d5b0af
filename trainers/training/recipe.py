"""How a model is trained, as far as Keras's own parts say it: optimizer, schedule, loss, weights of the classes."""

import keras

from trainers.training_flags import Options

PLATEAU: dict[str, float | str] = {"monitor": "val_loss", "factor": 0.5, "patience": 2, "min_lr": 1e-6}
_OPTIMIZERS = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}


def optimizer(options: Options, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule.

    Args:
      options: the flags.
      steps_per_epoch: trained steps an epoch.
    """
    return _OPTIMIZERS[options.optimizer](
        learning_rate(options, steps_per_epoch), weight_decay=options.weight_decay or None
    )


def learning_rate(options: Options, steps_per_epoch: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The rate: a number that a callback may change, or cosine's function of the step.

    Source of the cosine: Loshchilov & Hutter, "SGDR", ICLR 2017, without restarts.
    """
    if options.schedule != "cosine":
        return options.learning_rate
    warmup_steps = round(options.warmup_epochs * steps_per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else options.learning_rate,
        decay_steps=options.epochs * steps_per_epoch - warmup_steps,
        warmup_target=options.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def loss(options: Options) -> keras.losses.Loss:
    """Binary cross-entropy, with smoothed labels if asked for."""
    return keras.losses.BinaryCrossentropy(label_smoothing=options.label_smoothing)
