"""What every trainer does with its arguments: checks all that is quick to check, then trains."""

from contextlib import nullcontext
from pathlib import Path

from pipeline.errors import InputError
from pipeline.terminal import say
from trainers import export_formats, run_dir, tf_import, training_flags
from trainers.data import TrainingData, describe, open_training_data
from trainers.training import hosts
from trainers.training_flags import Options


def main(model: str) -> int | None:
    """Trains a model by name with the flags; InputError if they, the data set, the splits or the folder do not fit."""
    options = training_flags.read()
    backend = tf_import.choose_backend()
    data = open_training_data(options)
    wanted = describe(model, data, options, backend)
    host = hosts.find(options, backend)
    is_run = (Path(options.run_dir) / run_dir.RUN).exists()
    if host and host.number:
        if is_run and run_dir.read(options.run_dir)["status"] == "finished":
            return None
        return _train(data, options, hosts.meet(host, options.run_dir, wanted), host)
    if is_run:  # a finished run needs no lock: its folder may be read-only
        record = run_dir.acquire(options.run_dir, wanted)
        if record["status"] == "finished" and _is_complete(options):
            print(f"{model} is trained already")
            say(run_dir.next_steps(options.run_dir, options.data_dir, options.model))
            return None
    classes = data.data_set.manifest["splits"].get(options.validation_split, {}).get("classes", {"": 1})
    if not all(classes.values()):
        counts = ", ".join(f"{count:,} {name}" for name, count in classes.items())
        say(
            f"warning: --validation_split={options.validation_split} has cells of one class only ({counts}): the best "
            "epoch is chosen on those, and no threshold can be fitted; expected cells of both classes",
            to_stderr=True,
        )
    with run_dir.lock(options.run_dir):
        record = run_dir.acquire(options.run_dir, wanted)
        if record["status"] == "finished":
            print(f"{model} is trained already; what was not written after its training is written now")
            host = None
        try:
            record = hosts.meet(host, options.run_dir, record) if host else record
            return _train(data, options, record, host)
        except BaseException:
            run_dir.release(options.run_dir)
            raise


def _train(data: TrainingData, options: Options, record: run_dir.Run, host: hosts.Host | None) -> int | None:
    with hosts.connected(host, options) if host else nullcontext(options) as options:
        tf_import.import_tensorflow([options.model] if options.model else [])
        from trainers.training.train import train  # seconds of imports that mistakes need not wait for

        try:
            return train(data, options, record, host)
        except OSError as error:
            advice = "fix that, then the same command continues"
            raise InputError(f"{options.run_dir} cannot be written ({error}); {advice}") from error


def _is_complete(options: Options) -> bool:
    """Whether a finished run has all that follows its training: a process may be killed before it is written."""
    from trainers.evaluation.metrics import thresholds  # seconds of imports

    has_thresholds = thresholds.read(options.run_dir, test_time_flips=True) is not None
    has_checkpoint = (Path(options.run_dir) / run_dir.CHECKPOINT).exists()
    return has_thresholds and not has_checkpoint and not export_formats.missing(options.run_dir, options.export)
