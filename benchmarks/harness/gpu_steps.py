"""The training steps that `benchmarks.gpu_throughput` measures, and the inputs of each."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.harness.clock import SHUFFLED_RECORDS
from trainers.augmentation.ranges import Ranges
from trainers.data import Split
from trainers.training_flags import MODELS

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

CEILING = "one batch on the GPU"
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
        more = (
            *((self.precision,) if self.precision != "auto" else ()),
            *(("augmented",) if self.is_augmented else ()),
            *(() if self.jit_compile else ("without XLA",)),
        )
        calls = "1 step per call" if self.steps_per_call == 1 else f"{self.steps_per_call} steps per call"
        return ", ".join((self.model, calls, *more))


def steps(with_and_without_xla: bool) -> Iterator[tuple[Step, tuple[str, ...]]]:
    """The steps to compile and the inputs of each, the most telling ones first."""
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


def build(
    step: Step, split: Split, batch_size: int, seed: int
) -> tuple["keras.Model", Callable[[str], "tf.data.Dataset"]]:
    """A compiled model and its batches of an input without end."""
    import keras
    import tensorflow as tf

    from benchmarks.baselines.input_readers import parse
    from trainers.augmentation import apply, params
    from trainers.input_pipeline import batching, resident
    from trainers.input_pipeline.shuffle_order import ShuffleOrder
    from trainers.models import architectures
    from trainers.models.train_steps import ManySteps
    from trainers.training import hardware

    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(hardware.choose_precision(step.precision, step.model)[0])
    order = ShuffleOrder(split.num_cells, batch_size, seed)
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
            numbers = params.sample(_EVERYTHING, split.image_size_px, seed, at * batch_size, tf.shape(label))
            inputs = {"image": inputs, "augmentation": numbers}
        return inputs, label

    def open_input(name: str) -> tf.data.Dataset:
        starts = order.starts(0, _MANY_EPOCHS)
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
