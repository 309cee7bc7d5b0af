"""What a run works on: the data set and its splits, checked before anything slow begins."""

from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from pipeline.errors import InputError
from pipeline.records import index, layout, manifest
from trainers import run_dir
from trainers.input_pipeline.splits import Split, open_split, overlap
from trainers.training_flags import Options


class Task(NamedTuple):
    """A data set with the splits of a run.

    Attributes:
      directory: the data set's version folder.
      manifest: see `pipeline.manifest`.
      train, validation, test: pairwise disjoint.
    """

    directory: epath.Path
    manifest: dict[str, Any]
    train: Split
    validation: Split
    test: Split


def open_task(options: Options) -> Task:
    """Opens the data set and the splits that the flags name.

    Raises:
      InputError: if there is no such data set or split, or two splits share cells.
    """
    directory, its_manifest = manifest.read_dataset(options.data_dir, options.config)
    flags = ("train_split", "validation_split", "test_split")
    splits = [open_split(directory, getattr(options, flag), flag) for flag in flags]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        if shared := overlap(splits[i], splits[j]):
            raise InputError(
                f"--{flags[i]}={splits[i].expression} and --{flags[j]}={splits[j].expression} share {shared} cells; "
                "expected disjoint splits"
            )
    return Task(directory, its_manifest, *splits)


def describe(model: str, task: Task, options: Options) -> run_dir.Run:
    """The `run.json` of a fresh run: what decides on its numbers."""
    return {
        "model": model,
        "status": "unfinished",
        "flags": options._asdict(),
        "seed": options.seed,
        "data": {
            "dataset": f"{task.manifest['dataset']}/{options.config}/{layout.VERSION}",
            "source": task.manifest["source"]["name"],
            "fingerprint": task.manifest["source"]["fingerprint"],
            "num_train_cells": task.train.num_cells,
            "num_validation_cells": task.validation.num_cells,
            "train_patients": patients_of(task.train, task.manifest),
            "validation_patients": patients_of(task.validation, task.manifest),
        },
        "versions": run_dir.versions(),
        "timings": {"seconds": 0.0},
    }


def patients_of(split: Split, its_manifest: manifest.Manifest) -> list[str]:
    """The patients of the cells that a split expression names, sorted; "" among them for cells without a patient.

    The manifest knows them for whole splits; of a part such as `train[:10%]` the records' keys are read.

    Raises:
      InputError: if a shard cannot be read.
    """
    num_records = {
        shard["file"]: shard["num_records"] for entry in its_manifest["splits"].values() for shard in entry["shards"]
    }
    parts = {
        Path(file).name: (file, skip, take)
        for file, skip, take in zip(split.files, split.skips, split.takes, strict=True)
    }
    whole = {name for name, (_, _, take) in parts.items() if take == num_records.get(name)}
    patients: set[str] = set()
    for entry in its_manifest["splits"].values():
        shards = {shard["file"] for shard in entry["shards"]}
        if shards <= whole:
            patients |= set(entry["patients"])
            parts = {name: part for name, part in parts.items() if name not in shards}
    for part in parts.values():
        patients |= set(index.read(*part).patient_ids.tolist())
    return sorted(patients)
