"""What the input and the host cost in training: steps on real data and on a fixed batch; the input alone; the host.

    python -m benchmarks.train_throughput --data_dir=data --output=train.json --model=basic_cnn

The cases run in one process, in turn, so that they share the compiled step and the machine's load. Batches, allocator,
precision and compilation are those of the trainers; callbacks and validation are left out, and augmentation is in the
case that names it. For `vgg_frozen` also 25 epochs on features that are computed once. The host's time per step is that
of complete trainings of a model of almost no arithmetic, on generated cells of 8 × 8 pixels.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from absl import flags

from benchmarks.harness import measurement
from benchmarks.harness.steps import ONE_BATCH, Step, build, timed_epochs
from benchmarks.repeated_cells import prepare_synthetic
from pipeline.command import run
from pipeline.errors import InputError
from trainers import run_dir, tf_import
from trainers.data import Split, open_data_set
from trainers.training_flags import INPUT_MODES, MODELS

REAL, SYNTHETIC, INPUT = "fit on real data", f"fit on {ONE_BATCH}", "input alone"
AUGMENTED = f"{SYNTHETIC}, augmented"
EPOCHS = 25  # of the frozen model, as the original trains
ONCE = f"{EPOCHS} epochs, features computed once"
_TRAIN_FRACTION = 0.63  # of the cells of `by_patient`


def train_on_features(split: Split, jit_compile: bool) -> float:
    """Computes the features of `vgg_frozen`, tracing included, and trains its head on them; returns seconds."""
    from trainers.input_pipeline.shuffle_order import ShuffleOrder
    from trainers.models import architectures, features

    values = flags.FLAGS
    order = ShuffleOrder(split.num_cells, values.batch_size, seed=0)
    backbone, head = features.split_backbone(architectures.vgg_frozen(split.image_size_px), jit_compile)
    head.compile("rmsprop", "binary_crossentropy", jit_compile=jit_compile)
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        computed = features.extract(backbone, split, Path(cache), vgg_input="imagenet", batch_size=values.batch_size)
        batches = features.training_batches(computed, order, order.starts(0, EPOCHS))
        head.fit(batches, epochs=EPOCHS, steps_per_epoch=order.steps_per_epoch, shuffle=False, verbose=0)
        return time.perf_counter() - started


def host_milliseconds(num_steps: int) -> dict[str, float]:
    """The host's time per step, as `auto` trains on CPUs and on GPUs, in epochs of about so many steps."""
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        data_dir = prepare_synthetic(Path(folder), round(num_steps * 64 / _TRAIN_FRACTION), image_size_px=8)
        for mode, steps_per_call in (("resident", 1), ("device", min(32, num_steps // 2))):
            setting = [f"--input={mode}", f"--steps_per_execution={steps_per_call}"]
            command = [sys.executable, "-m", "trainers.custom", "--model=benchmarks.harness.steps:almost_no_arithmetic"]
            command += [f"--data_dir={data_dir}", f"--run_dir={folder}/{mode}", "--epochs=6", "--batch_size=64"]
            measurement.measure("trainers.custom", [*command, "--precision=float32", *setting])
            epochs = run_dir.read_history(Path(folder) / mode / run_dir.HISTORY)[1:]
            seconds = 64 / median(epoch["images_per_second"] for epoch in epochs)
            result[f"host's ms of a step, {' '.join(setting)}"] = round(1000 * seconds, 4)
    return result


def main() -> None:
    """Measures, writes the file, prints the table."""
    values = flags.FLAGS
    split = open_data_set(values.data_dir, "by_patient").open_split(values.split)
    if split.num_cells < values.batch_size:
        raise InputError(
            f"--batch_size={values.batch_size} is more than the {split.num_cells} cells of --split={values.split}; "
            "give a smaller batch or a larger split"
        )
    tf_import.import_tensorflow()

    from trainers.input_pipeline import batching
    from trainers.training import hardware

    tf_import.keep_freed_memory()
    jit_compile, _ = hardware.choose_jit("auto")
    mode = batching.choose_mode(values.input, split)
    step = Step(values.model, on_device=False, steps_per_call=1, jit_compile=jit_compile)
    model, open_input = build(step, split, values.batch_size)
    augmented, open_augmented = build(step._replace(is_augmented=True), split, values.batch_size)
    real = open_input(mode)
    fractions_waited = []

    def fit_on_real_data() -> float:
        ((seconds, waited),) = timed_epochs(model, real, values.steps, 1)
        fractions_waited.append(waited / seconds)
        return seconds

    def read() -> float:
        ends = [time.perf_counter() for _ in real.take(2 * values.steps)]
        return ends[-1] - ends[values.steps - 1]

    functions = {
        REAL: fit_on_real_data,
        SYNTHETIC: lambda: timed_epochs(model, open_input(ONE_BATCH), values.steps, 1)[0][0],
        INPUT: read,
        AUGMENTED: lambda: timed_epochs(augmented, open_augmented(ONE_BATCH), values.steps, 1)[0][0],
    }
    cases = measurement.measure_in_turn(functions, values.steps * values.batch_size, values.repeats)
    compared = [(REAL, SYNTHETIC), (AUGMENTED, SYNTHETIC), (INPUT, REAL)]
    if values.model == "vgg_frozen":
        compute = {ONCE: lambda: train_on_features(split, jit_compile)}
        cases |= measurement.measure_in_turn(compute, EPOCHS * split.num_cells, values.repeats)
        compared.append((ONCE, REAL))
    ratios = {f"{name} to {other}": measurement.ratio(cases[name], cases[other]) for name, other in compared}
    ratios["share of the step time spent waiting for data"] = round(median(fractions_waited), 5)
    if values.host_steps:
        ratios |= host_milliseconds(values.host_steps)
    measurement.report(
        values.output, cases.values(), ratios, model=values.model, batch_size=values.batch_size, input=mode
    )


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_string("split", "train", "TFDS split expression to train on.")
    flags.DEFINE_enum("model", "basic_cnn", MODELS, "Which model.")
    flags.DEFINE_integer("batch_size", 64, "Cells per batch.", lower_bound=1)
    flags.DEFINE_integer("steps", 20, "Timed steps per run, after as many to warm up.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Runs of each case.", lower_bound=1)
    flags.DEFINE_integer("host_steps", 300, "Steps per epoch for the host's time; 0 leaves it out.", lower_bound=0)
    modes = [mode for mode in INPUT_MODES if mode != "device"]  # gpu_throughput has that
    flags.DEFINE_enum("input", "auto", modes, "Input mode, as of the trainers.")
    run(main)
