"""Prepares five folds of the patients that `by_patient` does not test, to choose recipes without the test's patients.

    python -m benchmarks.development_folds --source=cell_images.zip --data_dir=data --output_dir=development
    python -m trainers.cross_validate --model=basic_cnn --data_dir=development --output_dir=trials/flagfile

Prints which patients each fold holds. The config `folds` of all patients would choose by the test's patients, too.
"""

import csv
import subprocess
import sys
from pathlib import Path

from absl import flags

from pipeline.cells import compile_patient_regex
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.records import manifest
from pipeline.source.archive import open_source
from pipeline.source.listing import list_cells

_SOURCE = flags.DEFINE_string("source", None, "Source of the data set in data_dir.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets, with the config by_patient.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Root of the data set to make.", required=True)


def main() -> None:
    """Writes the list of cells to leave out, makes the data set, prints its patients."""
    _, contents = manifest.read_dataset(_DATA_DIR.value, "by_patient")
    settings, tested = contents["settings"], set(contents["splits"]["test"]["patients"])
    if "label_overrides" in contents:
        raise InputError(
            f"--data_dir={_DATA_DIR.value} was made with --label_overrides, which the folds would not have; give one "
            "with the labels as published"
        )
    regex = compile_patient_regex(settings["patient_regex"])
    listing = list_cells(open_source(_SOURCE.value), _SOURCE.value, settings["class_folders"], regex)
    if listing.fingerprint != contents["source"]["fingerprint"]:
        raise InputError(f"--data_dir={_DATA_DIR.value} was not made from --source={_SOURCE.value}; give its source")
    excluded = Path(_OUTPUT_DIR.value) / "test_cells.csv"
    try:
        excluded.parent.mkdir(parents=True, exist_ok=True)
        with excluded.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("filename", "label"))
            rows.writerows((cell.filename, "exclude") for cell in listing.cells if cell.patient_id in tested)
    except OSError as error:
        raise InputError(f"--output_dir={_OUTPUT_DIR.value} cannot be written: {error}; give another") from error
    command = [sys.executable, "-m", "pipeline.preprocess", f"--source={_SOURCE.value}", "--config=folds"]
    command += [f"--data_dir={_OUTPUT_DIR.value}", f"--label_overrides={excluded}"]
    command += [f"--{name}={settings[name]}" for name in ("image_size_px", "split_seed", "patient_regex")]
    command += [f"--class_folders={','.join(settings['class_folders'])}"]
    if subprocess.run(command, check=False).returncode:
        raise InputError("the folds were not made, see above")
    _, folds = manifest.read_dataset(_OUTPUT_DIR.value, "folds")
    for name, split in folds["splits"].items():
        print(f"{name}: {', '.join(split['patients'])}")


if __name__ == "__main__":
    run(main)
