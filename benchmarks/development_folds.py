"""Prepares five folds of the patients that `by_patient` does not test, to choose recipes without the test's patients.

    python -m benchmarks.development_folds --source=cell_images.zip --data_dir=data --output_dir=development
    python -m trainers.cross_validate --model=basic_cnn --data_dir=development --output_dir=trials/flagfile

Prints which patients each fold holds. The config `folds` of all patients would choose by the test's patients, too.
"""

import csv
import subprocess
import sys
import tempfile

from absl import flags

from pipeline.command import run
from pipeline.errors import InputError
from pipeline.records import index, manifest
from trainers.data import open_data_set

_SOURCE = flags.DEFINE_string("source", None, "Source of the data set in data_dir.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets, with the config by_patient.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Root of the data set to make.", required=True)


def main() -> None:
    """Lists the cells to leave out, makes the data set, prints its patients."""
    data_set = open_data_set(_DATA_DIR.value, "by_patient")
    settings, test = data_set.manifest["settings"], data_set.open_split("test")
    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("filename", "label"))
        for part in zip(test.files, test.skips, test.takes, strict=True):
            rows.writerows((cell.filename, "exclude") for cell in index.read_without_images(*part))
        file.flush()
        command = [sys.executable, "-m", "pipeline.preprocess", f"--source={_SOURCE.value}", "--config=folds"]
        command += [f"--data_dir={_OUTPUT_DIR.value}", f"--label_overrides={file.name}"]
        command += [f"--{name}={settings[name]}" for name in ("image_size_px", "split_seed", "patient_regex")]
        command += [f"--class_folders={','.join(settings['class_folders'])}"]
        if subprocess.run(command, check=False).returncode:
            raise InputError("the folds were not made, see above")
    for name, split in manifest.read_dataset(_OUTPUT_DIR.value, "folds")[1]["splits"].items():
        print(f"{name}: {', '.join(split['patients'])}")


if __name__ == "__main__":
    run(main)
