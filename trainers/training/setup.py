"""What a run trains, on what: hardware, models and batches for the flags, built once."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import InputError
from pipeline.plot_style import optional
from trainers import run_dir
from trainers.augmentation.apply import save_preview
from trainers.data import TrainingData
from trainers.input_pipeline import batching, memory
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.training import hardware, hosts, models_and_batches
from trainers.training_flags import Options

_NUM_LOOKED_AT = 64  # cells of the training split, for some of both classes
_FEATURES = "features"  # input mode of a head that is trained on what its frozen backbone gives


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """Everything that training needs; the three models share their weights."""

    options: Options
    data: TrainingData
    identity: str  # see `run_dir.identity`
    hardware: hardware.Hardware
    input_mode: str  # how cells are read, see `trainers.input_pipeline.batching`, or "features"
    model: keras.Model  # is saved: uint8 RGB [batch, size, size, 3] -> probability [batch, 1]
    training_model: keras.Model  # takes `training_batches`
    validation_model: keras.Model  # takes `validation_batches`
    training_batches: Callable[[tf.data.Dataset], tf.data.Dataset]  # `ShuffleOrder.starts` -> the batches from there on
    validation_batches: tf.data.Dataset
    order: ShuffleOrder
    num_cells: int  # trained cells per epoch
    steps_per_epoch: int  # trained steps per epoch
    steps_per_call: int  # of the compiled function; fewer at an epoch's end
    is_stacked: bool  # whether `training_batches` gives the batches of a call at once, see `ManySteps`

    @property
    def directory(self) -> Path:
        return Path(self.options.run_dir)

    @property
    def _num_full(self) -> int:  # steps that can share a call: if they are stacked, not that of a smaller last batch
        return self.num_cells // self.options.batch_size if self.is_stacked else self.steps_per_epoch

    def after_call(self, step_in_epoch: int) -> int:  # how many steps are done then
        limit = self._num_full if step_in_epoch < self._num_full else self.steps_per_epoch
        return min(step_in_epoch + self.steps_per_call, limit)

    def num_calls(self, step_in_epoch: int) -> int:  # of an epoch, from a step on
        if not self.is_stacked:
            return self.steps_per_epoch - step_in_epoch
        return -(-(self._num_full - step_in_epoch) // self.steps_per_call) + self.steps_per_epoch - self._num_full


def build(data: TrainingData, options: Options, record: run_dir.Run) -> TrainSetup:
    """Chooses hardware and input, builds the model and opens its data; notes the choices in `run.json`.

    A run that continues keeps its precision and input, even where `auto` would now choose others. Raises InputError if
    the weights or a shard cannot be read, or the cells cannot be shared by several devices.
    """
    name = record["model"]
    used = hardware.prepare(name, options, record.get("hardware", {}).get("policy"))
    if not options.ranges.is_nothing:
        (images, labels, *_), *_ = batching.evaluation_batches(data.train, _NUM_LOOKED_AT).take(1)
        with optional(run_dir.AUGMENTATION):
            path = Path(options.run_dir) / run_dir.AUGMENTATION
            save_preview(images.numpy(), labels.numpy(), options.ranges, options.seed, path)
    keras.utils.set_random_seed(options.seed)
    is_on_features = name == "vgg_frozen" and options.ranges.is_nothing and not used.distribution
    mode = record.get("input", {}).get("mode") or (_FEATURES if is_on_features else _choose_mode(data, options, used))
    order = ShuffleOrder(data.train.num_cells, options.batch_size, options.seed)
    if used.distribution:
        shard = used.distribution.data_shard_id
        order = order._replace(shard_index=shard, shard_count=used.distribution.num_processes, is_padded=True)
    with used.scope():
        model = models_and_batches.build_model(name, data.train.image_size_px, options)
    num_left_out = _count_left_out(order, used)
    order = order._replace(only_full=bool(num_left_out))
    steps_per_epoch = order.steps_per_epoch - bool(num_left_out)
    steps_per_call = hardware.choose_steps_per_call(options.steps_per_execution, steps_per_epoch)
    is_stacked = mode == "device" and steps_per_call > 1 and not (used.strategy or used.distribution)
    weights = None
    if options.class_weight != "none":
        labels = np.concatenate([label.numpy() for _, label, *_ in batching.evaluation_batches(data.train, 1024)])
        weights = models_and_batches.class_weights(options.class_weight, labels)
        record["class_weights"] = weights.tolist()
    finish = models_and_batches.finish(options, data.train.image_size_px, order, weights)
    parts = models_and_batches.Parts(data, options, used, order, finish)
    if is_on_features:
        built = models_and_batches.on_features(model, parts, record)
    else:
        if name == "vgg_frozen":
            reason = "several hosts train" if used.distribution else "augmentation is on"
            print(f"{reason}, so features are not cached: the frozen layers compute every cell in each epoch")
        built = models_and_batches.on_cells(model, parts, mode, steps_per_call if is_stacked else None)
    training_model, validation_model, training, validation = built
    if weights is not None:
        with tf.device("cpu"):
            by_class = tf.constant(weights)
        validation = validation.map(lambda cells, label: (cells, label, tf.gather(by_class, label)))
    record["input"] = {"mode": mode, "batch_size": options.batch_size, "shard_count": order.shard_count}
    record["input"]["steps_per_execution"] = steps_per_call
    record["hardware"] = {"policy": used.policy, "jit_compile": used.jit_compile, "num_replicas": used.num_replicas}
    run_dir.write(options.run_dir, record)
    if used.distribution:
        training_model = models_and_batches.Padded(
            training_model.input, training_model.output, name=training_model.name
        )
    return TrainSetup(
        options=options,
        data=data,
        identity=run_dir.identity(record),
        hardware=used,
        input_mode=mode,
        model=model,
        training_model=training_model,
        # One of its own, since it is compiled in another way.
        validation_model=keras.Model(validation_model.inputs, validation_model.outputs, name=validation_model.name),
        training_batches=training,
        validation_batches=validation,
        order=order,
        num_cells=order.num_cells - num_left_out,
        steps_per_epoch=steps_per_epoch,
        steps_per_call=steps_per_call,
        is_stacked=is_stacked,
    )


def _choose_mode(data: TrainingData, options: Options, used: hardware.Hardware) -> str:
    gpu_bytes = memory.free_gpu_bytes(hardware.gpus())
    mode = batching.choose_mode(options.input, data.train, data.train.num_bytes + data.validation.num_bytes, gpu_bytes)
    return hosts.same_on_all(mode) if used.distribution else mode


def _count_left_out(order: ShuffleOrder, used: hardware.Hardware) -> int:
    """Cells of an epoch's smaller last batch, if several devices cannot share it."""
    num_left_out = 0 if used.num_replicas == 1 or used.distribution else order.num_cells % order.batch_size
    if num_left_out == order.num_cells:
        text = f"--batch_size={order.batch_size} is more than the {order.num_cells} cells of --train_split"
        raise InputError(f"{text}, and several devices share full batches only; give a smaller one")
    if num_left_out:
        print(f"each epoch's last {num_left_out} cells are left out: several devices share full batches only")
    return num_left_out
