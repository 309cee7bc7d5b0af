"""Trains a model on five folds of patients and judges each cell by the run that has not seen its patient.

    python -m trainers.cross_validate --model=basic_cnn --data_dir=data --output_dir=runs/cv --epochs=12 --seed=1

Flags that are not listed here go to the trainer (`python -m trainers.basic_cnn --help`), in the form `--flag=value`; a
trainer's flagfile can be given too. The config is `folds`: three folds train, the next chooses the epoch, the last is
predicted. Runs lie in `<output_dir>/fold_0` … `fold_4`, the pooled verdict in `<output_dir>/report`. Takes five times
as long as one run; the same command again continues where it was stopped.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pipeline.command import run
from pipeline.errors import InputError
from pipeline.splits.configs import CONFIGS, NUM_FOLDS
from trainers import evaluation_flags, folds, run_dir, tf_import
from trainers.data import open_data_set
from trainers.evaluation import runs
from trainers.evaluation.runs import FOLDS
from trainers.training.signals import INTERRUPTED, PREEMPTED
from trainers.training_flags import MODELS

REPORT = "report"
_BATCH_SIZE = 256  # of predictions; --batch_size is the trainer's

_MODEL = flags.DEFINE_enum("model", None, MODELS, "Which trainer.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the runs and the report.", required=True)
evaluation_flags.define()
flags.adopt_module_key_flags(evaluation_flags)


def main(arguments: Sequence[str]) -> int | None:
    """Trains fold after fold, then judges all of them together."""
    trainer_flags = folds.check_trainer_flags(arguments)
    data_set = open_data_set(_DATA_DIR.value, FOLDS)
    folders = [Path(_OUTPUT_DIR.value) / name for name in CONFIGS[FOLDS].splits]
    for fold, folder in enumerate(folders):
        print(f"fold {fold + 1} of {NUM_FOLDS}: {folder}", flush=True)
        command = [sys.executable, "-m", f"trainers.{_MODEL.value}", *trainer_flags, f"--data_dir={_DATA_DIR.value}"]
        status = subprocess.run([*command, *folds.trainer_flags(fold), f"--run_dir={folder}"], check=False).returncode
        if status in (PREEMPTED, INTERRUPTED):
            return status
        if status or run_dir.read(str(folder))["status"] != "finished":
            raise InputError(
                f"the trainer of fold {fold} ended with status {status}, see above; the same command continues with it"
            )
    _, grouped = runs.group([str(folder) for folder in folders], FOLDS, None)
    for model_runs in grouped:
        runs.open_splits(data_set, model_runs)
    options = evaluation_flags.read(_BATCH_SIZE)

    tf_import.import_tensorflow()
    from trainers.evaluation import evaluate  # seconds of imports that mistakes need not wait for

    print(evaluate.evaluate(grouped, data_set, options, str(Path(_OUTPUT_DIR.value) / REPORT)))
    return None


if __name__ == "__main__":
    run(main, keep_unknown_flags=True)
