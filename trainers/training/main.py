"""What every trainer does with its arguments: checks all that is quick to check, then trains."""

from collections.abc import Sequence

from pipeline.command import reject_arguments
from pipeline.terminal import say
from trainers import run_dir, tf_import, training_flags
from trainers.data import TrainingData, describe, open_training_data
from trainers.training_flags import Options


def main(model: str, arguments: Sequence[str]) -> int | None:
    """Trains the model of that name in `trainers.models.architectures` with the options of the flags.

    Raises:
      InputError: if flags, data set, splits or run folder do not fit; nothing has been changed then.
    """
    reject_arguments(arguments)
    options = training_flags.read()
    tf_import.choose_backend()
    data = open_training_data(options)
    wanted = describe(model, data, options)
    with run_dir.lock(options.run_dir):
        return _train(model, data, options, run_dir.acquire(options.run_dir, wanted))


def _train(model: str, data: TrainingData, options: Options, record: run_dir.Run) -> int | None:
    if "content_digest" not in record["data"]:
        say(
            f"{options.run_dir} was begun by an earlier version, which kept no digest of its data set: only the source "
            "and the patients are known to be the same"
        )
    if record["status"] == "finished":
        from trainers.evaluation.metrics import thresholds  # seconds of imports, like those below

        print(f"{model} is trained already", flush=True)
        if thresholds.read(options.run_dir, test_time_flips=True):
            say(run_dir.next_steps(options.run_dir, options.data_dir))
            return None
        print("its model.keras has no thresholds.json yet: fitting them on the validation split", flush=True)
    try:
        tf_import.import_tensorflow()
        from trainers.training.train import train  # seconds of imports that mistakes need not wait for

        return train(data, options, record)
    except BaseException:
        run_dir.release(options.run_dir)
        raise
