"""What a run works on: the data set and its splits, checked before anything slow begins. No TensorFlow needed.

The builder of `tfds_malaria` knows the features and what a split expression means. `trainers.input_pipeline` then reads
records straight from the shards that it names, because the position in the data is a number there: training can start
at any step, on any host, which a stream of examples from `as_dataset` cannot.
"""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from etils import epath

import tfds_malaria
from pipeline.errors import InputError
from pipeline.records import index, layout, manifest
from pipeline.records.example import IMAGE
from pipeline.records.random_access import MappedCells
from pipeline.storage import is_remote
from trainers import run_dir
from trainers.training_flags import SPLITS, Options

_NLM_NAME = re.compile(r"(?:.*/)?C\d+\w*_IMG_\d{8}_\d{6}\w*_cell_\d+\.png")
_CONTENTS = ("settings", "splits", "files")  # of the manifest: patients and sha256 of all files included


class Split(NamedTuple):
    """A split expression of a data set, resolved to parts of shards."""

    expression: str  # such as `train`, `fold_0+fold_1`, `train[:10%]`
    files: tuple[str, ...]  # shards, in order
    skips: tuple[int, ...]  # first record of each
    takes: tuple[int, ...]  # number of records of each
    image_size_px: int  # side of the stored images
    is_png: bool  # whether they are encoded
    shards: tuple[Mapping[str, Any], ...]  # the manifest's entries of the files
    data_set: "DataSet"

    @property
    def num_cells(self) -> int:
        return sum(self.takes)

    @property
    def num_bytes(self) -> int:  # of its images in memory
        return self.num_cells * self.image_size_px**2 * 3

    @property
    def is_mappable(self) -> bool:  # whether all shards lie on a local disk and have an index
        return all(not is_remote(file) and Path(layout.index_name(file)).exists() for file in self.files)

    def mapped(self) -> MappedCells:
        """Its cells by index, if it is mappable; InputError if a shard is not what the manifest says."""
        return MappedCells(self.files, self.skips, self.takes, self.shards, self.image_size_px, self.is_png)

    def check_unchanged(self) -> None:
        """Raises InputError if its data set is no longer the one that was opened, since a job has replaced it."""
        path = self.data_set.directory / layout.MANIFEST
        try:
            is_same = path.read_bytes() == manifest.to_bytes(self.data_set.manifest)
        except OSError:  # a job is replacing it right now
            is_same = False
        if not is_same:
            raise InputError(
                f"{self.data_set.directory} has been replaced while it was read, as preprocess --overwrite does; "
                "nothing that was read since was saved: give the command again once no job replaces the data set; a "
                "training continues on the data set that it began with"
            )


class DataSet(NamedTuple):
    """An open data set."""

    config: str  # such as `by_patient`
    directory: epath.Path  # its version folder
    manifest: manifest.Manifest
    builder: tfds.core.DatasetBuilder  # the TFDS view of the folder

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from other data sets, as a run keeps it; see `run_dir.data_differences`."""
        contents = self.manifest
        return {
            "dataset": f"{contents['dataset']}/{self.config}/{layout.VERSION}",
            "source": contents["source"]["name"],
            "fingerprint": contents["source"]["fingerprint"],
            "settings": contents["settings"],
            "content_digest": manifest.compute_checksum({key: contents[key] for key in _CONTENTS}),
        }

    @property
    def is_nlm(self) -> bool:
        """Whether its cells are the NLM's, by their names: what is known of those cells holds for no others."""
        patients = {patient for split in self.manifest["splits"].values() for patient in split["patients"]}
        # Synthetic cells have such names, too, but of patients C1, C2, ... without a gap.
        if patients == {f"C{number}" for number in range(1, len(patients) + 1)}:
            return False
        shard = next(manifest.shards(self.manifest))  # a random sample
        cells = index.read_without_images(str(self.directory / shard["file"]), 0, shard["num_records"])
        return all(_NLM_NAME.fullmatch(cell.filename) for cell in cells)

    def open_split(self, expression: str, flag: str = "split") -> Split:
        """Resolves a TFDS split expression of a flag; InputError if it names no split or no cell, or a cell twice."""
        info = self.builder.info
        try:
            parts = info.splits[expression].file_instructions
        except (KeyError, ValueError, AssertionError) as error:
            raise InputError(
                f"--{flag}={expression} is no split of {self.directory}; expected an expression of "
                f"{', '.join(info.splits)}, such as {next(iter(info.splits))}[:10%], or all"
            ) from error
        parts = [part for part in parts if part.examples_in_shard]
        takes = tuple(part.take if part.take != -1 else part.examples_in_shard - part.skip for part in parts)
        if not sum(takes):
            raise InputError(f"--{flag}={expression} of {self.directory} has no cells; expected a larger part")
        files = tuple(os.fspath(part.filename) for part in parts)
        shards = {shard["file"]: shard for shard in manifest.shards(self.manifest)}
        split = Split(
            expression,
            files=files,
            skips=tuple(part.skip for part in parts),
            takes=takes,
            image_size_px=info.features[IMAGE].shape[0],
            is_png=self.manifest["settings"]["image_encoding"] == "png",
            shards=tuple(shards[Path(file).name] for file in files),
            data_set=self,
        )
        if overlap(split, split) > split.num_cells:
            raise InputError(f"--{flag}={expression} names cells twice; expected parts that do not overlap")
        return split


class TrainingData(NamedTuple):
    """A data set with the splits of a run, which are pairwise disjoint."""

    data_set: DataSet
    train: Split
    validation: Split
    test: Split


def open_data_set(data_dir: str, config: str) -> DataSet:
    """Opens a prepared data set; InputError if there is none or it is not what its manifest vouches for."""
    directory, contents = manifest.read_dataset(data_dir, config)
    return DataSet(config, directory, contents, tfds_malaria.Builder(config=config, data_dir=data_dir))


def open_training_data(options: Options) -> TrainingData:
    """Opens the data set and the splits that the flags name; InputError also if two of them share cells."""
    data_set = open_data_set(options.data_dir, options.config)
    splits = {flag: data_set.open_split(getattr(options, flag), flag) for flag, _ in SPLITS}
    for (flag, split), (other_flag, other) in itertools.combinations(splits.items(), 2):
        if shared := overlap(split, other):
            raise InputError(
                f"--{flag}={split.expression} and --{other_flag}={other.expression} share {shared} cells; "
                "expected disjoint splits"
            )
    return TrainingData(data_set, *splits.values())


def overlap(one: Split, other: Split) -> int:
    """Number of cells that two splits of one data set share."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for file, skip, take in zip(other.files, other.skips, other.takes, strict=True):
        ranges.setdefault(file, []).append((skip, skip + take))
    return sum(
        max(0, min(skip + take, stop) - max(skip, start))
        for file, skip, take in zip(one.files, one.skips, one.takes, strict=True)
        for start, stop in ranges.get(file, ())
    )


def describe(model: str, data: TrainingData, options: Options, backend: str) -> run_dir.Run:
    """The `run.json` of a fresh run: what decides its numbers."""
    return {
        "model": model,
        "backend": backend,
        "status": "unfinished",
        "flags": options.by_flag(),
        "seed": options.seed,
        "data": {
            **data.data_set.identity,
            "is_nlm": data.data_set.is_nlm,
            "num_train_cells": data.train.num_cells,
            "num_validation_cells": data.validation.num_cells,
            "train_patients": patients_of(data.train),
            "validation_patients": patients_of(data.validation),
        },
        "versions": run_dir.versions(),
        "timings": {"seconds": 0.0},
    }


def patients_of(split: Split) -> list[str]:
    """The patients of a split's cells, sorted, "" for none; read from the records for a part such as `train[:10%]`."""
    entries, names = split.data_set.manifest["splits"], split.expression.split("+")
    if entries.keys() >= set(names):
        return sorted({patient for name in names for patient in entries[name]["patients"]})
    parts = zip(split.files, split.skips, split.takes, strict=True)
    return sorted({cell.patient_id for part in parts for cell in index.read_without_images(*part)})
