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
from trainers.augmentation import params
from trainers.augmentation.apply import augmented, save_preview
from trainers.data import TrainingData
from trainers.input_pipeline import batching
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.models import architectures, features, vgg_weights
from trainers.training import hardware
from trainers.training.optimizer import class_weights
from trainers.training_flags import Options

_FEATURES = "features"  # input mode of a head that is trained on what its frozen backbone gives

OpenBatches = Callable[[int, int], tf.data.Dataset]
"""(epoch, step in it) -> batches from there on, all epochs in a row."""
_BatchesFrom = Callable[[int], tf.data.Dataset]  # by the step over all epochs


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """Everything that training needs.

    Attributes:
      options: the flags.
      hardware: what the run computes on.
      input_mode: how cells are read, see `trainers.input_pipeline.batching`, or "features".
      model: the model that is saved: uint8 RGB [batch, size, size, 3] -> probability [batch, 1].
      training_model: what `fit` gets, and `open_batches` is for; shares its weights with `model`.
      validation_model: what takes `validation_batches`; shares its weights with `model`.
      open_batches: opens the training batches.
      validation_batches: the validation split.
      run: see `run_dir.identity`.
      check_data: raises InputError if the data set has been replaced: nothing may be saved then.
      num_cells: trained cells per epoch.
      steps_per_epoch: trained steps per epoch.
    """

    options: Options
    hardware: hardware.Hardware
    input_mode: str
    model: keras.Model
    training_model: keras.Model
    validation_model: keras.Model
    open_batches: OpenBatches
    validation_batches: tf.data.Dataset
    run: str
    check_data: Callable[[], None]
    num_cells: int
    steps_per_epoch: int

    @property
    def directory(self) -> Path:
        """The run's folder."""
        return Path(self.options.run_dir)


def build(data: TrainingData, options: Options, record: run_dir.Run) -> TrainSetup:
    """Chooses hardware and input, builds the model and opens its data; notes the choices in `run.json`.

    Args:
      data: the data set and its splits.
      options: the flags.
      record: `run.json`; a run that continues keeps its precision and input, even where `auto` would now choose others.

    Raises:
      InputError: if the weights or a shard cannot be read, or the cells cannot be shared by several devices.
    """
    name = record["model"]
    used = hardware.prepare(
        name,
        precision=options.precision,
        policy=record.get("hardware", {}).get("policy"),
        jit_compile=options.jit_compile,
        distribute=options.distribute,
        batch_size=options.batch_size,
    )
    if not options.ranges.is_nothing:
        (image, *_), *_ = batching.evaluation_batches(data.train, 1).take(1)
        with optional(run_dir.AUGMENTATION):
            save_preview(image.numpy()[0], options.ranges, options.seed, Path(options.run_dir) / run_dir.AUGMENTATION)
    keras.utils.set_random_seed(options.seed)
    # A frozen backbone needs to see each cell only once; augmented cells are new ones in each epoch.
    is_on_features = name == "vgg_frozen" and options.ranges.is_nothing
    mode = record.get("input", {}).get("mode")
    if mode is None:
        mode = _FEATURES if is_on_features else batching.choose_mode(options.input, data.train)
    record["input"] = {"mode": mode, "batch_size": options.batch_size, "shard_count": 1}
    record["hardware"] = {"policy": used.policy, "jit_compile": used.jit_compile, "num_replicas": used.num_replicas}
    run_dir.write(options.run_dir, record)

    with used.scope():
        model = _build_model(name, data.train.image_size_px, options)
    order = ShuffleOrder(data.train.num_cells, options.batch_size, options.seed)
    num_left_out = _count_left_out(order, used)
    if is_on_features:
        training_model, validated, batches_from, validation = _on_features(model, data, options, order, used, record)
    else:
        if name == "vgg_frozen":
            print("augmentation is on, so features are not cached: the frozen layers compute every cell in each epoch")
        training_model, validated, batches_from, validation = _on_cells(model, data, options, order, mode, used)
    return TrainSetup(
        options=options,
        hardware=used,
        input_mode=mode,
        model=model,
        training_model=training_model,
        validation_model=keras.Model(validated.inputs, validated.outputs, name=validated.name),
        open_batches=_open_batches(batches_from, data, options, order, only_full=bool(num_left_out)),
        validation_batches=validation,
        run=run_dir.identity(record),
        check_data=data.train.check_unchanged,
        num_cells=order.num_cells - num_left_out,
        steps_per_epoch=order.steps_per_epoch - bool(num_left_out),
    )


def _build_model(name: str, image_size_px: int, options: Options) -> keras.Model:
    architecture = getattr(architectures, name)
    if options.vgg_input is None or options.vgg_weights is None:
        return architecture(image_size_px, dropout_rate=options.dropout_rate)
    model = architecture(image_size_px, vgg_input=options.vgg_input, dropout_rate=options.dropout_rate)
    print("\n".join(vgg_weights.load(model, options.vgg_weights)))
    return model


def _count_left_out(order: ShuffleOrder, used: hardware.Hardware) -> int:
    """Cells of an epoch's smaller last batch, if several devices cannot share it."""
    if used.num_replicas == 1:
        return 0
    num_left_out = order.num_cells % order.batch_size
    if num_left_out == order.num_cells:
        raise InputError(
            f"--batch_size={order.batch_size} is more than the {order.num_cells} cells of --train_split, and several "
            "devices share full batches only; give a smaller one"
        )
    if num_left_out:
        print(f"each epoch's last {num_left_out} cells are left out: several devices share full batches only")
    return num_left_out


def _on_cells(
    model: keras.Model, data: TrainingData, options: Options, order: ShuffleOrder, mode: str, used: hardware.Hardware
) -> tuple[keras.Model, keras.Model, _BatchesFrom, tf.data.Dataset]:
    ranges = options.ranges
    with used.scope():
        training_model = model if ranges.is_nothing else augmented(model, ranges.fill, by_gathers=used.jit_compile)
    plain_batches = batching.open_training(data.train, order, options.epochs, mode)

    def batches_from(step: int) -> tf.data.Dataset:
        batches = plain_batches(step)
        if ranges.is_nothing:
            return batches
        return params.with_augmentation_params(batches, ranges, data.train.image_size_px, options.seed, step)

    validation = batching.evaluation_batches(data.validation, options.batch_size)
    return training_model, model, batches_from, validation.map(lambda image, label, *_: (image, label))


def _on_features(
    model: keras.Model,
    data: TrainingData,
    options: Options,
    order: ShuffleOrder,
    used: hardware.Hardware,
    record: run_dir.Run,
) -> tuple[keras.Model, keras.Model, _BatchesFrom, tf.data.Dataset]:
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
    return head, head, lambda step: features.training_batches(train, order, options.epochs, step), validation_batches


def _open_batches(
    batches_from: _BatchesFrom, data: TrainingData, options: Options, order: ShuffleOrder, only_full: bool
) -> OpenBatches:
    """Batches by epoch and step; for several devices the full ones only, and with --class_weight behind each label."""
    weights = None
    if options.class_weight != "none":
        labels = [label.numpy() for _, label, *_ in batching.evaluation_batches(data.train, 1024)]
        weights = tf.constant(class_weights(options.class_weight, np.concatenate(labels)))

    def open_batches(epoch: int, step_in_epoch: int) -> tf.data.Dataset:
        batches = batches_from(epoch * order.steps_per_epoch + step_in_epoch)
        if only_full:
            batches = batches.filter(lambda _, label: tf.shape(label)[0] == order.batch_size)
        if weights is None:
            return batches
        return batches.map(lambda inputs, label: (inputs, label, tf.gather(weights, label)))

    return open_batches
