"""The training loop that the trainers share: a model and a task in, a finished run folder out."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from pipeline.errors import InputError
from trainers import allocator, curves, input_pipeline, precision, run_dir
from trainers.callbacks import Keeper, Progress, ResumedPlateau, StopOnNaN, find_checkpoint
from trainers.corruption import DamagedRecords
from trainers.data import Task
from trainers.order import Order
from trainers.training_flags import Options
from trainers.waiting import Waiting, measured

_PLATEAU = {"monitor": "val_loss", "factor": 0.5, "patience": 2, "min_lr": 1e-6}


def train(build_model: Callable[[int], keras.Model], task: Task, options: Options, run: run_dir.Run) -> None:
    """Trains a model, keeps the best epoch by validation loss, and says where everything is.

    A run that was stopped continues after its last whole epoch.

    Args:
      build_model: image size in pixels -> uncompiled model.
      task: the data set and its splits.
      options: the flags.
      run: `run.json` of the folder that was claimed.

    Raises:
      InputError: if the loss became no number, or the checkpoint cannot be read.
    """
    directory = Path(options.run_dir)
    allocator.keep_freed_memory()
    print(precision.apply(options.precision))
    keras.utils.set_random_seed(options.seed)
    model = build_model(task.train.image_size_px)
    model.compile(
        optimizer=keras.optimizers.Adam(options.learning_rate),
        loss="binary_crossentropy",
        metrics=["accuracy"],
        jit_compile="auto" if precision.has_gpu() else False,  # XLA halves this model's speed on a CPU
    )
    history = _resume(model, directory)
    started = time.perf_counter()
    damaged = DamagedRecords(options.max_corrupt_records)
    _choose_input(task, options, run)
    try:
        _fit(model, task, options, run["input"]["mode"], history, damaged)
    except tf.errors.OpError as error:
        if explained := input_pipeline.explain(error, (task.train, task.validation)):
            raise explained from error
        raise
    run["input"]["skipped_records"] = [[Path(file).name, record] for file, record in damaged.found]
    run["timings"]["seconds"] = round(run["timings"]["seconds"] + time.perf_counter() - started, 3)
    _finish(model.name, options, run)


def _resume(model: keras.Model, directory: Path) -> list[curves.Row]:
    """Loads the last checkpoint, if there is one; returns the epochs up to it."""
    checkpoint, num_epochs = find_checkpoint(directory)
    if checkpoint is None:
        return []
    try:
        model.load_weights(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{checkpoint} cannot be read ({error}); train again into another --run_dir") from error
    history = [row for row in curves.read_history(directory / run_dir.HISTORY) if row["epoch"] < num_epochs]
    print(f"continuing after epoch {num_epochs}")
    return history


def _choose_input(task: Task, options: Options, run: run_dir.Run) -> None:
    """Decides on the input once a run: continuing keeps the order, even where `auto` would now choose otherwise."""
    mode = run.get("input", {}).get("mode") or input_pipeline.choose_mode(options.input, [task.train])
    run["input"] = {"mode": mode, "batch_size": options.batch_size, "shard_count": 1}
    run_dir.write(options.run_dir, run)


def _fit(
    model: keras.Model,
    task: Task,
    options: Options,
    mode: str,
    history: list[curves.Row],
    damaged: DamagedRecords,
) -> None:
    directory = Path(options.run_dir)
    order = Order(task.train.num_cells, options.batch_size, options.seed)
    steps = order.steps_per_epoch
    waiting = Waiting()
    batches = measured(
        input_pipeline.training_batches(
            task.train, order, options.epochs, mode, start_step=len(history) * steps, damaged=damaged
        ),
        waiting,
    )
    validation = input_pipeline.evaluation_batches(task.validation, options.batch_size)
    not_a_number = StopOnNaN()
    model.fit(
        batches,
        steps_per_epoch=steps,
        epochs=options.epochs,
        initial_epoch=len(history),
        validation_data=validation.map(lambda image, label, *_: (image, label)),
        callbacks=[
            Progress(task.train.num_cells, options.batch_size, options.epochs, waiting, mode),
            not_a_number,
            ResumedPlateau(history, options.learning_rate, **_PLATEAU),
            keras.callbacks.TensorBoard(directory / run_dir.TENSORBOARD, histogram_freq=1),
            Keeper(directory, history),
        ],
        shuffle=False,  # the batches are shuffled already
        verbose=0,
    )
    if not_a_number.step is not None:
        raise InputError(
            f"the loss was no number at step {len(history) * steps + not_a_number.step}; the last good epoch stays in "
            f"{directory}; give a lower --learning_rate or another --precision, and another --run_dir"
        )


def _finish(model_name: str, options: Options, run: run_dir.Run) -> None:
    directory = Path(options.run_dir)
    history = curves.read_history(directory / run_dir.HISTORY)
    curves.draw(history, f"{model_name}, {options.config}", directory / run_dir.CURVES)
    best = min(history, key=lambda row: row["val_loss"])
    run["status"] = "finished"
    run["best_epoch"] = int(best["epoch"]) + 1
    run["timings"]["seconds_per_epoch"] = round(sum(row["seconds"] for row in history) / len(history), 3)
    run["input"]["waiting_share"] = round(sum(row["waiting_share"] for row in history) / len(history), 5)
    run["timings"]["images_per_second"] = round(sum(row["images_per_second"] for row in history) / len(history), 1)
    run_dir.write(options.run_dir, run)
    shutil.rmtree(directory / run_dir.CHECKPOINT, ignore_errors=True)
    print(
        f"{model_name}: best of {len(history)} epochs is {run['best_epoch']}, validation loss {best['val_loss']:.4f}, "
        f"accuracy {best['val_accuracy']:.4f}\n{run_dir.farewell(options.run_dir, options.data_dir)}"
    )
