"""What is trained, on what: the model that comes out, the model that `fit` sees, and the batches for both."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import InputError
from trainers import run_dir
from trainers.augmentation.apply import augmented
from trainers.augmentation.params import with_augmentation_params
from trainers.data import TrainingData
from trainers.input_pipeline import batching
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.models import architectures, features, vgg_weights
from trainers.training.class_weight import class_weight
from trainers.training.hardware import Hardware
from trainers.training_flags import Options

FEATURES = "features"
"""Mode of the input of a head that is trained on what its frozen backbone gave."""


class TrainSetup(NamedTuple):
    """What is trained, on what.

    Attributes:
      saved: the model that comes out: uint8 RGB [batch, size, size, 3] -> probability [batch, 1].
      trained: what `fit` gets; shares its weights with `saved`.
      judged: takes what `validation` has; shares its weights with `saved`.
      open_batches: (epoch, step in it) -> batches for `trained` from there on, all epochs in a row.
      validation: batches for `judged`.
      num_cells: trained cells an epoch.
      steps_per_epoch: trained steps an epoch.
    """

    saved: keras.Model
    trained: keras.Model
    judged: keras.Model
    open_batches: Callable[[int, int], tf.data.Dataset]
    validation: tf.data.Dataset
    num_cells: int
    steps_per_epoch: int


def trains_on_features(model: str, options: Options) -> bool:
    """Whether a frozen backbone sees each cell only once; augmented cells are new ones each time."""
    return model == "vgg_frozen" and options.ranges.is_nothing


def open_study(model: str, task: TrainingData, options: Options, mode: str, used: Hardware) -> TrainSetup:
    """Builds a model and opens its data.

    Args:
      model: name of a function of `trainers.models.architectures`.
      task: the data set and its splits.
      options: the flags.
      mode: of the input.
      used: the hardware; several devices cannot share an epoch's smaller last batch.

    Raises:
      InputError: if the weights cannot be read, or the cells cannot be shared by several devices.
    """
    with used.scope():
        saved = _build(model, task.train.image_size_px, options)
    order = ShuffleOrder(task.train.num_cells, options.batch_size, options.seed)
    num_left_out = _count_left_out(order, options, used)
    if trains_on_features(model, options):
        study = _on_features(saved, task, options, order, used)
    else:
        if model == "vgg_frozen":
            print("the frozen layers see every cell anew in each epoch, since it is augmented")
        study = _on_cells(saved, task, options, order, mode, used)
    weights = class_weight(options.class_weight, _labels(task)) if options.class_weight != "none" else None

    def open_batches(epoch: int, step_in_epoch: int) -> tf.data.Dataset:
        batches = study.open_batches(epoch, step_in_epoch)
        if num_left_out:
            batches = batching.without_smaller_batches(batches, order.batch_size)
        return batching.with_class_weights(batches, weights) if weights else batches

    return study._replace(
        open_batches=open_batches,
        num_cells=order.num_cells - num_left_out,
        steps_per_epoch=order.steps_per_epoch - bool(num_left_out),
    )


def _build(model: str, image_size_px: int, options: Options) -> keras.Model:
    build = getattr(architectures, model)
    if options.vgg_input is None or options.vgg_weights is None:
        return build(image_size_px, dropout_rate=options.dropout_rate)
    built = build(image_size_px, vgg_input=options.vgg_input, dropout_rate=options.dropout_rate)
    print("\n".join(vgg_weights.load(built, options.vgg_weights)))
    return built


def _count_left_out(order: ShuffleOrder, options: Options, used: Hardware) -> int:
    if used.num_replicas == 1:
        return 0
    num_left_out = order.num_cells % order.batch_size
    if num_left_out == order.num_cells:
        raise InputError(
            f"--batch_size={order.batch_size} is more than the {order.num_cells} cells of --train_split, and several "
            "devices share whole batches only; give a smaller one"
        )
    if num_left_out:
        print(f"each epoch's last {num_left_out} cells are left out: several devices share whole batches only")
    return num_left_out


def _on_cells(
    saved: keras.Model, task: TrainingData, options: Options, order: ShuffleOrder, mode: str, used: Hardware
) -> TrainSetup:
    ranges = options.ranges
    with used.scope():
        trained = saved if ranges.is_nothing else augmented(saved, ranges.fill)

    batches_from = batching.open_training(task.train, order, options.epochs, mode)

    def open_batches(epoch: int, step_in_epoch: int) -> tf.data.Dataset:
        first = epoch * order.steps_per_epoch + step_in_epoch
        batches = batches_from(first)
        if ranges.is_nothing:
            return batches
        return with_augmentation_params(batches, ranges, task.train.image_size_px, options.seed, first)

    validation = batching.evaluation_batches(task.validation, options.batch_size)
    return TrainSetup(
        saved=saved,
        trained=trained,
        # Judged outside of the devices' scope, on one of them: it takes batches of any size.
        judged=keras.Model(saved.inputs, saved.outputs, name=saved.name),
        open_batches=open_batches,
        validation=validation.map(lambda image, label, *_: (image, label)),
        num_cells=order.num_cells,
        steps_per_epoch=order.steps_per_epoch,
    )


def _on_features(
    saved: keras.Model, task: TrainingData, options: Options, order: ShuffleOrder, used: Hardware
) -> TrainSetup:
    with used.scope():
        backbone, head = features.split_backbone(saved)
    train, validation = (
        features.extract(
            backbone,
            split,
            task.data_set.manifest,
            Path(options.run_dir) / run_dir.FEATURES,
            vgg_input=options.vgg_input,
            batch_size=options.batch_size,
            jit_compile=used.jit_compile,
        )
        for split in (task.train, task.validation)
    )
    return TrainSetup(
        saved=saved,
        trained=head,
        judged=keras.Model(head.inputs, head.outputs, name=head.name),
        open_batches=lambda epoch, step_in_epoch: features.training_batches(
            train, order, options.epochs, epoch * order.steps_per_epoch + step_in_epoch
        ),
        validation=features.evaluation_batches(validation, options.batch_size),
        num_cells=order.num_cells,
        steps_per_epoch=order.steps_per_epoch,
    )


def _labels(task: TrainingData) -> np.ndarray:
    batches = batching.evaluation_batches(task.train, 1024)
    return np.concatenate([label.numpy() for _, label, *_ in batches])
