"""Trains a model on five folds of patients and predicts each cell by the run that has not seen its patient.

    python -m trainers.cross_validate --model=basic_cnn --data_dir=data --output_dir=runs/cv --epochs=12 --seed=1

Flags that are not listed here go to the trainer (`python -m trainers.basic_cnn --help`), in the form `--flag=value`,
such as the flagfile of a trainer. Of the config `folds`, three folds train, the next one chooses the epoch, the last is
predicted. The runs are in `<output_dir>/fold_0` … `fold_4`, the report on all cells in `<output_dir>/report`. It takes
five times as long as one run; the same command again continues where it was stopped.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pipeline.command import run
from pipeline.errors import InputError
from pipeline.splits.configs import CONFIGS, NUM_FOLDS
from pipeline.terminal import say
from trainers import evaluation_flags, run_dir, tf_import
from trainers.data import open_data_set
from trainers.evaluation import runs
from trainers.training.signals import INTERRUPTED, PREEMPTED, run_trainer
from trainers.training_flags import MODELS

_BATCH_SIZE = 256  # of predictions; --batch_size is the trainer's
_SET_HERE = ("train_split", "validation_split", "test_split", "run_dir")

_MODEL = flags.DEFINE_enum("model", None, MODELS, "Model to train.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for the five runs and the report.", required=True)
evaluation_flags.define()
flags.adopt_module_key_flags(evaluation_flags)


def main(arguments: Sequence[str]) -> int | None:
    """Trains fold after fold, then evaluates all of them together."""
    trainer_flags = _trainer_flags(arguments)
    data_set = open_data_set(_DATA_DIR.value, runs.FOLDS)
    options = evaluation_flags.read(_BATCH_SIZE)
    runs.check_disputed(options.disputed_labels, data_set)
    names = CONFIGS[runs.FOLDS].splits
    folders = [Path(_OUTPUT_DIR.value) / name for name in names]
    for fold, folder in enumerate(folders):
        say(f"fold {fold + 1} of {NUM_FOLDS}: {folder}")
        test, validation, *train = (*names[fold:], *names[:fold])
        command = [sys.executable, "-m", f"trainers.{_MODEL.value}", *trainer_flags, f"--config={runs.FOLDS}"]
        command += [f"--train_split={'+'.join(sorted(train))}", f"--validation_split={validation}"]
        command += [f"--test_split={test}", f"--data_dir={_DATA_DIR.value}", f"--run_dir={folder}"]
        status = run_trainer(command)
        if status in (PREEMPTED, INTERRUPTED):
            return status
        if status or run_dir.read(str(folder))["status"] != "finished":
            text = f"the trainer of fold {fold} ended with status {status}"
            raise InputError(f"{text}; the same command continues with it")
    tf_import.import_tensorflow()
    from trainers.evaluation import evaluate  # seconds of imports that mistakes need not wait for

    _, grouped = runs.group([str(folder) for folder in folders], runs.FOLDS, None)
    print(evaluate.evaluate(grouped, data_set, options, str(Path(_OUTPUT_DIR.value) / "report")))
    return None


def _trainer_flags(arguments: Sequence[str]) -> list[str]:
    """The flags that go to the trainer; without `--config`, which its flagfile may hold."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("--"):
            raise InputError(f"got the argument {argument!r}; expected flags in the form --flag=value")
        if name in _SET_HERE:
            raise InputError(f"--{name} is set for each fold; leave it out")
    return [argument for argument in arguments if not argument.startswith("--config=")]


if __name__ == "__main__":
    run(main, takes_arguments=True, keep_unknown_flags=True)
