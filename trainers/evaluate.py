"""Judges trained models on a split that no training step has touched.

    python -m trainers.evaluate --data_dir=data --run_dirs=runs/basic_cnn,runs/vgg_ft --output_dir=report

Writes `metrics.json`, `report.html` with its pictures as PNG, `suspected_label_errors.csv` and a model card a model,
and prints the table. Thresholds are chosen on each run's validation split and kept in its folder for
`trainers.predict`. Runs of the config `folds` with different test splits are pooled: see `trainers.cross_validate`.
Some 20 seconds beside the predictions, which on two CPU cores take 3 ms a cell for `basic_cnn`.
"""

from collections.abc import Sequence

from absl import flags

from pipeline.command import reject_arguments, run
from pipeline.splits.configs import CONFIGS
from trainers import evaluation_flags, tf_import
from trainers.evaluation import runs
from trainers.evaluation.data_set import DataSet

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
_RUN_DIRS = flags.DEFINE_list("run_dirs", None, "Folders of the runs to judge.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for the report; made if missing.", required=True)
_CONFIG = flags.DEFINE_enum("config", None, list(CONFIGS), "Config of the data set; that of the runs if not given.")
_SPLIT = flags.DEFINE_string("split", None, "TFDS split expression; the --test_split of the runs if not given.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Cells a step.", lower_bound=1)
evaluation_flags.define()
flags.adopt_module_key_flags(evaluation_flags)


def main(arguments: Sequence[str]) -> None:
    """Judges the runs, writes the report, prints the table."""
    reject_arguments(arguments)
    config, planned = runs.plan(_RUN_DIRS.value, _CONFIG.value, _SPLIT.value)
    data_set = DataSet(_DATA_DIR.value, config)
    for candidate in planned:
        data_set.open(candidate.members)
    options = evaluation_flags.read(_BATCH_SIZE.value)

    tf_import.import_tensorflow()
    from trainers.evaluation import evaluate  # seconds of imports that mistakes need not wait for

    print(evaluate.evaluate(planned, data_set, options, _OUTPUT_DIR.value))


if __name__ == "__main__":
    run(main)
