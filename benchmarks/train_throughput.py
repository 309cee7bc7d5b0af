"""What input and augmentation cost in training: one model's steps on real data and on a fixed batch; the input alone.

    python -m benchmarks.train_throughput --data_dir=data --output=train.json --model=basic_cnn

The host's time per step as well (`benchmarks.host_time`): complete trainings of a model of almost no arithmetic and of
`basic_cnn`, augmented, on generated cells of 8 × 8 pixels, as `auto` does it on a CPU and on a GPU.

For `vgg_frozen` also both ways of training it: through the frozen layers in every epoch, or on features computed once.

All cases run in one process, in turn, so that they share the compiled step and the machine's load: about two minutes
for `basic_cnn` on two CPU cores. Batches, allocator, precision and compilation are those of the trainers; callbacks
and validation are left out. Augmentation is in the cases that name it: both forms of its warp, with XLA the one that
compiles.
"""

import functools
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from absl import flags

from benchmarks import host_time
from benchmarks.harness import measurement
from pipeline.command import run
from pipeline.errors import InputError
from trainers import tf_import
from trainers.augmentation.ranges import Ranges
from trainers.data import Split, open_data_set
from trainers.training_flags import INPUT_MODES, MODELS, PRECISIONS

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainers.input_pipeline.input_stall import InputStall

_WARM_UP_STEPS = 5
REAL, SYNTHETIC, INPUT = "fit on real data", "fit on one synthetic batch", "input alone"
GATHERS, AFFINE = (
    "fit on one synthetic batch, augmented by gathers",
    "fit on one synthetic batch, augmented by affine_transform",
)
_EVERYTHING = Ranges(rotation_degrees=180, zoom=0.1, shift=0.05, flip="both", stain_gain=0.25, stain_hue_degrees=15)
EPOCHS = 25  # of the frozen model, as the original trains
RECOMPUTED, ONCE = f"{EPOCHS} epochs, recomputed", f"{EPOCHS} epochs, features computed once"


def fit(model: "keras.Model", batches: "tf.data.Dataset", num_steps: int, stall: "InputStall") -> tuple[float, float]:
    """Trains for some steps after a few to warm up; returns their seconds, and those spent waiting for data."""
    import keras

    ends: list[tuple[float, float]] = []  # of steps, since an epoch's end comes later
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append((time.perf_counter(), stall.seconds))
    )
    model.fit(batches, steps_per_epoch=_WARM_UP_STEPS + num_steps, shuffle=False, verbose=0, callbacks=[clock])
    (started, waited_before), (ended, waited) = ends[_WARM_UP_STEPS - 1], ends[-1]
    return ended - started, waited - waited_before


def read(batches: "tf.data.Dataset", num_steps: int) -> float:
    """Takes batches and does nothing with them, after a few to warm up; returns seconds."""
    ends = [time.perf_counter() for _ in batches.take(_WARM_UP_STEPS + num_steps)]
    return ends[-1] - ends[_WARM_UP_STEPS - 1]


def compare_frozen(split: Split, jit_compile: bool) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Measures both ways of training `vgg_frozen`, tracing included; returns cases and ratios.

    Of the recomputing way two epochs are run; the second one stands for the other 24, which are equal.
    """
    import keras

    from trainers.input_pipeline import batching
    from trainers.input_pipeline.shuffle_order import ShuffleOrder
    from trainers.models import architectures, features

    values = flags.FLAGS
    order = ShuffleOrder(split.num_cells, values.batch_size, values.seed)
    compile_options = {"optimizer": "rmsprop", "loss": "binary_crossentropy", "jit_compile": jit_compile}
    fit_options = {"steps_per_epoch": order.steps_per_epoch, "verbose": 0, "shuffle": False}

    def recompute() -> float:
        model = architectures.vgg_frozen(split.image_size_px)
        model.compile(**compile_options)
        batches = batching.training_batches(split, order, 2, "resident")
        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        started = time.perf_counter()
        model.fit(batches, epochs=2, callbacks=[clock], **fit_options)
        return ends[0] - started + (EPOCHS - 1) * (ends[1] - ends[0])

    def compute_once() -> float:
        backbone, head = features.split_backbone(architectures.vgg_frozen(split.image_size_px), jit_compile)
        head.compile(**compile_options)
        options = {"vgg_input": "imagenet", "batch_size": values.batch_size}
        with tempfile.TemporaryDirectory() as cache:
            started = time.perf_counter()
            computed = features.extract(backbone, split, Path(cache), **options)
            head.fit(features.training_batches(computed, order, order.starts(0, EPOCHS)), epochs=EPOCHS, **fit_options)
            return time.perf_counter() - started

    functions = {RECOMPUTED: recompute, ONCE: compute_once}
    cases, runs = measurement.measure_in_turn(functions, EPOCHS * split.num_cells, values.repeats)
    return cases, {"recomputed to computed once": measurement.ratio(runs, ONCE, RECOMPUTED)}


def main() -> None:
    """Measures, writes the file, prints the table."""
    values = flags.FLAGS
    data_set = open_data_set(values.data_dir, values.config)
    split = data_set.open_split(values.split)
    num_cells = split.num_cells // values.batch_size * values.batch_size  # every step has a full batch
    if not num_cells:
        raise InputError(
            f"--batch_size={values.batch_size} is more than the {split.num_cells} cells of --split={values.split}; "
            "give a smaller batch or a larger split"
        )
    tf_import.import_tensorflow()
    import keras
    import tensorflow as tf

    from trainers.augmentation import apply, params
    from trainers.input_pipeline import batching
    from trainers.input_pipeline.input_stall import InputStall, measured
    from trainers.input_pipeline.shuffle_order import ShuffleOrder
    from trainers.models import architectures
    from trainers.training import hardware

    tf_import.keep_freed_memory()
    used = hardware.prepare(
        values.model,
        precision=values.precision,
        jit_compile="auto",
        distribute="none",
        batch_size=values.batch_size,
    )
    keras.utils.set_random_seed(values.seed)
    model = getattr(architectures, values.model)(split.image_size_px)  # with random weights
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=used.jit_compile)
    order = ShuffleOrder(num_cells, values.batch_size, values.seed)
    mode = batching.choose_mode(values.input, split)
    epochs = 1 + (_WARM_UP_STEPS + values.steps) // order.steps_per_epoch
    stall = InputStall()
    real = measured(batching.training_batches(split, order, epochs, mode), stall)
    shape = (values.batch_size, split.image_size_px, split.image_size_px, 3)
    images = tf.cast(tf.random.Generator.from_seed(values.seed).uniform(shape, maxval=256, dtype=tf.int32), tf.uint8)
    synthetic = tf.data.Dataset.from_tensors((images, tf.range(values.batch_size, dtype=tf.int64) % 2)).repeat()
    fractions_waited = []

    def fit_on_real_data() -> float:
        seconds, waited = fit(model, real, values.steps, stall)
        fractions_waited.append(waited / seconds)
        return seconds

    functions = {
        REAL: fit_on_real_data,
        SYNTHETIC: lambda: fit(model, synthetic, values.steps, InputStall())[0],
        INPUT: lambda: read(real, values.steps),
    }
    numbers = params.sample(_EVERYTHING, split.image_size_px, 0, tf.constant(0, tf.int64), [values.batch_size])
    changed = synthetic.map(lambda image, label: ({"image": image, "augmentation": numbers}, label)).take(1).cache()
    for form in (GATHERS,) if used.jit_compile else (GATHERS, AFFINE):
        augmented = apply.augmented(model, _EVERYTHING, by_gathers=form == GATHERS)
        augmented.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=used.jit_compile)
        functions[form] = functools.partial(
            lambda augmented: fit(augmented, changed.repeat(), values.steps, InputStall())[0], augmented
        )
    cases, runs = measurement.measure_in_turn(functions, values.steps * values.batch_size, values.repeats)
    ratios = {
        **{
            f"{form} to {SYNTHETIC}": measurement.ratio(runs, form, SYNTHETIC)
            for form in (GATHERS, AFFINE)
            if form in runs
        },
        "fit on real data to fit on one synthetic batch": measurement.ratio(runs, REAL, SYNTHETIC),
        "share of the step time spent waiting for data": round(median(fractions_waited), 5),
        "input alone to fit on real data": measurement.ratio(runs, INPUT, REAL),
    }
    if values.model == "vgg_frozen":
        frozen_cases, frozen_ratios = compare_frozen(split, used.jit_compile)
        cases, ratios = [*cases, *frozen_cases], ratios | frozen_ratios
    if values.host_steps:
        ratios |= host_time.compare(values.host_steps)
    measurement.report(values.output, cases, ratios, model=values.model, batch_size=values.batch_size, input=mode)


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_string("config", "by_patient", "Config of the data set.")
    flags.DEFINE_string("split", "train", "TFDS split expression to train on.")
    flags.DEFINE_enum("model", "basic_cnn", MODELS, "Which model.")
    flags.DEFINE_integer("batch_size", 64, "Cells per batch.", lower_bound=1)
    flags.DEFINE_integer("steps", 20, "Timed steps per run.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Runs of each case.", lower_bound=1)
    meaning = "Steps per epoch of the trainings that measure the host's time per step; 0 leaves it out."
    flags.DEFINE_integer("host_steps", 300, meaning, lower_bound=0)
    flags.DEFINE_integer("seed", 42, "Seed of weights and order.", lower_bound=0, upper_bound=2**31 - 1)
    flags.DEFINE_enum("input", "auto", INPUT_MODES, "Input mode, as of the trainers.")
    flags.DEFINE_enum("precision", "auto", PRECISIONS, "Precision, as of the trainers.")
    run(main)
