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
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from absl import flags
from etils import epath

from pipeline.cells import DATASET_NAME, LABELS
from pipeline.command import reject_arguments, run
from pipeline.job import fill
from pipeline.progress import progress_bar
from pipeline.records import layout, manifest, parsing, tfrecord
from pipeline.splits.configs import CONFIGS

_CHUNK_BYTES = 1 << 20
_Row = tuple[int, int, int, int]  # of a shard's index, see `fill.INDEX_COLUMNS`
_THREADS = 4  # on an object store several files arrive at a time; locally hashing keeps two cores busy


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
    """
    try:
        content = (directory / layout.MANIFEST).read_bytes()
        made = json.loads(content)
        if made["dataset"] != DATASET_NAME:
            raise ValueError(f"it is not a manifest of {DATASET_NAME}")
        is_sealed = manifest.is_sealed(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Problem(layout.MANIFEST, f"cannot be read: {type(error).__name__}: {error}")]
    try:
        return [*_seal_problem(is_sealed), *_check(directory, made)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if is_sealed:
            raise  # then it is no damage
        return [*_seal_problem(is_sealed), Problem(layout.MANIFEST, f"lacks or garbles an entry: {error!r}")]


def _seal_problem(is_sealed: bool) -> list[Problem]:
    return [] if is_sealed else [Problem(layout.MANIFEST, "its checksum does not fit: it has been changed")]


def _check(directory: epath.Path, made: manifest.Manifest) -> Iterator[Problem]:
    place = (directory.parent.name, directory.name)
    if (made["config"], made["version"]) != place:
        yield Problem(layout.MANIFEST, f"is that of {made['config']}/{made['version']}, but lies in {'/'.join(place)}")
    shards = [(split, shard) for split, entry in made["splits"].items() for shard in entry["shards"]]
    yield from _check_names(directory, [shard["file"] for _, shard in shards])
    for name, digest in made["files"].items():
        yield from _check_file(directory, name, digest)
    image_form = (made["settings"]["image_size_px"], made["settings"]["image_encoding"])
    contents = defaultdict(list)
    num_bytes = sum(shard["num_bytes"] for _, shard in shards)
    with ThreadPoolExecutor(_THREADS) as pool, progress_bar(num_bytes, "checking", "B", unit_scale=True) as bar:
        found = pool.map(lambda shard: _check_shard(directory, shard, image_form), [shard for _, shard in shards])
        for (split, shard), content in zip(shards, found, strict=True):
            contents[split].append(content)
            bar.update(shard["num_bytes"])
    for split in made["splits"]:
        for content in contents[split]:
            yield from content.problems
    yield from _check_counts(made, contents)


def _check_names(directory: epath.Path, shard_files: list[str]) -> Iterator[Problem]:
    expected, found = layout.expected_files(shard_files), {path.name for path in directory.iterdir()}
    yield from (Problem(name, "is missing") for name in sorted(expected - found - set(shard_files)))
    yield from (Problem(name, "does not belong to the data set") for name in sorted(found - expected))
    if len(set(shard_files)) < len(shard_files):
        yield Problem(layout.MANIFEST, "names a shard more than once")


def _check_file(directory: epath.Path, name: str, digest: str) -> Iterator[Problem]:
    try:
        if hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest:
            yield Problem(name, "its sha256 is not the manifest's: it has been changed or swapped")
    except FileNotFoundError:
        pass  # reported by its name already
    except OSError as error:
        yield Problem(name, f"cannot be read: {error}")


class _Hashing:
    """A file that is read once, for its records and for its digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.num_bytes = file, hashlib.sha256(), 0

    def read(self, num_bytes: int) -> bytes:
        content = self._file.read(num_bytes)
        self.digest.update(content)
        self.num_bytes += len(content)
        return content

    def read_rest(self) -> None:
        while self.read(_CHUNK_BYTES):
            pass


def _check_shard(directory: epath.Path, shard: dict[str, Any], image_form: tuple[int, str]) -> _ShardContent:
    found = _ShardContent([], Counter(), set())
    name = shard["file"]
    index: list[_Row] = []
    try:
        with (directory / name).open("rb") as file:
            hashing = _Hashing(file)
            try:
                for row in _read_rows(hashing, found, image_form):
                    index.append(row)
            except (tfrecord.DamagedRecord, ValueError) as error:
                found.problems.append(Problem(name, str(error)))
            hashing.read_rest()
    except FileNotFoundError:
        found.problems.append(Problem(name, "is missing"))
        return found
    except OSError as error:
        found.problems.append(Problem(name, f"cannot be read: {error}"))
        return found
    is_damaged = bool(found.problems)
    if hashing.num_bytes != shard["num_bytes"]:
        found.problems.append(Problem(name, f"has {hashing.num_bytes} bytes, the manifest says {shard['num_bytes']}"))
    elif hashing.digest.hexdigest() != shard["sha256"]:
        found.problems.append(Problem(name, "its sha256 is not the manifest's: it has been changed or swapped"))
    if not is_damaged:
        if len(index) != shard["num_records"]:
            found.problems.append(Problem(name, f"has {len(index)} records, the manifest says {shard['num_records']}"))
        found.problems.extend(_check_index(directory, shard, index))
    return found


def _read_rows(file: _Hashing, found: _ShardContent, image_form: tuple[int, str]) -> Iterator[_Row]:
    """The rows that the shard's index must have; counts classes and patients on the way."""
    image_size_px, image_encoding = image_form
    for number, (offset, record) in enumerate(tfrecord.read_records(file)):
        cell = parsing.parse(record)
        found.classes[cell.label] += 1
        found.patients.add(cell.patient_id)
        if image_encoding == "raw" and len(cell.image) != 3 * image_size_px**2:
            raise ValueError(f"record {number} is not {image_size_px} pixels wide")
        image_offset = offset + tfrecord.HEADER_BYTES + parsing.find_image(record, cell.image)
        yield offset, image_offset, len(cell.image), cell.label


def _check_index(directory: epath.Path, shard: dict[str, Any], expected: list[_Row]) -> Iterator[Problem]:
    name = shard["index_file"]
    problems = list(_check_file(directory, name, shard["index_sha256"]))
    yield from problems
    if not problems and (directory / name).exists():
        index = np.load(io.BytesIO((directory / name).read_bytes()))
        if not np.array_equal(index, fill.index_array(expected)):
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
    data_dir, configs = flags.FLAGS.data_dir, flags.FLAGS.config
    targets = {config: layout.dataset_dir(data_dir, config) for config in configs or CONFIGS}
    present = {config: target for config, target in targets.items() if layout.has_dataset(target)}
    if not present or (configs and len(present) < len(targets)):
        absent = [config for config in targets if config not in present]
        manifest.read_dataset(data_dir, absent[0])  # says what is missing and how to make it
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


if __name__ == "__main__":  # flags are not defined on import: other commands have some of the same names
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_list("config", None, "Configs to check; all that are there if not given.")
    run(main)
