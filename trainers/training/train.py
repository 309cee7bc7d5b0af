"""The training loop that the trainers share: a model's name and a task in, a finished run folder out."""

import contextlib
import shutil
import time
from pathlib import Path

import keras
import tensorflow as tf

from pipeline.errors import InputError
from trainers import export_formats, run_dir
from trainers.augmentation import preview
from trainers.data import TrainingData
from trainers.evaluation import predictions
from trainers.evaluation.report import image_grid, plots
from trainers.input_pipeline import batching
from trainers.training import allocator, checkpoint, hardware, signals
from trainers.training.epoch_end import Stopped
from trainers.training.fit import fit
from trainers.training.setup import FEATURES, open_study, trains_on_features
from trainers.training_flags import Options


def train(model: str, task: TrainingData, options: Options, run: run_dir.Run) -> int | None:
    """Trains a model, keeps the best epoch by validation loss, and says where everything is.

    A run that was stopped continues at the step after its last checkpoint, with the same numbers as if it had not been.

    Args:
      model: name of a function of `trainers.models.architectures`.
      task: the data set and its splits.
      options: the flags.
      run: `run.json` of the folder that was claimed.

    Returns:
      exit status: None when finished, 75 or 130 if SIGTERM or Ctrl-C stopped it with a checkpoint.

    Raises:
      InputError: if the loss became no number, or the checkpoint or a shard cannot be read.
    """
    allocator.keep_freed_memory()
    started = time.perf_counter()
    kept = checkpoint.find(Path(options.run_dir) / run_dir.CHECKPOINT)
    used = hardware.prepare(
        model,
        precision=_precision(options, run),
        jit_compile=options.jit_compile,
        distribute=options.distribute,
        batch_size=options.batch_size,
        is_augmented=not options.ranges.is_nothing,
    )
    print("\n".join(used.lines))
    if not options.ranges.is_nothing:
        with contextlib.suppress(tf.errors.OpError):  # a corrupt shard, which training names
            (image, *_), *_ = batching.evaluation_batches(task.train, 1).take(1)
            preview.save(image.numpy()[0], options.ranges, options.seed, Path(options.run_dir) / run_dir.AUGMENTATION)
    keras.utils.set_random_seed(options.seed)
    _choose_input(task, options, run, used)
    try:
        with signals.caught() as asked_to_stop, batching.explained(task.train, task.validation):
            study = open_study(model, task, options, run["input"]["mode"], used)
            history = fit(study, options, used, run["input"]["mode"], kept, asked_to_stop)
    except Stopped:
        _note_time(run, options, started)
        print(f"stopped with a checkpoint; the same command continues from {options.run_dir}")
        return asked_to_stop.status
    except OSError as error:
        raise InputError(
            f"{options.run_dir} cannot be written ({error}); mend that, then the same command continues"
        ) from error
    _note_time(run, options, started)
    _finish(model, history, task, options, run)
    return None


def _note_time(run: run_dir.Run, options: Options, started: float) -> None:
    run["timings"]["seconds"] = round(run["timings"]["seconds"] + time.perf_counter() - started, 3)
    run_dir.write(options.run_dir, run)


def _precision(options: Options, run: run_dir.Run) -> str:
    """That of a run which is continued, even where `auto` would now choose otherwise."""
    policy = run.get("hardware", {}).get("policy")
    return policy.removeprefix("mixed_") if policy else options.precision


def _choose_input(task: TrainingData, options: Options, run: run_dir.Run, used: hardware.Hardware) -> None:
    """Decides on the input once a run: continuing keeps the order, even where `auto` would now choose otherwise."""
    mode = run.get("input", {}).get("mode")
    if mode is None:
        on_features = trains_on_features(run["model"], options)
        mode = FEATURES if on_features else batching.choose_mode(options.input, [task.train])
    run["input"] = {"mode": mode, "batch_size": options.batch_size, "shard_count": 1}
    run["hardware"] = {"policy": used.policy, "jit_compile": used.jit_compile, "num_replicas": used.num_replicas}
    run_dir.write(options.run_dir, run)


def _finish(
    model: str, history: list[run_dir.HistoryRow], task: TrainingData, options: Options, run: run_dir.Run
) -> None:
    directory = Path(options.run_dir)
    plots.save_learning_curves(history, f"{model}, {options.config}", directory / run_dir.CURVES)
    best = min(history, key=lambda row: row["val_loss"])
    run["best_epoch"] = int(best["epoch"]) + 1
    run["timings"]["seconds_per_epoch"] = round(sum(row["seconds"] for row in history) / len(history), 3)
    run["timings"]["images_per_second"] = round(sum(row["images_per_second"] for row in history) / len(history), 1)
    run["input"]["waiting_share"] = round(sum(row["waiting_share"] for row in history) / len(history), 5)
    predictions.fit_thresholds(options.run_dir, task.validation, options.batch_size)
    best_model = predictions.load_model(options.run_dir)
    batches = batching.evaluation_batches(task.validation, options.batch_size)
    image_grid.log_misclassified(best_model, batches, directory / run_dir.TENSORBOARD / "validation", run["best_epoch"])
    if options.export:
        for path in export_formats.export(options.run_dir, options.export):
            print(f"exported {path}")
    run["status"] = "finished"
    run_dir.write(options.run_dir, run)
    for left in (run_dir.CHECKPOINT, run_dir.FEATURES):
        shutil.rmtree(directory / left, ignore_errors=True)
    print(
        f"{model}: best of {len(history)} epochs is {run['best_epoch']}, validation loss {best['val_loss']:.4f}, "
        f"accuracy {best['val_accuracy']:.4f}\n{run_dir.farewell(options.run_dir, options.data_dir)}"
    )
