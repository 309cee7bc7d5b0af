"""What every trainer does with its arguments: check everything that is quick to check, then train."""

from collections.abc import Sequence

from pipeline.command import reject_arguments
from pipeline.errors import InputError
from trainers import data, run_dir, tf_import, training_flags


def launch(model: str, arguments: Sequence[str]) -> int | None:
    """Trains the model of that name in `trainers.models.architectures` as the flags say.

    Raises:
      InputError: if flags, data set, splits or run folder do not fit; nothing has been changed then.
    """
    reject_arguments(arguments)
    options = training_flags.read()
    task = data.open_training_data(options)
    run = run_dir.claim(options.run_dir, data.describe(model, task, options))
    if run["status"] == "finished":
        print(f"{model} is trained already\n{run_dir.farewell(options.run_dir, options.data_dir)}")
        return None
    try:
        tf_import.import_tensorflow()
        from trainers.training import train  # seconds of imports that mistakes need not wait for

        return train.train(model, task, options, run)
    except (InputError, KeyboardInterrupt):
        run_dir.release(options.run_dir)
        raise
