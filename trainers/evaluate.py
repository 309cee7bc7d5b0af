"""Evaluates trained models on a split that no training step has used.

    python -m trainers.evaluate --data_dir=data --run_dirs=runs/basic_cnn,runs/vgg_ft --output_dir=report

Writes `metrics.json`, `report.html` with its plots as PNG, `suspected_label_errors.csv` and a model card per model to
the output folder, and prints the table. Runs are only read: their thresholds and temperature were fitted on validation
when training ended. Runs of the config `folds` with different test splits are pooled: see `trainers.cross_validate`.
"""

from absl import flags

from pipeline.command import run
from pipeline.splits.configs import CONFIGS
from trainers import evaluation_flags, tf_import
from trainers.data import open_data_set
from trainers.evaluation import runs

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
_RUN_DIRS = flags.DEFINE_list("run_dirs", None, "Folders of the runs to evaluate, separated by commas.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for the report; created if missing.", required=True)
_CONFIG = flags.DEFINE_enum("config", None, list(CONFIGS), "Config of the data set; by default that of the runs.")
_SPLIT = flags.DEFINE_string("split", None, "TFDS split expression; by default the --test_split of the runs.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Cells per step.", lower_bound=1)
evaluation_flags.define_model()
evaluation_flags.define()
flags.adopt_module_key_flags(evaluation_flags)


def main() -> None:
    """Evaluates the runs, writes the report, prints the table."""
    config, grouped = runs.group(_RUN_DIRS.value, _CONFIG.value, _SPLIT.value)
    data_set = open_data_set(_DATA_DIR.value, config)
    for model_runs in grouped:
        runs.open_splits(data_set, model_runs)
    options = evaluation_flags.read(_BATCH_SIZE.value)
    runs.check_disputed(options.disputed_labels, data_set)

    tf_import.import_tensorflow(flags.FLAGS.model)
    from trainers.evaluation import evaluate  # seconds of imports, after all that is quick to check

    print(evaluate.evaluate(grouped, data_set, options, _OUTPUT_DIR.value))


if __name__ == "__main__":
    run(main)
