"""The host's time per training step: the trainer's own command, compared with its compiled step alone.

`benchmarks.train_throughput` measures with it, `basic_cnn` and a model of almost no arithmetic in its place. Of the
latter everything else is as in training: input, callbacks, random numbers of augmentation; they are sampled and given
to the model, but the cells are not changed by them. After each epoch the compiled step is timed on batches that lie
ready.
"""

import itertools
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest import mock

from absl import flags

from benchmarks.harness import measurement
from benchmarks.repeated_cells import prepare_synthetic
from pipeline.command import run
from trainers import training_flags
from trainers.training.main import main

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainers.augmentation.ranges import Ranges

_FLAGFILE = Path(__file__).parents[1] / "trainers/flagfiles/basic_cnn.flags"
_EPOCHS, _BATCH_SIZE, _CALLS = 6, 64, 5
_HOST, _TRAINED = "almost no arithmetic", "basic_cnn"


def almost_no_arithmetic(image_size_px: int, dropout_rate: float) -> "keras.Model":
    """In the place of `architectures.basic_cnn`."""
    import keras

    image = keras.Input((image_size_px, image_size_px, 3), dtype="uint8", name="image")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image[:, :2, :2]))
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(x), name="basic_cnn")


def with_unused_numbers(model: "keras.Model", ranges: "Ranges", by_gathers: bool) -> "keras.Model":
    """In the place of `apply.augmented`."""
    import keras

    inputs = {
        "image": keras.Input(model.input_shape[1:], dtype="uint8", name="image"),
        "augmentation": keras.Input((ranges.num_numbers,), name="augmentation"),
    }
    probability = model(inputs["image"]) + 0.0 * inputs["augmentation"][:, :1]
    return keras.Model(inputs, probability, name=f"{model.name}_augmented")


def compare(num_steps: int) -> dict[str, float]:
    """Milliseconds per step of both models as `auto` trains on CPUs and on GPUs, on generated cells of 8 × 8 pixels.

    Args:
      num_steps: about how many steps an epoch has.
    """
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = prepare_synthetic(folder, round(num_steps * _BATCH_SIZE / 0.63), image_size_px=8)
        for setting in (
            ("--input=resident", "--steps_per_execution=1"),
            ("--input=device", f"--steps_per_execution={min(32, num_steps // 2)}"),
        ):
            for model in (_HOST, _TRAINED):
                given = [f"--flagfile={_FLAGFILE}", f"--data_dir={data_dir}", f"--epochs={_EPOCHS}", *setting]
                given += [f"--run_dir={folder / model}{len(result)}", f"--batch_size={_BATCH_SIZE}"]
                given += ["--precision=float32", f"--trained={model}"]
                output = measurement.measure(model, [sys.executable, "-m", "benchmarks.host_time", *given]).output
                (times,) = (json.loads(line) for line in output.splitlines() if line.startswith("[["))
                trained, alone = zip(*times[1:], strict=True)
                case = f"{model}, {' '.join(setting)}"
                result[f"ms of a step: {case}"] = round(median(trained), 4)
                result[f"ms of the compiled step alone: {case}"] = round(median(alone), 4)
                ratios = [ours / theirs for ours, theirs in times[1:]]
                result[f"a step to the compiled step alone: {case}"] = round(median(ratios), 3)
    return result


def _train() -> int | None:
    """Trains, and prints for each epoch the milliseconds per step, in training and of the compiled step alone."""
    import keras

    from trainers.training import fit

    times: list[tuple[float, float]] = []
    measured, callback_list, num_steps = fit.measured, fit.CallbackList, int(flags.FLAGS.steps_per_execution)

    class Clock(keras.callbacks.Callback):
        ready: Any

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            ends = [time.perf_counter()]
            for _ in range(max(_CALLS, 64 // num_steps)):
                float(self.model.train_function(self.ready)["loss"])
                ends.append(time.perf_counter())
            alone = 1000 * median(end - start for start, end in itertools.pairwise(ends)) / num_steps
            times.append((1000 * flags.FLAGS.batch_size / logs["images_per_second"], alone))

    clock = Clock()

    def keep_first(batches: "tf.data.Dataset", stall: Any) -> "tf.data.Dataset":
        clock.ready = iter(batches.take(1).cache().repeat())
        return measured(batches, stall)

    def with_clock(callbacks: list[Any], **options: Any) -> Any:
        return callback_list([*callbacks, clock], **options)

    with ExitStack() as patches:
        for name, value in (("measured", keep_first), ("CallbackList", with_clock)):
            patches.enter_context(mock.patch.object(fit, name, value))
        if flags.FLAGS.trained == _HOST:
            patches.enter_context(mock.patch("trainers.models.architectures.basic_cnn", almost_no_arithmetic))
            patches.enter_context(mock.patch("trainers.training.models_and_batches.augmented", with_unused_numbers))
        status = main("basic_cnn")
    print(json.dumps(times))
    return status


_GROUPS = training_flags.define(optimizer="adam", learning_rate=1e-3) if __name__ == "__main__" else {}

if __name__ == "__main__":
    from trainers import tf_import

    tf_import.import_tensorflow()
    flags.adopt_module_key_flags(training_flags)
    flags.DEFINE_enum("trained", _HOST, (_HOST, _TRAINED), "The model that trains.")
    run(_train, flag_groups=_GROUPS)
