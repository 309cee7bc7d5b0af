"""What a GPU does with the input: the three models' training steps on each input, as shares of what the GPU can do.

    KERAS_BACKEND=jax python -m benchmarks.gpu_throughput --output=gpu.json --data_dir=data

Without `--data_dir` the cells are synthetic; the weights are random. The ceiling of a model is its step on a batch that
lies in the GPU's memory, 32 steps per call. Each input's rate is also given as its share of the ceiling.

All cases run in one process, and those of one compiled step in a row. The file is written after each case, and a plot
of the shares beside it. What the time did not suffice for is named, in the file too.
"""

import gc
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from absl import flags

from benchmarks.harness import measurement
from benchmarks.harness.gpu_steps import CEILING, STEPS_PER_CALL, Step, build, steps
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


def time_case(step: Step, model: "keras.Model", batches: "tf.data.Dataset", split: Split) -> dict[str, Any]:
    """Trains on an input, after a short `fit` that compiles the step and tells how many calls a run needs."""
    import keras

    from trainers.input_pipeline.input_stall import InputStall, measured
    from trainers.training.callbacks import CallbackList

    values = flags.FLAGS
    stall = InputStall()

    def fit(num_calls: int, epochs: int) -> list[tuple[float, float]]:
        """Seconds and the part of them that was spent waiting, of each epoch but the first."""
        begun: list[tuple[float, float]] = []
        ended: list[tuple[float, float]] = []
        clock = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_: begun.append((time.perf_counter(), stall.seconds)),
            on_epoch_end=lambda *_: ended.append((time.perf_counter(), stall.seconds)),  # Keras has read the loss
        )
        model.fit(
            measured(batches, stall),
            steps_per_epoch=num_calls * steps_per_batch,
            epochs=epochs,
            callbacks=CallbackList([clock], add_history=True, model=model),
            shuffle=False,
            verbose=0,
        )
        return [(end[0] - start[0], end[1] - start[1]) for start, end in zip(begun, ended, strict=True)][1:]

    # What Keras counts as a step is a call where the batches are stacked.
    steps_per_batch = 1 if step.on_device else step.steps_per_call
    num_probed = 2 * STEPS_PER_CALL // step.steps_per_call
    ((probed, _),) = fit(num_probed, 2)
    num_calls = max(1, round(values.seconds * num_probed / probed))
    runs = fit(num_calls, 1 + values.repeats)
    num_images = num_calls * step.steps_per_call * values.batch_size
    timed = [measurement.Measurement(seconds, 0.0, 0) for seconds, _ in runs]
    rate = median(num_images / seconds for seconds, _ in runs)
    return {
        **measurement.case("", num_images, timed),
        "seconds_per_epoch": round(split.num_cells / rate, 4),
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


def measure(split: Split, save: Callable[[list[dict[str, Any]], list[str]], None], is_on_jax: bool) -> None:
    """Measures case after case until the time is over; `save` gets all cases, and the names of those left out."""
    import keras

    values = flags.FLAGS
    started, cases, left_out = time.monotonic(), [], []
    ceilings: dict[str, float] = {}
    for step, inputs in steps(with_and_without_xla=not is_on_jax):
        opened = None
        for name in inputs:
            case_name = f"{step.name}: {name}"
            if not re.search(values.cases, case_name):
                continue
            if time.monotonic() - started > 60 * values.minutes:
                left_out.append(case_name)
                continue
            opened = opened or build(step, split, values.batch_size, values.seed)
            case = time_case(step, opened[0], opened[1](name), split) | {"name": case_name}
            rate = case["images_per_second"]["median"]
            if name == CEILING:
                ceilings.setdefault(step.model + step.precision, rate)
            case |= {"model": step.model, "input": name, "precision": step.precision}
            ceiling = ceilings.get(step.model + step.precision)  # without it by --cases
            case["share_of_ceiling"] = round(rate / ceiling, 4) if ceiling else None
            cases.append(case)
            save(cases, left_out)
            print(
                f"{case_name}: {rate:,.0f} images/s, {_percent(case['share_of_ceiling'])} of the ceiling, waiting "
                f"{case['waiting_share']:.1%}, {time.monotonic() - started:.0f} s so far",
                flush=True,
            )
        del opened
        keras.backend.clear_session(free_memory=True)
        gc.collect()
    save(cases, left_out)
    for case_name in left_out:
        print(f"left out, for lack of time: {case_name}", file=sys.stderr)


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{share:.1%}"


def table(cases: Sequence[dict[str, Any]]) -> str:
    """The cases as Markdown."""
    lines = [
        "| case | images/s (spread) | of the ceiling | s per epoch | waiting | peak GB |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        rates = case["images_per_second"]["runs"]
        peak = "" if case["peak_device_bytes"] is None else f"{case['peak_device_bytes'] / 1e9:.1f}"
        rate = f"{median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})"
        entries = (case["name"], rate, _percent(case["share_of_ceiling"]), f"{case['seconds_per_epoch']:.2f}")
        lines.append("| " + " | ".join((*entries, f"{case['waiting_share']:.1%}", peak)) + " |")
    return "\n".join(lines)


@plot_style.style()
def plot(cases: Sequence[dict[str, Any]], device_name: str, path: Path) -> None:
    """Saves each case's share of its ceiling as a bar."""
    from matplotlib.figure import Figure

    shown = [case for case in cases if case["input"] != CEILING and case["share_of_ceiling"] is not None]
    shown.sort(key=lambda case: MODELS.index(case["model"]))
    figure = Figure(figsize=(9, 1 + 0.26 * len(shown)))
    axes = figure.add_subplot()
    colours = dict(zip(MODELS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    shares = [100 * case["share_of_ceiling"] for case in shown]
    bars = axes.barh([case["name"] for case in shown], shares, color=[colours[case["model"]] for case in shown])
    axes.bar_label(bars, [f"{case['images_per_second']['median']:,.0f}/s" for case in shown], padding=3, fontsize=8)
    axes.invert_yaxis()  # the first one on top
    axes.axvline(100, color="lightgrey", zorder=0)
    axes.set_xlim(0, 1.15 * max([100, *shares]))
    axes.set_xlabel("percent of the rate on a batch that lies on the GPU")
    axes.set_title(f"Training on {device_name}, batch {flags.FLAGS.batch_size}")
    plot_style.save(figure, path)


def _open_split(folder: Path) -> Split:
    values = flags.FLAGS
    data_dir = values.data_dir or prepare_synthetic(folder, _NUM_SYNTHETIC_CELLS, image_size_px=125)
    data_set = open_data_set(data_dir, values.config)
    num_cells = data_set.open_split(values.split).num_cells // values.batch_size * values.batch_size
    if num_cells < STEPS_PER_CALL * values.batch_size:
        raise InputError(
            f"--split={values.split} has too few cells for {STEPS_PER_CALL} batches of {values.batch_size}; give a "
            "larger split or a smaller --batch_size"
        )
    return data_set.open_split(f"{values.split}[:{num_cells}]")  # full batches alone: each shape is compiled anew


def main() -> None:
    """Measures, writes the file and the plot, prints the table."""
    values = flags.FLAGS
    tf_import.import_tensorflow()
    import keras

    from trainers.training import hardware

    backend, devices = keras.backend.backend(), hardware.gpus()
    names = [
        f"{step.name}: {name}"
        for step, inputs in steps(with_and_without_xla=backend != tf_import.JAX)
        for name in inputs
    ]
    try:
        has_cases = any(re.search(values.cases, name) for name in names)
    except re.error as error:
        raise InputError(f"--cases={values.cases} is no regular expression: {error}") from error
    if not has_cases:
        raise InputError(f"--cases={values.cases} matches no case; expected a part of a name such as {names[0]!r}")
    if not devices and not values.allow_cpu:
        raise InputError(
            f"Keras computes on {backend}, which sees no GPU here, and there is nothing else to measure; run this on a "
            "machine with one, with KERAS_BACKEND=jax if TensorFlow does not see it"
        )
    device_name = hardware.describe_device(devices[0]) if devices else "CPU"
    print(f"{backend} on {device_name}", flush=True)
    tf_import.keep_freed_memory()
    output = Path(values.output)

    def save(cases: list[dict[str, Any]], left_out: list[str]) -> None:
        shares = {
            f"{case['name']}, to the ceiling": case["share_of_ceiling"] for case in cases if case["share_of_ceiling"]
        }
        more = {"device": device_name, "backend": backend, "batch_size": values.batch_size, "left_out": left_out}
        measurement.write(values.output, cases, shares, **more)
        all_cases[:] = cases

    all_cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        measure(_open_split(Path(folder)), save, backend == tf_import.JAX)
    plot(all_cases, device_name, output.with_suffix(".png"))
    print(f"{table(all_cases)}\n{output}\n{output.with_suffix('.png')}")


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "JSON file to write; the plot lies beside it.", required=True)
    flags.DEFINE_string("data_dir", None, "Root of the data sets; without it the cells are synthetic.")
    flags.DEFINE_string("config", "by_patient", "Config of the data set.")
    flags.DEFINE_string("split", "train", "Split to train on.")
    flags.DEFINE_string("cases", "", "Regex that the names of the cases to measure match somewhere; default: all.")
    flags.DEFINE_integer("batch_size", 64, "Cells per batch.", lower_bound=1)
    flags.DEFINE_integer("repeats", 3, "Timed runs of each case.", lower_bound=1)
    flags.DEFINE_float("seconds", 1.0, "About how long a run takes.", lower_bound=0.0)
    flags.DEFINE_float("minutes", 8.0, "No case begins after so many minutes.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 42, "Seed of weights and order.", lower_bound=0, upper_bound=2**31 - 1)
    flags.DEFINE_bool("allow_cpu", False, "Whether to measure a CPU where there is no GPU.")
    run(main)
