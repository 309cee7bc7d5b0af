"""What a GPU does with the input: the three models' training steps on each input, as shares of what the GPU can do.

    KERAS_BACKEND=jax python -m benchmarks.gpu_throughput --output=gpu.json --data_dir=data

Without `--data_dir` the cells are synthetic; the weights are random. The ceiling of a model is its step on a batch that
lies in the GPU's memory, 32 steps per call. Each input's rate is also given as its share of the ceiling.

All cases run in one process, and those of one compiled step in a row. A plot of the shares lies beside the file. What
the time did not suffice for is named, in the file too.
"""

import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from absl import flags

from benchmarks.harness import measurement
from benchmarks.harness.steps import CEILING, STEPS_PER_CALL, Step, build, gpu_steps, timed_epochs
from benchmarks.repeated_cells import prepare_synthetic
from pipeline import plot_style
from pipeline.command import run
from pipeline.errors import InputError
from trainers import tf_import
from trainers.data import Split, open_data_set
from trainers.training_flags import MODELS

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_NUM_SYNTHETIC_CELLS = 12_000


def time_case(step: Step, model: "keras.Model", batches: "tf.data.Dataset", num_cells: int) -> dict[str, Any]:
    """Trains on an input; its first epoch, which compiles the step, does not count."""
    values = flags.FLAGS
    num_calls = max(1, values.steps // step.steps_per_call)
    # What Keras counts as a step is a call where the batches are stacked.
    num_steps = num_calls * (1 if step.on_device else step.steps_per_call)
    runs = timed_epochs(model, batches, num_steps, values.repeats)
    num_images = num_calls * step.steps_per_call * values.batch_size
    return {
        **measurement.case("", num_images, [measurement.Measurement(seconds, 0.0, 0) for seconds, _ in runs]),
        "seconds_per_epoch": round(num_cells * median(seconds for seconds, _ in runs) / num_images, 4),
        "waiting_share": round(min(1.0, median(waited / seconds for seconds, waited in runs)), 5),
        "peak_device_bytes": _peak_device_bytes(),  # of this process, so far
    }


def _peak_device_bytes() -> int | None:
    import keras
    import tensorflow as tf

    from trainers.training import hardware

    devices = hardware.gpus()
    if not devices:
        return None
    if keras.backend.backend() == tf_import.JAX:
        return int(devices[0].memory_stats()["peak_bytes_in_use"])
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def measure(plan: Sequence[tuple[Step, Sequence[str]]], split: Split, **more: Any) -> list[dict[str, Any]]:
    """Measures step after step until the time is over, and writes the file, with `more`, after each."""
    import keras

    values = flags.FLAGS
    started, cases, left_out = time.monotonic(), [], []
    ceilings: dict[tuple[str, str], float] = {}
    for step, inputs in plan:
        if time.monotonic() - started > 60 * values.minutes:
            left_out += [f"{step.name}: {name}" for name in inputs]
            continue
        model, open_input = build(step, split, values.batch_size)
        for name in inputs:
            case = time_case(step, model, open_input(name), split.num_cells)
            case |= {"name": f"{step.name}: {name}", "model": step.model, "input": name, "precision": step.precision}
            rate = case["images_per_second"]["median"]
            if name == CEILING:
                ceilings.setdefault((step.model, step.precision), rate)
            ceiling = ceilings.get((step.model, step.precision))  # without it by --cases
            case["share_of_ceiling"] = round(rate / ceiling, 4) if ceiling else None
            cases.append(case)
            print(f"{case['name']}: {rate:,.0f} images/s, {time.monotonic() - started:.0f} s so far", flush=True)
        del model, open_input
        keras.backend.clear_session(free_memory=True)
        gc.collect()
        shares = {f"{case['name']}, to the ceiling": case["share_of_ceiling"] for case in cases}
        measurement.write(values.output, cases, shares, **more, left_out=left_out)
    for name in left_out:
        print(f"left out, for lack of time: {name}", file=sys.stderr)
    return cases


@plot_style.style()
def plot(cases: Sequence[dict[str, Any]], device_name: str, path: Path) -> None:
    """Saves each case's share of its ceiling as a bar."""
    from matplotlib.figure import Figure

    shown = [case for case in cases if case["input"] != CEILING and case["share_of_ceiling"]]
    shown.sort(key=lambda case: MODELS.index(case["model"]))
    figure = Figure(figsize=(9, 1 + 0.26 * len(shown)))
    axes = figure.add_subplot()
    colours = dict(zip(MODELS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    shares = [100 * case["share_of_ceiling"] for case in shown]
    bars = axes.barh([case["name"] for case in shown], shares, color=[colours[case["model"]] for case in shown])
    axes.bar_label(bars, [f"{case['images_per_second']['median']:,.0f}/s" for case in shown], padding=3, fontsize=8)
    axes.margins(x=0.12)  # room for the labels
    axes.invert_yaxis()  # the first one on top
    axes.set_xlabel("percent of the rate on a batch that lies on the GPU")
    axes.set_title(f"Training on {device_name}, batch {flags.FLAGS.batch_size}")
    plot_style.save(figure, path)


def main() -> None:
    """Measures, writes the file and the plot, prints the table."""
    values = flags.FLAGS
    tf_import.import_tensorflow()
    import keras

    from trainers.training import hardware

    backend, devices = keras.backend.backend(), hardware.gpus()
    plan = [
        (step, chosen)
        for step, inputs in gpu_steps(with_and_without_xla=backend != tf_import.JAX)
        if (chosen := [name for name in inputs if values.cases in f"{step.name}: {name}"])
    ]
    if not plan:
        raise InputError(f"--cases={values.cases} is in no case's name; expected a part of one, such as vgg_ft")
    if not devices and not values.allow_cpu:
        raise InputError(
            f"Keras computes on {backend}, which sees no GPU here, and there is nothing else to measure; run this on a "
            "machine with one, with KERAS_BACKEND=jax if TensorFlow does not see it"
        )
    device_name = hardware.describe_device(devices[0]) if devices else "CPU"
    print(f"{backend} on {device_name}", flush=True)
    tf_import.keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = values.data_dir or prepare_synthetic(Path(folder), _NUM_SYNTHETIC_CELLS, image_size_px=125)
        split = open_data_set(data_dir, "by_patient").open_split("train")
        if split.num_cells < STEPS_PER_CALL * values.batch_size:
            raise InputError(
                f"--data_dir={data_dir} has {split.num_cells} cells to train on; expected {STEPS_PER_CALL} batches of "
                f"--batch_size={values.batch_size} at least"
            )
        cases = measure(plan, split, device=device_name, backend=backend, batch_size=values.batch_size)
    path = Path(values.output).with_suffix(".png")
    plot(cases, device_name, path)
    print(f"{measurement.table(cases)}\n{values.output}\n{path}")


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "JSON file to write; the plot lies beside it.", required=True)
    flags.DEFINE_string("data_dir", None, "Root of the data sets; without it the cells are synthetic.")
    flags.DEFINE_string("cases", "", "Part of the names of the cases to measure, such as vgg_ft; default: all.")
    flags.DEFINE_integer("batch_size", 64, "Cells per batch.", lower_bound=1)
    flags.DEFINE_integer("repeats", 3, "Timed runs of each case.", lower_bound=1)
    flags.DEFINE_integer("steps", 320, "Steps per run.", lower_bound=1)
    flags.DEFINE_float("minutes", 8.0, "No step is compiled after so many minutes.", lower_bound=0.0)
    flags.DEFINE_bool("allow_cpu", False, "Whether to measure a CPU where there is no GPU.")
    run(main)
