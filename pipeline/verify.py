"""Checks prepared data sets against their manifests, byte by byte and record by record.

    python -m pipeline.verify --data_dir=data

Names everything that is wrong, a line each on standard output; the exit status is 1 then. It finds damaged, missing,
swapped and foreign files, and a manifest that says other than the records do.
"""

import hashlib
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from absl import flags
from etils import epath

from pipeline import example, fill, layout, manifest, tfrecord
from pipeline.cells import DATASET_NAME, LABELS
from pipeline.command import reject_arguments, run
from pipeline.progress import progress_bar
from pipeline.split import CONFIGS

_THREADS = 4  # on an object store several files arrive at a time; locally hashing keeps two cores busy

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
_CONFIG = flags.DEFINE_list("config", None, "Configs to check; all that are there if not given.")


class Problem(NamedTuple):
    """Something that is wrong: the file, and what."""

    file: str
    what: str


class _ShardContent(NamedTuple):
    problems: list[Problem]
    classes: Counter[int]
    patients: set[str]


def verify(directory: epath.Path) -> list[Problem]:
    """Checks one data set.

    Args:
      directory: its version folder.

    Returns:
      everything that is wrong, in a fixed order; empty for a whole data set.

    Raises:
      OSError: if the folder cannot be read.
    """
    content = (directory / layout.MANIFEST).read_bytes()
    try:
        made = json.loads(content)
        if made.get("dataset") != DATASET_NAME:
            raise ValueError(f"it is not a manifest of {DATASET_NAME}")
        is_sealed = manifest.is_sealed(content)
        shards = [(split, shard) for split, entry in made["splits"].items() for shard in entry["shards"]]
        problems = [] if is_sealed else [Problem(layout.MANIFEST, "its checksum does not fit: it has been changed")]
        problems += _check_names(directory, [shard["file"] for _, shard in shards])
        problems += [
            problem for name, digest in made["files"].items() for problem in _check_digest(directory, name, digest)
        ]
        settings = made["settings"]
        checked = [(split, shard, (settings["image_size_px"], settings["image_encoding"])) for split, shard in shards]
        by_split = defaultdict(list)
        with (
            ThreadPoolExecutor(_THREADS) as pool,
            progress_bar(sum(shard["num_bytes"] for _, shard in shards), "checking", "B", unit_scale=True) as bar,
        ):
            for (split, shard, _), found in zip(
                checked, pool.map(lambda item: _check_shard(directory, *item[1:]), checked), strict=True
            ):
                by_split[split].append(found)
                bar.update(shard["num_bytes"])
        problems += [problem for found in by_split.values() for shard in found for problem in shard.problems]
        problems += _check_counts(made, by_split)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [Problem(layout.MANIFEST, f"cannot be read: {type(error).__name__}: {error}")]
    return problems


def _check_names(directory: epath.Path, shard_files: list[str]) -> Iterator[Problem]:
    expected, found = layout.expected_files(shard_files), {path.name for path in directory.iterdir()}
    yield from (Problem(name, "is missing") for name in sorted(expected - found - set(shard_files)))
    yield from (Problem(name, "does not belong to the data set") for name in sorted(found - expected))
    if len(set(shard_files)) < len(shard_files):
        yield Problem(layout.MANIFEST, "names a shard more than once")


def _read(directory: epath.Path, name: str) -> bytes | None:
    """A file's bytes, None if it is missing."""
    path = directory / name
    return path.read_bytes() if path.exists() else None


def _check_digest(directory: epath.Path, name: str, digest: str) -> Iterator[Problem]:
    content = _read(directory, name)
    if content is not None and hashlib.sha256(content).hexdigest() != digest:
        yield Problem(name, "its sha256 is not the manifest's: it has been changed")


def _check_shard(directory: epath.Path, shard: dict, image_form: tuple[int, str]) -> _ShardContent:
    found = _ShardContent([], Counter(), set())
    name = shard["file"]
    content = _read(directory, name)
    if content is None:
        found.problems.append(Problem(name, "is missing"))
        return found
    if len(content) != shard["num_bytes"]:
        found.problems.append(Problem(name, f"has {len(content)} bytes, the manifest says {shard['num_bytes']}"))
    elif hashlib.sha256(content).hexdigest() != shard["sha256"]:
        found.problems.append(Problem(name, "its sha256 is not the manifest's: it has been changed or swapped"))
    index = []
    try:
        for offset, record in tfrecord.read_records(io.BytesIO(content)):
            cell = example.parse(record)
            found.classes[cell.label] += 1
            found.patients.add(cell.patient_id)
            image_offset = offset + tfrecord.HEADER_BYTES + example.find_image(record, cell.image)
            index.append((offset, image_offset, len(cell.image), cell.label))
            if image_form[1] == "raw" and len(cell.image) != 3 * image_form[0] ** 2:
                found.problems.append(Problem(name, f"record {len(index) - 1} is not {image_form[0]} pixels wide"))
    except (tfrecord.DamagedRecord, ValueError) as error:
        found.problems.append(Problem(name, str(error)))
    else:
        if len(index) != shard["num_records"]:
            found.problems.append(Problem(name, f"has {len(index)} records, the manifest says {shard['num_records']}"))
        found.problems.extend(_check_index(directory, shard, index))
    return found


def _check_index(directory: epath.Path, shard: dict, expected: list[tuple[int, int, int, int]]) -> Iterator[Problem]:
    name = shard["index_file"]
    content = _read(directory, name)
    if content is None:
        return
    if hashlib.sha256(content).hexdigest() != shard["index_sha256"]:
        yield Problem(name, "its sha256 is not the manifest's: it has been changed or swapped")
    elif not np.array_equal(np.load(io.BytesIO(content)), fill.index_array(expected)):
        yield Problem(name, "does not point at the records")


def _check_counts(made: manifest.Manifest, by_split: dict[str, list[_ShardContent]]) -> Iterator[Problem]:
    """The manifest's numbers against the records, where no shard is known to be wrong."""
    config = CONFIGS[made["config"]]
    if set(made["splits"]) != set(config.splits):
        yield Problem(layout.MANIFEST, f"has the splits {', '.join(made['splits'])}; expected {config.splits}")
    seen: dict[str, str] = {}
    for split, entry in made["splits"].items():
        contents = by_split[split]
        if any(shard.problems for shard in contents):
            continue
        classes = sum((shard.classes for shard in contents), Counter())
        patients = sorted(set().union(*(shard.patients for shard in contents)))
        counted = {
            "num_cells": classes.total(),
            "classes": {label_name: classes[label] for label, label_name in enumerate(LABELS)},
            "patients": patients,
            "num_patients": len(patients),
        }
        for key, value in counted.items():
            if entry[key] != value:
                yield Problem(layout.MANIFEST, f"split {split}: {key} is {entry[key]}, its records say {value}")
        for patient in patients if config.needs_patients else ():
            if patient in seen:
                yield Problem(layout.MANIFEST, f"patient {patient} is in the splits {seen[patient]} and {split}")
            seen[patient] = split


def main(arguments: Sequence[str]) -> int:
    """Checks the data sets and prints what is wrong."""
    reject_arguments(arguments)
    targets = {config: layout.dataset_dir(_DATA_DIR.value, config) for config in _CONFIG.value or CONFIGS}
    present = {config: target for config, target in targets.items() if layout.has_dataset(target)}
    if not present or (_CONFIG.value and len(present) < len(targets)):
        absent = [config for config in targets if config not in present]
        manifest.read_dataset(_DATA_DIR.value, absent[0])  # says what is missing and how to make it
    status = 0
    for config, target in present.items():
        if not (target / layout.MANIFEST).exists():
            problems = [Problem(layout.MANIFEST, "is missing: this is no whole data set")]
        else:
            problems = verify(target)
        for problem in problems:
            print(f"{target / problem.file}: {problem.what}")
        if problems:
            status = 1
            print(
                f"error: {config} has {len(problems)} problems; make it again with python -m pipeline.preprocess "
                f"--overwrite --config={config}",
                file=sys.stderr,
            )
        else:
            print(f"{target}: whole")
    return status


if __name__ == "__main__":
    run(main)
