"""What input costs in training: one model's steps on real data, on one fixed synthetic batch, and the input alone.

    python -m benchmarks.train_throughput --data_dir=data --output=train.json --model=basic_cnn

For `vgg_frozen` also what it gains to compute the frozen layers' features once (`benchmarks.frozen_features`).

All three run in one process, in turn, so that they share the compiled step and the machine's mood: some two minutes
for `basic_cnn` on two CPU cores. Batches, allocator, precision and compilation are those of the trainers; callbacks,
validation and augmentation are left out.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from benchmarks.harness import measurement
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.progress import progress_bar
from trainers import tf_import
from trainers.data import open_data_set
from trainers.training_flags import INPUT_MODES, MODELS, PRECISIONS

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainers.input_pipeline.input_stall import InputStall

_WARM_UP_STEPS = 5
REAL, SYNTHETIC, INPUT = "fit on real data", "fit on one synthetic batch", "input alone"


def build(name: str, image_size_px: int, jit_compile: bool) -> "keras.Model":
    """The model of that name in `trainers.models.architectures`, with random weights, compiled as for training."""
    import keras

    from trainers.models import architectures

    model = getattr(architectures, name)(image_size_px)
    model.compile(
        optimizer=keras.optimizers.Adam(), loss="binary_crossentropy", metrics=["accuracy"], jit_compile=jit_compile
    )
    return model


def fit(model: "keras.Model", batches: "tf.data.Dataset", num_steps: int, waiting: "InputStall") -> tuple[float, float]:
    """Trains for some steps after a few to warm up.

    Returns:
      seconds of the steps, and how many of them were spent waiting for data.
    """
    import keras

    class Clock(keras.callbacks.Callback):
        """Starts when warm, and looks at each step's end, since an epoch's end is not a step's."""

        steps = 0
        started = seconds = waited = 0.0

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.steps += 1
            now = time.perf_counter()
            if self.steps == _WARM_UP_STEPS:
                self.started = now
                waiting.reset()
            self.seconds, self.waited = now - self.started, waiting.seconds

    clock = Clock()
    model.fit(batches, steps_per_epoch=_WARM_UP_STEPS + num_steps, shuffle=False, verbose=0, callbacks=[clock])
    return clock.seconds, clock.waited


def read(batches: "tf.data.Dataset", num_steps: int) -> tuple[float, float]:
    """Takes batches and does nothing with them; returns seconds, and again, since all of them are waiting."""
    iterator = iter(batches)
    for _ in range(_WARM_UP_STEPS):
        next(iterator)
    started = time.perf_counter()
    for _ in range(num_steps):
        next(iterator)
    seconds = time.perf_counter() - started
    return seconds, seconds


def compare(
    works: dict[str, Callable[[], tuple[float, float]]], num_images: int, repeats: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Runs all works in turn.

    Returns:
      cases and ratios, see `measurement.write`.
    """
    runs: dict[str, list[measurement.Measurement]] = {name: [] for name in works}
    waited: dict[str, list[float]] = {name: [] for name in works}

    def timed(name: str) -> float:
        seconds, its_waited = works[name]()
        waited[name].append(its_waited)
        return seconds

    with progress_bar(repeats * len(works), "measuring", "runs") as bar:
        for _ in range(repeats):
            for name in works:
                runs[name].append(measurement.measure_here(functools.partial(timed, name)))
                bar.update()
    cases = [measurement.case(name, num_images, runs[name]) for name in works]
    seconds = {name: [run.seconds for run in runs[name]] for name in works}
    pairs = zip(seconds[SYNTHETIC], seconds[REAL], strict=True)
    shares = [its_waited / its_seconds for its_waited, its_seconds in zip(waited[REAL], seconds[REAL], strict=True)]
    return cases, {
        "fit on real data to fit on one synthetic batch": round(statistics.median(a / b for a, b in pairs), 4),
        "share of the step time spent waiting for data": round(statistics.median(shares), 5),
        "input alone to fit on real data": round(
            statistics.median(seconds[REAL]) / statistics.median(seconds[INPUT]), 1
        ),
    }


def main(arguments: Sequence[str]) -> None:
    """Measures, writes the file, prints the table."""
    reject_arguments(arguments)
    values = flags.FLAGS
    data_set = open_data_set(values.data_dir, values.config)
    split = data_set.open_split(values.split)
    tf_import.import_tensorflow()
    import keras
    import tensorflow as tf

    from trainers.input_pipeline import batching
    from trainers.input_pipeline.input_stall import InputStall, measured
    from trainers.input_pipeline.shuffle_order import ShuffleOrder
    from trainers.training import hardware

    tf_import.keep_freed_memory()
    used = hardware.prepare(
        values.model,
        precision=values.precision,
        jit_compile="auto",
        distribute="none",
        batch_size=values.batch_size,
        is_augmented=False,
    )
    print("\n".join(used.lines))
    keras.utils.set_random_seed(values.seed)
    model = build(values.model, split.image_size_px, used.jit_compile)
    num_cells = split.num_cells // values.batch_size * values.batch_size  # every step has a whole batch
    if not num_cells:
        raise InputError(f"--batch_size={values.batch_size} is more than the {split.num_cells} cells of {values.split}")
    order = ShuffleOrder(num_cells, values.batch_size, values.seed)
    mode = batching.choose_mode(values.input, [split])
    epochs = 1 + (_WARM_UP_STEPS + values.steps) // order.steps_per_epoch
    waiting = InputStall()
    real = measured(batching.training_batches(split, order, epochs, mode), waiting)
    random = tf.random.Generator.from_seed(values.seed)
    shape = (values.batch_size, split.image_size_px, split.image_size_px, 3)
    images = tf.cast(random.uniform(shape, maxval=256, dtype=tf.int32), tf.uint8)
    synthetic = tf.data.Dataset.from_tensors((images, tf.range(values.batch_size, dtype=tf.int64) % 2)).repeat()
    cases, ratios = compare(
        {
            REAL: lambda: fit(model, real, values.steps, waiting),
            SYNTHETIC: lambda: fit(model, synthetic, values.steps, InputStall()),
            INPUT: lambda: read(real, values.steps),
        },
        values.steps * values.batch_size,
        values.repeats,
    )
    if values.model == "vgg_frozen":
        from benchmarks.harness import frozen_features

        more_cases, more_ratios = frozen_features.compare(
            split, data_set.manifest, values.batch_size, values.seed, used.jit_compile, values.repeats
        )
        cases, ratios = [*cases, *more_cases], ratios | more_ratios
    measurement.write(Path(values.output), cases, ratios, model=values.model, batch_size=values.batch_size, input=mode)
    print(f"{measurement.table(cases, ratios)}\n{values.output}")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_string("config", "by_patient", "Config of the data set.")
    flags.DEFINE_string("split", "train", "TFDS split expression to train on.")
    flags.DEFINE_enum("model", "basic_cnn", MODELS, "Which model.")
    flags.DEFINE_integer("batch_size", 64, "Cells a step.", lower_bound=1)
    flags.DEFINE_integer("steps", 20, "Timed steps a run.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Runs of each case.", lower_bound=1)
    flags.DEFINE_integer("seed", 42, "Decides on weights and order.", lower_bound=0, upper_bound=2**31 - 1)
    flags.DEFINE_enum("input", "auto", INPUT_MODES, "See the trainers.")
    flags.DEFINE_enum("precision", "auto", PRECISIONS, "See the trainers.")
    run(main)
