"""From checked flags and data to a finished run folder."""

import math
import shlex
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline.errors import InputError
from pipeline.plot_style import optional
from pipeline.terminal import say
from trainers import export_formats, image_statistics, run_dir, tf_import
from trainers.data import Split, TrainingData
from trainers.evaluation import predictions, preprocessing_json
from trainers.evaluation.report import image_grid, plots, warnings
from trainers.input_pipeline import batching
from trainers.run_dir import HistoryRow
from trainers.training import checkpoint, hosts, setup
from trainers.training.fit import fit
from trainers.training.signals import StopRequest, catch_stop_signals
from trainers.training_flags import Options


def train(data: TrainingData, options: Options, record: run_dir.Run, host: hosts.Host | None = None) -> int | None:
    """Trains a model, keeps the best epoch by validation loss, fits its thresholds, and prints the next command.

    A run that was stopped continues at the step after its last checkpoint, with the same numbers as if it had not been;
    a finished one only gets what follows its training. Returns the exit status: None when finished, 75 or 130 if
    SIGTERM or Ctrl-C stopped it with a checkpoint.

    Raises InputError if the loss became NaN or infinite, the checkpoint or a shard cannot be read, or `model.keras` is
    not the one that the checkpoint names.
    """
    tf_import.keep_freed_memory()
    directory, is_finished = Path(options.run_dir), record["status"] == "finished"
    if is_finished:
        history = run_dir.read_history(directory / run_dir.HISTORY)
    else:
        try:
            with nullcontext(hosts.SharedStopRequest()) if host else catch_stop_signals() as request:
                history, model_sha256 = _fit(data, options, record, request)
        except checkpoint.Stopped:
            if host is None or host.number == 0:
                say(f"stopped with a checkpoint; the same command continues from {options.run_dir}")
            return request.status
        if host:
            hosts.disconnect()
            if host.number:
                return None
        path = directory / run_dir.MODEL
        if not path.exists() or run_dir.digest(options.run_dir, run_dir.MODEL) != model_sha256:
            raise InputError(f"{path} is not the model of the best epoch; train again into another --run_dir")
    model = predictions.load_model(options.run_dir)
    validated = predictions.fit_thresholds(options.run_dir, model, data.validation, options.batch_size)
    if not is_finished:
        _finish(history, options, record)
    called = record["model"], validated.labels, validated.probabilities, options.class_weight
    for text in warnings.of_one_class(*called):
        say(f"warning: --validation_split={options.validation_split}: {text}", to_stderr=True)
    with optional(run_dir.CURVES):
        title = f"{record['model']}, {options.config}"
        plots.save(plots.learning_curves({"": history}, title), directory / run_dir.CURVES)
    with optional(image_grid.TAG):
        folder = directory / run_dir.TENSORBOARD / "validation"
        image_grid.log_misclassified(validated, data.validation, folder, record["best_epoch"])
    for unfinished in (run_dir.CHECKPOINT, run_dir.FEATURES):
        shutil.rmtree(directory / unfinished, ignore_errors=True)
    (directory / run_dir.PARTIAL_MODEL).unlink(missing_ok=True)
    _export(model, data, options, record)
    say(run_dir.next_steps(options.run_dir, options.data_dir, options.model))
    return None


def _fit(
    data: TrainingData, options: Options, record: run_dir.Run, request: StopRequest
) -> tuple[list[HistoryRow], str]:
    started = time.perf_counter()
    resume_from = checkpoint.read_newest(Path(options.run_dir) / run_dir.CHECKPOINT, run_dir.identity(record))
    with batching.reading(data.train, data.validation):
        if "image_statistics" not in record:
            record["image_statistics"] = fit_image_statistics(data.train)  # `build` writes them
        train_setup = setup.build(data, options, record)
        try:
            return fit(train_setup, resume_from, request)
        finally:
            record["timings"]["seconds"] = round(record["timings"]["seconds"] + time.perf_counter() - started, 3)
            run_dir.write(options.run_dir, record)


def fit_image_statistics(train: Split) -> dict[str, Any]:
    """Computes the statistics of a sample of the training cells that a run keeps, see `image_statistics.fit`."""
    fraction = min(1.0, image_statistics.SAMPLE_CELLS / train.num_cells)
    # The cells of a shard are in a random order.
    sample = train._replace(takes=tuple(math.ceil(fraction * take) for take in train.takes))
    with batching.reading(sample):
        batches = list(batching.evaluation_batches(sample, 256).as_numpy_iterator())
    images, _, _, patient_ids = (np.concatenate(column) for column in zip(*batches, strict=True))
    return image_statistics.fit(images, np.array([name.decode() for name in patient_ids]))


def _finish(history: list[HistoryRow], options: Options, record: run_dir.Run) -> None:
    """Prints the best epoch and completes `run.json`."""
    best = min(history, key=lambda row: row["val_loss"])
    means = {name: sum(row[name] for row in history) / len(history) for name in run_dir.HISTORY_COLUMNS}
    record["best_epoch"] = int(best["epoch"]) + 1
    record["timings"]["seconds_per_epoch"] = round(means["seconds"], 3)
    record["timings"]["images_per_second"] = round(means["images_per_second"], 1)
    record["input"]["waiting_share"] = round(means["waiting_share"], 5)
    print(
        f"{record['model']}: best of {len(history)} epochs is {record['best_epoch']}, validation loss "
        f"{best['val_loss']:.4f}, accuracy {best['val_accuracy']:.4f}"
    )
    run_dir.write_history(history, Path(options.run_dir) / run_dir.HISTORY)  # the checkpoint's: nothing vouched for it
    record |= {"status": "finished", "files": run_dir.digests(options.run_dir)}
    run_dir.write(options.run_dir, record)


def _export(model: keras.Model, data: TrainingData, options: Options, record: run_dir.Run) -> None:
    names = export_formats.missing(options.run_dir, options.export)
    try:
        if names:
            exported = export_formats.export(options.run_dir, model, names)
            for path in [*exported, *preprocessing_json.write(options.run_dir, record, model, data.test)]:
                say(f"exported {path}")
    except Exception as error:  # each format's library raises its own
        more = [f"--model={options.model}"] if options.model else []
        command = shlex.join([f"--run_dir={options.run_dir}", f"--format={','.join(names)}", *more])
        raise InputError(
            f"the run is finished, but its export failed ({error}); python -m trainers.export {command} tries again"
        ) from error
