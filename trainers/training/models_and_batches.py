"""The models that train and validate, and their batches: on cells, or on what a frozen backbone gives for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import InputError
from trainers import run_dir
from trainers.augmentation import params
from trainers.augmentation.apply import augmented
from trainers.data import TrainingData
from trainers.input_pipeline import batching, device, resident
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.models import features
from trainers.models.many_steps import ManySteps
from trainers.training import hardware
from trainers.training.optimizer import class_weights
from trainers.training_flags import Options

Open = Callable[[tf.data.Dataset], tf.data.Dataset]  # `ShuffleOrder.starts` -> what `fit` gets


def on_cells(
    model: keras.Model,
    data: TrainingData,
    options: Options,
    order: ShuffleOrder,
    mode: str,
    used: hardware.Hardware,
    steps_per_call: int | None,
) -> tuple[keras.Model, keras.Model, tf.data.Dataset, Open]:
    """Gives the model that trains, the one that validates, and their batches; `steps_per_call` if those are stacked."""
    with used.scope():
        training_model = (
            model if options.ranges.is_nothing else augmented(model, options.ranges, by_gathers=used.jit_compile)
        )
    finish = _finish(data, options, order)
    if mode != "device":
        validation = batching.evaluation_batches(data.validation, options.batch_size)
        validation = validation.map(lambda image, label, *_: (image, label))
        return training_model, model, validation, batching.open_training(data.train, order, mode, finish)
    train, validated = (resident.load(split) for split in (data.train, data.validation))
    with used.scope():
        training_model = device.on_device(training_model, train.images)
    validation_model = device.on_device(model, validated.images)
    validation = device.evaluation_rows(validated.labels, options.batch_size)
    labels = train.labels  # not the images, which `open_rows` would keep
    if steps_per_call:
        training_model = ManySteps(training_model.input, training_model.output, name=training_model.name)

    def open_rows(starts: tf.data.Dataset) -> tf.data.Dataset:
        return batching.training_rows(labels, order, starts, finish, steps_per_call)

    return training_model, validation_model, validation, open_rows


def on_features(
    model: keras.Model,
    data: TrainingData,
    options: Options,
    order: ShuffleOrder,
    used: hardware.Hardware,
    record: run_dir.Run,
) -> tuple[keras.Model, keras.Model, tf.data.Dataset, Open]:
    """The same for a head on the features of its frozen backbone."""
    with used.scope():
        backbone, head = features.split_backbone(model, used.jit_compile)
    digest = features.digest(backbone)
    if record.setdefault("backbone_digest", digest) != digest:  # the checkpoint holds the head alone
        raise InputError(
            f"--vgg_weights={options.vgg_weights} has other weights than {options.run_dir} began with; give the same "
            "file, or another --run_dir"
        )
    run_dir.write(options.run_dir, record)
    cache = Path(options.run_dir) / run_dir.FEATURES
    train, validation = (
        features.extract(backbone, split, cache, vgg_input=options.vgg_input, batch_size=options.batch_size)
        for split in (data.train, data.validation)
    )
    validation_batches = features.evaluation_batches(validation, options.batch_size)
    finish = _finish(data, options, order)
    return head, head, validation_batches, lambda starts: features.training_batches(train, order, starts, finish)


def _finish(data: TrainingData, options: Options, order: ShuffleOrder) -> batching.Finish:
    """Adds the numbers of augmentation to the cells of a batch, and with --class_weight weights behind the labels."""
    weights = None
    if options.class_weight != "none":
        labels = [label.numpy() for _, label, *_ in batching.evaluation_batches(data.train, 1024)]
        with tf.device("cpu"):
            weights = tf.constant(class_weights(options.class_weight, np.concatenate(labels)))

    def finish(step: tf.Tensor, cells: tf.Tensor, label: tf.Tensor) -> tuple[Any, ...]:
        inputs: Any = cells
        if not options.ranges.is_nothing:
            position = step * options.batch_size
            size = data.train.image_size_px
            # Of the whole batches, or they would not follow one another.
            shape = tf.shape(label) * [*[1] * (label.shape.rank - 1), order.shard_count]
            numbers = params.sample(options.ranges, size, options.seed, position, shape)
            inputs = {"image": cells, "augmentation": numbers[..., slice(*order.bounds), :]}
        if order.is_padded:
            weight = tf.broadcast_to(order.weights(step), tf.shape(label))
            return inputs, label, weight if weights is None else weight * tf.gather(weights, label)
        return (inputs, label) if weights is None else (inputs, label, tf.gather(weights, label))

    return finish
