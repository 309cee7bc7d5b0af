"""The host's time per training step: the trainer's own command, on a model of almost no arithmetic.

`benchmarks.train_throughput` measures with it. Everything but the model is as in training: input, random numbers of
augmentation, callbacks. The numbers are sampled and given to the model, but the cells are not changed by them.
"""

import csv
import functools
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest import mock

from absl import flags

from benchmarks.harness import measurement
from benchmarks.repeated_cells import lay_out
from pipeline import synthetic
from pipeline.command import run
from trainers import training_flags
from trainers.training.main import main

if TYPE_CHECKING:
    import keras

_FLAGFILE = Path(__file__).parents[1] / "trainers/flagfiles/basic_cnn.flags"
_EPOCHS = 6
BATCH_SIZE, SIZE_PX = 64, 8
HOST, TRAINED = "a step of almost no arithmetic", "a step of basic_cnn"


def almost_no_arithmetic(image_size_px: int, dropout_rate: float) -> "keras.Model":
    """In the place of `architectures.basic_cnn`."""
    import keras

    image = keras.Input((image_size_px, image_size_px, 3), dtype="uint8", name="image")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image[:, :2, :2]))
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(x), name="basic_cnn")


def with_unused_numbers(model: "keras.Model", fill: str, by_gathers: bool) -> "keras.Model":
    """In the place of `apply.augmented`."""
    import keras

    inputs = {
        "image": keras.Input(model.input_shape[1:], dtype="uint8", name="image"),
        "transform": keras.Input((8,), name="transform"),
        "stain": keras.Input((15,), name="stain"),
    }
    unused = keras.ops.sum(inputs["transform"][:, :1] + inputs["stain"][:, :1], axis=-1, keepdims=True)
    return keras.Model(inputs, model(inputs["image"]) + 0.0 * unused, name=f"{model.name}_augmented")


def milliseconds_per_step(folder: Path, num_steps: int, *trainer_flags: str) -> dict[str, list[float]]:
    """Trains both models on generated cells of 8 × 8 pixels, augmented; returns each epoch's time but the first's.

    Args:
      folder: for the cells and the runs.
      num_steps: about how many steps an epoch has.
      trainer_flags: such as --input=device.
    """
    if not (folder / "data").exists():
        synthetic.write(folder / "cells.zip", num_patients=16, cells_per_patient=25, seed=0)
        lay_out(str(folder / "cells.zip"), folder / "cells", round(num_steps * BATCH_SIZE / 0.63))
        job = [f"--source={folder / 'cells'}", f"--data_dir={folder / 'data'}", f"--image_size_px={SIZE_PX}"]
        measurement.measure("preprocess", [sys.executable, "-m", "pipeline.preprocess", *job])
    result = {}
    for name, module in ((HOST, "benchmarks.host_time"), (TRAINED, "trainers.basic_cnn")):
        run_dir = folder / f"run_{len(list(folder.iterdir()))}"
        given = [f"--flagfile={_FLAGFILE}", f"--data_dir={folder / 'data'}", f"--run_dir={run_dir}", *trainer_flags]
        given += [f"--epochs={_EPOCHS}", f"--batch_size={BATCH_SIZE}", "--precision=float32"]
        measurement.measure(name, [sys.executable, "-m", module, *given])
        with (run_dir / "history.csv").open(newline="") as file:
            rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
        result[name] = [1000 * BATCH_SIZE / rate for rate in rates[1:]]
    return result


def milliseconds_in_one_graph(num_steps: int = 32) -> float:
    """A step of `basic_cnn` with augmentation on batches that lie ready, many steps per call."""
    import keras
    import numpy as np
    import tensorflow as tf

    from trainers.augmentation.apply import augmented
    from trainers.models import architectures
    from trainers.models.many_steps import ManySteps

    generator, shape = np.random.default_rng(0), (num_steps, BATCH_SIZE)
    inputs: dict[str, Any] = {
        "image": generator.integers(0, 256, (*shape, SIZE_PX, SIZE_PX, 3), np.uint8),
        "transform": np.tile(np.array([0.8, 0.6, -0.8, -0.6, 0.8, 3.4, 0, 0], np.float32), (*shape, 1)),
        "stain": np.ones((*shape, 15), np.float32),
    }
    model = augmented(architectures.basic_cnn(SIZE_PX, dropout_rate=0.3), "black", by_gathers=False)
    model = ManySteps(model.input, model.output)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    calls = tf.data.Dataset.from_tensors((inputs, generator.integers(0, 2, shape))).repeat()
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))
    model.fit(calls, steps_per_epoch=8, verbose=0, shuffle=False, callbacks=[clock])
    return 1000 * median(np.diff(ends)[1:]) / num_steps


def compare(num_steps: int) -> dict[str, float]:
    """Milliseconds per step as `auto` trains on CPUs and on GPUs, and of `basic_cnn` in one graph.

    Args:
      num_steps: about how many steps an epoch has.
    """
    in_one_graph = milliseconds_in_one_graph()
    result = {"ms of a step of basic_cnn, in one graph": in_one_graph}
    with tempfile.TemporaryDirectory() as folder:
        for setting in (
            ("--input=resident", "--steps_per_execution=1"),
            ("--input=device", f"--steps_per_execution={min(32, num_steps // 2)}"),
        ):
            for name, times in milliseconds_per_step(Path(folder), num_steps, *setting).items():
                result[f"ms of {name}, {' '.join(setting)}"] = round(median(times), 4)
    result["a step of basic_cnn to the same in one graph"] = round([*result.values()][-1] / in_one_graph, 3)
    return result


_GROUPS = training_flags.define(optimizer="adam", learning_rate=1e-3) if __name__ == "__main__" else {}

if __name__ == "__main__":
    from trainers import tf_import

    tf_import.import_tensorflow()
    flags.adopt_module_key_flags(training_flags)
    with (
        mock.patch("trainers.models.architectures.basic_cnn", almost_no_arithmetic),
        mock.patch("trainers.training.models_and_batches.augmented", with_unused_numbers),
    ):
        run(functools.partial(main, "basic_cnn"), flag_groups=_GROUPS)
