"""What a run works on: the data set and its splits, checked before anything slow begins."""

from typing import Any, NamedTuple

from etils import epath

from pipeline import layout, manifest
from pipeline.errors import InputError
from trainers import run_dir
from trainers.splits import Split, open_split, overlap
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
        },
        "versions": run_dir.versions(),
        "timings": {"seconds": 0.0},
    }
