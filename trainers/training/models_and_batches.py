"""The models that train and validate, and their batches: on cells, or on what a frozen backbone gives for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from pipeline.cells import LABELS
from pipeline.errors import InputError
from trainers import run_dir
from trainers.augmentation import params
from trainers.augmentation.apply import augmented
from trainers.data import TrainingData
from trainers.input_pipeline import batching, resident
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.models import architectures, custom, features, vgg_weights
from trainers.models.train_steps import ManySteps
from trainers.training import hardware
from trainers.training_flags import Options

Built = tuple[keras.Model, keras.Model, Callable[[tf.data.Dataset], tf.data.Dataset], tf.data.Dataset]
"""What trains, what validates, `ShuffleOrder.starts` -> the batches of the one, the batches of the other."""


def build_model(name: str, image_size_px: int, options: Options) -> keras.Model:
    """The model of a name in `architectures`, or that of --model; prints where a VGG's weights come from."""
    if options.model:
        return custom.build(options.model, image_size_px, options.dropout_rate)
    architecture = getattr(architectures, name)
    if options.vgg_input is None or options.vgg_weights is None:
        return architecture(image_size_px, dropout_rate=options.dropout_rate)
    model = architecture(image_size_px, vgg_input=options.vgg_input, dropout_rate=options.dropout_rate)
    print("\n".join(vgg_weights.load(model, options.vgg_weights)))
    return model


def on_cells(
    model: keras.Model,
    data: TrainingData,
    options: Options,
    finish: batching.Finish,
    order: ShuffleOrder,
    used: hardware.Hardware,
    mode: str,
    steps_per_call: int | None,
) -> Built:
    """Models and batches of images, in an input mode; with `steps_per_call` the batches of a call are stacked."""
    with used.scope():
        if options.ranges.is_nothing:  # `model` itself is not compiled, or its file would hold the optimizer's state
            training_model = keras.Model(model.input, model.output, name=model.name)
        else:
            training_model = augmented(model, options.ranges, by_gathers=used.jit_compile)
    if mode != "device":
        validation = batching.evaluation_batches(data.validation, options.batch_size)
        validation = validation.map(lambda image, label, *_: (image, label))
        return training_model, model, batching.open_training(data.train, order, mode, finish), validation
    train, validated = (resident.load(split) for split in (data.train, data.validation))
    with used.scope():
        training_model = resident.on_device(training_model, train.images)
    labels = train.labels  # not the images, which the function would keep
    if steps_per_call:
        training_model = ManySteps(training_model.input, training_model.output, name=training_model.name)
    return (
        training_model,
        resident.on_device(model, validated.images),
        lambda starts: batching.training_rows(labels, order, starts, finish, steps_per_call),
        batching.evaluation_rows(validated.labels, options.batch_size),
    )


def on_features(
    model: keras.Model,
    data: TrainingData,
    options: Options,
    finish: batching.Finish,
    order: ShuffleOrder,
    used: hardware.Hardware,
    record: run_dir.Run,
) -> Built:
    """The same for a head on the features of its frozen backbone."""
    with used.scope():
        backbone, head = features.split_backbone(model, used.jit_compile)
    digest = features.digest(backbone)
    if record.setdefault("backbone_digest", digest) != digest:  # the checkpoint holds the head alone
        raise InputError(
            f"--vgg_weights={options.vgg_weights} has other weights than {options.run_dir} began with; give the same "
            "file, or another --run_dir"
        )
    cache = Path(options.run_dir) / run_dir.FEATURES
    train, validation = (
        features.extract(backbone, split, cache, vgg_input=options.vgg_input, batch_size=options.batch_size)
        for split in (data.train, data.validation)
    )
    batches = features.evaluation_batches(validation, options.batch_size)
    return head, head, lambda starts: features.training_batches(train, order, starts, finish), batches


def finish(options: Options, image_size_px: int, order: ShuffleOrder, weights: np.ndarray | None) -> batching.Finish:
    """Adds the numbers of augmentation to the cells of a batch, and weights of the classes behind the labels."""
    with tf.device("cpu"):
        by_class = None if weights is None else tf.constant(weights)

    def finish(step: tf.Tensor, cells: tf.Tensor, label: tf.Tensor) -> tuple[Any, ...]:
        inputs: Any = cells
        if not options.ranges.is_nothing:
            position = step * options.batch_size
            # Of the whole batches, or they would not follow one another.
            shape = tf.shape(label) * [*[1] * (label.shape.rank - 1), order.shard_count]
            numbers = params.sample(options.ranges, image_size_px, options.seed, position, shape)
            inputs = {"image": cells, "augmentation": numbers[..., slice(*order.bounds), :]}
        if order.is_padded:
            weight = tf.broadcast_to(order.weights(step), tf.shape(label))
            return inputs, label, weight if by_class is None else weight * tf.gather(by_class, label)
        return (inputs, label) if by_class is None else (inputs, label, tf.gather(by_class, label))

    return finish


def class_weights(mode: str, labels: np.ndarray) -> np.ndarray:
    """Weight of each class in the loss, float32 [classes], for int labels [cells], by a mode of scikit-learn."""
    if len(present := np.unique(labels)) < len(LABELS):
        raise InputError(
            f"--class_weight={mode} needs cells of both classes, but the training split has only "
            f"{' and '.join(LABELS[label] for label in present)}; give another --train_split or --class_weight=none"
        )
    return compute_class_weight(mode, classes=np.arange(len(LABELS)), y=labels).astype(np.float32)
