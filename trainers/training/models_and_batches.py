"""The models that train and validate, and their batches: on cells, or on what a frozen backbone gives for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops
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
from trainers.tf_import import JAX
from trainers.training import hardware
from trainers.training_flags import Options

Built = tuple[keras.Model, keras.Model, Callable[[tf.data.Dataset], tf.data.Dataset], tf.data.Dataset]
"""What trains, what validates, `ShuffleOrder.starts` -> the batches of the one, the batches of the other."""


class ManySteps(keras.Model):
    """A model whose `fit` gets the batches of several steps at once, along a first axis, and takes step after step.

    Keras's `steps_per_execution` is not that: on TensorFlow each step still asks an iterator for its batch, which takes
    longer than a small model's step, and on JAX Python calls each step.
    """

    def compile(self, *arguments: Any, **options: Any) -> None:
        super().compile(*arguments, **options)
        # Builds them: `fit` would do so for the batches of several steps as if for one.
        self.compute_loss(y=ops.zeros((1,)), y_pred=ops.zeros((1, 1)))
        self.compute_metrics(None, ops.zeros((1,)), ops.zeros((1, 1)))

    def train_step(self, *arguments: Any) -> Any:
        take_step = super().train_step  # takes (data) on TensorFlow and (state, data) on JAX
        if keras.backend.backend() == JAX:
            import jax

            state, data = arguments
            state, logs = jax.lax.scan(lambda state, batch: take_step(state, batch)[::-1], state, data)
            return {name: values[-1] for name, values in logs.items()}, state
        (data,) = arguments

        def one(i: tf.Tensor) -> tf.Tensor:
            take_step(tf.nest.map_structure(lambda values: values[i], data))
            return i + 1

        num_steps = tf.shape(tf.nest.flatten(data)[0])[0]
        tf.while_loop(lambda i: i < num_steps, one, [tf.constant(0)], parallel_iterations=1)
        return self.get_metrics_result()


class Padded(keras.Model):
    """A model for several hosts, whose batches are of one length: an epoch's last one is padded by cells of weight 0.

    Its running loss and accuracy leave those out; Keras counts them in both.
    """

    def compile(self, *, metrics: list[Any], **options: Any) -> None:
        super().compile(weighted_metrics=metrics, **options)  # by no other weights than 0 and 1

    def compute_metrics(
        self, x: Any, y: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: keras.KerasTensor
    ) -> dict[str, keras.KerasTensor]:
        # The loss has been added for as many cells as `x` has: the padding is taken back out of it.
        is_cell = ops.cast(sample_weight > 0, "float32")
        (loss,) = (metric for metric in self.metrics if metric.name == "loss")
        loss.update_state(self.compute_loss(x, y, y_pred, sample_weight), sample_weight=ops.sum(is_cell - 1))
        return super().compute_metrics(x, y, y_pred, is_cell)


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


class Parts(NamedTuple):
    """What models and batches are built from."""

    data: TrainingData
    options: Options
    used: hardware.Hardware
    order: ShuffleOrder
    finish: batching.Finish


def on_cells(model: keras.Model, parts: Parts, mode: str, steps_per_call: int | None) -> Built:
    """Models and batches of images, in an input mode; with `steps_per_call` the batches of a call are stacked."""
    data, options, used, order, finish = parts
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


def on_features(model: keras.Model, parts: Parts, record: run_dir.Run) -> Built:
    """The same for a head on the features of its frozen backbone."""
    data, options, used, order, finish = parts
    with used.scope():
        backbone, head = features.split_backbone(model, used.jit_compile)
    digest = features.digest(backbone)
    if record.setdefault("backbone_digest", digest) != digest:  # the checkpoint holds the head alone
        text = f"--vgg_weights={options.vgg_weights} has other weights than {options.run_dir} began with"
        raise InputError(f"{text}; give the same file, or another --run_dir")
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
        text = f"--class_weight={mode} needs cells of both classes, but the training split has only"
        text = f"{text} {' and '.join(LABELS[label] for label in present)}"
        raise InputError(f"{text}; give another --train_split or --class_weight=none")
    return compute_class_weight(mode, classes=np.arange(len(LABELS)), y=labels).astype(np.float32)
