"""The training steps that benchmarks measure, and the inputs of each."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.harness.clock import SEED, SHUFFLED_RECORDS
from trainers.augmentation.ranges import Ranges
from trainers.data import Split
from trainers.training_flags import MODELS

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

CEILING = "one batch on the GPU"
ONE_BATCH = "one synthetic batch"
STEPS_PER_CALL = 32
_MANY_EPOCHS = 10_000  # more than any case reads
_EVERYTHING = Ranges(rotation_degrees=180, zoom=0.1, shift=0.05, flip="both", stain_gain=0.25, stain_hue_degrees=15)


class Step(NamedTuple):
    """A compiled training step."""

    model: str
    precision: str = "auto"
    on_device: bool = True  # it takes rows of cells that lie on the device, not images
    steps_per_call: int = STEPS_PER_CALL
    is_augmented: bool = False
    jit_compile: bool = True

    @property
    def name(self) -> str:
        """What it is, for people."""
        calls = "1 step per call" if self.steps_per_call == 1 else f"{self.steps_per_call} steps per call"
        precision = "" if self.precision == "auto" else self.precision
        more = (precision, "augmented" * self.is_augmented, "without XLA" * (not self.jit_compile))
        return ", ".join(filter(None, (self.model, calls, *more)))


def gpu_steps(with_and_without_xla: bool) -> Iterator[tuple[Step, tuple[str, ...]]]:
    """The steps that `gpu_throughput` compiles and the inputs of each, the most telling ones first."""
    for model in MODELS:
        yield Step(model), (CEILING, "device")
        yield Step(model, on_device=False, steps_per_call=1), ("resident", "mapped", "streaming", "tf.data")
    for model in MODELS:
        yield Step(model, is_augmented=True), ("device",)
        yield Step(model, precision="float32"), (CEILING, "device")
    for model in MODELS:
        yield Step(model, steps_per_call=1), (CEILING, "device")
        yield Step(model, on_device=False), ("resident",)
        if with_and_without_xla:
            yield Step(model, jit_compile=False), ("device",)


def build(step: Step, split: Split, batch_size: int) -> tuple["keras.Model", Callable[[str], "tf.data.Dataset"]]:
    """A compiled model with random weights, and its full batches of an input without end."""
    import keras
    import tensorflow as tf

    from benchmarks.baselines.input_readers import parse
    from trainers.augmentation import apply, params
    from trainers.input_pipeline import batching, resident
    from trainers.input_pipeline.shuffle_order import ShuffleOrder
    from trainers.models import architectures
    from trainers.training import hardware
    from trainers.training.models_and_batches import ManySteps

    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy(hardware.choose_precision(step.precision, step.model)[0])
    order = ShuffleOrder(split.num_cells, batch_size, SEED, only_full=True)  # each shape is compiled anew
    model = getattr(architectures, step.model)(split.image_size_px)
    if step.is_augmented:
        model = apply.augmented(model, _EVERYTHING, by_gathers=step.jit_compile)
    is_stacked = step.on_device and step.steps_per_call > 1
    if step.on_device:
        cells = resident.load(split)
        model = resident.on_device(model, cells.images)
    if is_stacked:
        model = ManySteps(model.input, model.output)
    model.compile(
        "rmsprop" if step.model.startswith("vgg") else "adam",
        "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=step.jit_compile,
        steps_per_execution=1 if is_stacked else step.steps_per_call,
    )

    def finish(at: tf.Tensor, inputs: Any, label: tf.Tensor) -> tuple[Any, tf.Tensor]:
        if step.is_augmented:
            numbers = params.sample(_EVERYTHING, split.image_size_px, SEED, at * batch_size, tf.shape(label))
            inputs = {"image": inputs, "augmentation": numbers}
        return inputs, label

    def open_input(name: str) -> tf.data.Dataset:
        starts = order.starts(0, _MANY_EPOCHS)
        if name == ONE_BATCH:
            shape = (batch_size, split.image_size_px, split.image_size_px, 3)
            images = np.random.default_rng(SEED).integers(0, 256, shape, np.uint8)
            batch = finish(tf.constant(0, tf.int64), tf.constant(images), tf.range(batch_size, dtype=tf.int64) % 2)
            return tf.data.Dataset.from_tensors(batch).repeat()
        if name == "tf.data":
            records = tf.data.TFRecordDataset(split.files).map(parse).shuffle(SHUFFLED_RECORDS)
            return records.repeat().batch(batch_size).prefetch(tf.data.AUTOTUNE)
        if not step.on_device:
            return batching.open_training(split, order, name, finish)(starts)
        batches = batching.training_rows(cells.labels, order, starts, finish, STEPS_PER_CALL if is_stacked else None)
        if is_stacked:  # those of full calls alone, since another shape would be compiled while the clock runs
            batches = batches.filter(lambda _, label: tf.equal(tf.shape(label)[0], STEPS_PER_CALL))
        return batches.take(1).cache().repeat() if name == CEILING else batches

    return model, open_input


def timed_epochs(
    model: "keras.Model", batches: "tf.data.Dataset", num_steps: int, epochs: int
) -> list[tuple[float, float]]:
    """Trains for some epochs after one to warm up; returns their seconds, and those spent waiting for data."""
    import keras

    from trainers.input_pipeline import batching
    from trainers.training.callbacks import CallbackList

    stall = batching.stall_clock()
    begun: list[tuple[float, float]] = []
    ended: list[tuple[float, float]] = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: begun.append((time.perf_counter(), float(stall.numpy()))),
        on_epoch_end=lambda *_: ended.append((time.perf_counter(), float(stall.numpy()))),  # Keras has read the loss
    )
    model.fit(
        batching.measured(batches, stall),
        steps_per_epoch=num_steps,
        epochs=1 + epochs,
        callbacks=CallbackList([clock], add_history=True, model=model),
        shuffle=False,
        verbose=0,
    )
    return [(end[0] - start[0], end[1] - start[1]) for start, end in zip(begun, ended, strict=True)][1:]


def almost_no_arithmetic(image_size_px: int, *, dropout_rate: float) -> "keras.Model":
    """A model for `trainers.custom` that leaves nothing to measure but the host's work."""
    import keras

    del dropout_rate
    image = keras.Input((image_size_px, image_size_px, 3), dtype="uint8", name="image")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image[:, :2, :2]))
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(x))
