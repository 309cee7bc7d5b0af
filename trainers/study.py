"""What is trained, on what: the model that comes out, the model that `fit` sees, and the batches for both."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from pipeline.errors import InputError
from trainers import feed, input_pipeline, models
from trainers.augmentation import augmented
from trainers.corruption import DamagedRecords
from trainers.data import Task
from trainers.hardware import Hardware
from trainers.order import Order
from trainers.training_flags import Options


class Study(NamedTuple):
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


def open_study(model: str, task: Task, options: Options, mode: str, used: Hardware, damaged: DamagedRecords) -> Study:
    """Builds a model and opens its data.

    Args:
      model: name of a function of `trainers.models`.
      task: the data set and its splits.
      options: the flags.
      mode: of the input.
      used: the hardware; several devices cannot share an epoch's smaller last batch.
      damaged: told of damaged records.

    Raises:
      InputError: if an epoch has no whole batch for several devices.
    """
    ranges, size = options.ranges, task.train.image_size_px
    with used.scope():
        saved = getattr(models, model)(size, dropout_rate=options.dropout_rate)
        trained = saved if ranges.is_nothing else augmented(saved, ranges.fill)
    order = Order(task.train.num_cells, options.batch_size, options.seed)
    num_left_out = order.num_cells % order.batch_size if used.num_replicas > 1 else 0
    if num_left_out == order.num_cells:
        raise InputError(
            f"--batch_size={order.batch_size} is more than the {order.num_cells} cells of --train_split, and several "
            "devices share whole batches only; give a smaller one"
        )
    if num_left_out:
        print(f"each epoch's last {num_left_out} cells are left out: several devices share whole batches only")
    class_weights = None

    def open_batches(epoch: int, step_in_epoch: int) -> tf.data.Dataset:
        first = epoch * order.steps_per_epoch + step_in_epoch
        batches = input_pipeline.training_batches(
            task.train, order, options.epochs, mode, start_step=first, damaged=damaged
        )
        if not ranges.is_nothing:
            batches = feed.with_draws(batches, ranges, size, options.seed, first)
        if num_left_out:
            batches = feed.whole_batches(batches, order.batch_size)
        return feed.with_class_weights(batches, class_weights) if class_weights else batches

    # Judged outside of the scope, on one device: it takes batches of any size.
    validation = input_pipeline.evaluation_batches(task.validation, options.batch_size)
    return Study(
        saved=saved,
        trained=trained,
        judged=keras.Model(saved.inputs, saved.outputs, name=saved.name),
        open_batches=open_batches,
        validation=validation.map(lambda image, label, *_: (image, label)),
        num_cells=order.num_cells - num_left_out,
        steps_per_epoch=order.steps_per_epoch - bool(num_left_out),
    )
