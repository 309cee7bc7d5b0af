"""Judges trained models on a split that no training step has touched.

    python -m trainers.evaluate --data_dir=data --run_dirs=runs/basic_cnn,runs/vgg_ft --output_dir=report

Writes `metrics.json` into the output folder and prints its table. A label is 1 for parasitized cells; a cell is
called parasitized from a probability of 0.5 on.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from pipeline import manifest
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.split import CONFIGS
from trainers import run_dir
from trainers.splits import Split, open_split

if TYPE_CHECKING:
    import keras
    import numpy as np

METRICS = "metrics.json"

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
_RUN_DIRS = flags.DEFINE_list("run_dirs", None, "Folders of the runs to judge.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for metrics.json; made if missing.", required=True)
_CONFIG = flags.DEFINE_enum("config", None, list(CONFIGS), "Config of the data set; that of the runs if not given.")
_SPLIT = flags.DEFINE_string("split", None, "TFDS split expression; the --test_split of the runs if not given.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Cells a step.", lower_bound=1)


def main(arguments: Sequence[str]) -> None:
    """Evaluates each run, writes `metrics.json`, prints the table."""
    reject_arguments(arguments)
    if not _RUN_DIRS.value:
        raise InputError("--run_dirs is empty; expected one or more folders of trainers")
    runs = {path: run_dir.read(path) for path in _RUN_DIRS.value}
    for path, its_run in runs.items():
        if its_run["status"] != "finished" and not (Path(path) / run_dir.MODEL).exists():
            raise InputError(f"{path} has no {run_dir.MODEL} yet; run its trainer first")
    config = _CONFIG.value or _common(runs, "config")
    expression = _SPLIT.value or _common(runs, "test_split")
    directory, its_manifest = manifest.read_dataset(_DATA_DIR.value, config)
    split = open_split(directory, expression)

    from trainers import metrics  # seconds of imports that mistakes need not wait for

    entries = {}
    for (path, its_run), name in zip(runs.items(), _names(runs), strict=True):
        _check_data(path, its_run, its_manifest)
        labels, probabilities, patient_ids = predict_split(path, split, _BATCH_SIZE.value)
        if len(set(labels.tolist())) < 2:
            raise InputError(
                f"split {expression} of {directory} has cells of one class only; expected both uninfected and "
                "parasitized cells; give another --split"
            )
        entries[name] = metrics.entry(expression, labels, probabilities, patient_ids)
    path = _make_output_dir(_OUTPUT_DIR.value) / METRICS
    path.write_text(json.dumps({"models": entries}, indent=1) + "\n")
    print(f"{metrics.table(entries)}\n{path}")


def predict_split(run_folder: str, split: Split, batch_size: int) -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    """Predicts every cell of a split once, in the order of its records.

    Returns:
      labels int64 [cells], probabilities float64 [cells] in 0…1, patient_ids bytes [cells].

    Raises:
      InputError: if the model cannot be loaded, or expects images of another size.
    """
    import numpy as np

    from pipeline.progress import progress_bar
    from trainers import input_pipeline

    model = load_model(run_folder)
    expected, found = model.input_shape[1:], (split.image_size_px, split.image_size_px, 3)
    if expected != found:
        raise InputError(f"the model in {run_folder} takes images of shape {expected}, the data set has {found}")
    columns = ([], [], [])
    with progress_bar(split.num_cells, f"predicting {model.name}", "images") as bar:
        for image, label, _, patient_id in input_pipeline.evaluation_batches(split, batch_size):
            probability = np.asarray(model.predict_on_batch(image), np.float64)[:, 0]
            for column, values in zip(columns, (label.numpy(), probability, patient_id.numpy()), strict=True):
                column.append(values)
            bar.update(len(probability))
    return tuple(np.concatenate(column) for column in columns)


def load_model(run_folder: str) -> "keras.Model":
    """Loads the best epoch's model of a run; raises InputError if the file is missing or damaged."""
    import keras

    path = Path(run_folder) / run_dir.MODEL
    if not path.exists():
        raise InputError(f"{run_folder} has no {run_dir.MODEL}; run its trainer first")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # a damaged archive fails in zipfile, json, h5py or Keras, each in its own way
        raise InputError(f"{path} cannot be loaded ({error}); train again into another --run_dir") from error


def _common(runs: dict[str, run_dir.Run], flag: str) -> str:
    values = {its_run["flags"][flag] for its_run in runs.values()}
    if len(values) > 1:
        given = "--split" if flag == "test_split" else f"--{flag}"
        raise InputError(f"the runs differ in their --{flag}: {', '.join(sorted(values))}; say which one by {given}")
    return values.pop()


def _names(runs: dict[str, run_dir.Run]) -> list[str]:
    """The model's name, or the run folder's where two runs share a model."""
    models = [its_run["model"] for its_run in runs.values()]
    return [
        model if models.count(model) == 1 else Path(path).resolve().name
        for path, model in zip(runs, models, strict=True)
    ]


def _check_data(path: str, its_run: run_dir.Run, its_manifest: manifest.Manifest) -> None:
    trained_on, given = its_run["data"]["fingerprint"], its_manifest["source"]["fingerprint"]
    if trained_on != given:
        print(f"note: {path} was trained on another source than this data set: this is external data for it")


def _make_output_dir(output_dir: str) -> Path:
    path = Path(output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir={output_dir} cannot be made: {error}; give another") from error
    return path


if __name__ == "__main__":
    run(main)
