"""What the recipe's flags mean in Keras: optimizer, learning rate, loss, class weights."""

import keras
import numpy as np
from keras import ops
from sklearn.utils.class_weight import compute_class_weight

from pipeline.cells import LABELS
from pipeline.errors import InputError
from trainers.training_flags import Options

PLATEAU: dict[str, float | str] = {"monitor": "val_loss", "factor": 0.5, "patience": 2, "min_lr": 1e-6}
"""Of `keras.callbacks.ReduceLROnPlateau`, for --schedule=plateau."""

_OPTIMIZERS = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}


def build_optimizer(options: Options, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer with its learning rate schedule."""
    return _OPTIMIZERS[options.optimizer](
        learning_rate(options, steps_per_epoch), weight_decay=options.weight_decay or None
    )


def learning_rate(options: Options, steps_per_epoch: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """A number, which a callback may change, or for --schedule=cosine a function of the step: Loshchilov & Hutter,
    "SGDR", ICLR 2017, without restarts.
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


def build_loss(options: Options) -> keras.losses.Loss:
    """Binary cross-entropy, or generalized cross-entropy where --gce_q is not 0, with --label_smoothing."""
    if not options.gce_q:
        return keras.losses.BinaryCrossentropy(label_smoothing=options.label_smoothing)
    return GeneralizedCrossentropy(options.gce_q, options.label_smoothing)


class GeneralizedCrossentropy(keras.losses.Loss):
    """(1 - p^q) / q of the labelled class's probability p: a wrong label pulls less than in cross-entropy, the limit
    for q = 0 (Zhang & Sabuncu, NeurIPS 2018).

    Keras has it for one-hot classes only, without label smoothing, and with an infinite gradient where p is 0. q is in
    (0, 1], and `label_smoothing` is as in `keras.losses.BinaryCrossentropy`.
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


def class_weights(mode: str, labels: np.ndarray) -> np.ndarray:
    """Weight of each class in the loss, float32 [classes], for int labels [cells] of the training split.

    The mode is scikit-learn's: "balanced", that is num_cells / (num_classes × num_cells_of_class). Raises InputError
    if one of the classes has no cells.
    """
    classes = np.arange(len(LABELS))
    if len(present := np.unique(labels)) < len(classes):
        raise InputError(
            f"--class_weight={mode} needs cells of both classes, but the training split has only "
            f"{' and '.join(LABELS[label] for label in present)}; give another --train_split or --class_weight=none"
        )
    return compute_class_weight(mode, classes=classes, y=labels).astype(np.float32)
