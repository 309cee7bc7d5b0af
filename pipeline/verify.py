"""Checks prepared data sets against their manifests, byte by byte and record by record.

    python -m pipeline.verify --data_dir=data

Names everything that is wrong, one line each on standard output; the exit status is then 1. It finds corrupt, missing,
swapped and foreign files, and a manifest that disagrees with the records.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from etils import epath

from pipeline import storage
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.progress import progress_bar
from pipeline.records import example, layout, manifest, schema, tfrecord
from pipeline.records.index import index_array, read_index
from pipeline.splits.configs import CONFIGS
from pipeline.terminal import say

_THREADS = 4  # on an object store several files arrive at a time; locally hashing keeps two cores busy


class Problem(NamedTuple):
    """Something that is wrong: the file, and what."""

    file: str
    what: str


_ShardContent = tuple[list[Problem], Counter[tuple[int, str]]]  # problems; (label, patient) -> number of cells


def verify(directory: epath.Path) -> list[Problem]:
    """Everything that is wrong with the data set in a version folder, in a fixed order; empty for a complete one."""
    try:
        content = storage.read_file(directory / layout.MANIFEST)
        parsed = manifest.parse(content)
        is_signed = manifest.is_signed(content)
    except FileNotFoundError:
        return [Problem(layout.MANIFEST, "is missing: this is no complete data set")]
    except (OSError, ValueError, RecursionError) as error:
        return [Problem(layout.MANIFEST, f"cannot be read: {type(error).__name__}: {error}")]
    problems = [] if is_signed else [Problem(layout.MANIFEST, "its checksum does not fit: it has been changed")]
    try:
        schema.check(parsed)
    except ValueError as error:
        return [*problems, Problem(layout.MANIFEST, str(error))]
    try:
        schema.check_consistency(parsed)
    except ValueError as error:
        problems.append(Problem(layout.MANIFEST, str(error)))
    problems += _check(directory, parsed)
    if not problems:
        from pipeline.records import tfds_metadata  # TFDS takes a second to import

        try:
            tfds_metadata.check(directory, parsed)
        except (OSError, ValueError, RecursionError) as error:
            problems.append(Problem(layout.MANIFEST, str(error)))
    return problems


def _check(directory: epath.Path, parsed: manifest.Manifest) -> Iterator[Problem]:
    config, version = directory.parent.name, directory.name
    if (parsed["config"], parsed["version"]) != (config, version):
        what = f"is that of {parsed['config']}/{parsed['version']}, but lies in {config}/{version}"
        yield Problem(layout.MANIFEST, what)
    shards = [(split, shard) for split, entry in parsed["splits"].items() for shard in entry["shards"]]
    shard_files = {shard["file"] for _, shard in shards}
    expected, present = layout.expected_files(shard_files), set(storage.list_names(directory))
    indexes = set(map(layout.index_name, shard_files))
    yield from (Problem(name, "is missing") for name in sorted(expected - present - shard_files - indexes))
    yield from (Problem(name, "does not belong to the data set") for name in sorted(present - expected))
    for name, digest in parsed["files"].items():
        if (directory / name).exists() and (fault := manifest.check_file(directory / name, digest)):
            yield Problem(name, fault)
    settings = parsed["settings"]
    raw_size_px = settings["image_size_px"] if settings["image_encoding"] == "raw" else None
    by_split: dict[str, list[_ShardContent]] = {split: [] for split in parsed["splits"]}
    num_bytes = sum(shard["num_bytes"] for _, shard in shards)
    with ThreadPoolExecutor(_THREADS) as pool, progress_bar(num_bytes, "checking", "B", unit_scale=True) as bar:
        checked = pool.map(lambda shard: _check_shard(directory, shard[1], raw_size_px), shards)
        for (split, shard), content in zip(shards, checked, strict=True):
            by_split[split].append(content)
            bar.update(shard["num_bytes"])
            yield from content[0]
    yield from _check_counts(parsed, by_split)


def _check_shard(directory: epath.Path, shard: dict[str, Any], raw_size_px: int | None) -> _ShardContent:
    """Compares digests, then reads the records: they may disagree with the index and with the manifest's numbers."""
    name, index_name = shard["file"], shard["index_file"]
    faults = manifest.check_shard(directory, shard)
    problems, counts = [Problem(*fault) for fault in faults.items()], Counter[tuple[int, str]]()
    rows: list[tuple[int, int, int, int]] = []
    try:
        with storage.open_file(directory / name) as file:
            for offset, record in tfrecord.read_records(file):
                cell = example.parse(record)
                if raw_size_px and len(cell.image) != 3 * raw_size_px**2:
                    raise ValueError(f"record {len(rows)} is not {raw_size_px} pixels wide")
                encoded, image_start = example.encode(*cell)
                if encoded != record:
                    raise ValueError(f"record {len(rows)} is not serialised as pipeline.preprocess does")
                image_offset = offset + tfrecord.HEADER_BYTES + image_start
                rows.append((offset, image_offset, len(cell.image), cell.label))
                counts[cell.label, cell.patient_id] += 1
        if len(rows) != shard["num_records"]:
            raise ValueError(f"has {len(rows)} records, the manifest says {shard['num_records']}")
        if index_name not in faults and not np.array_equal(read_index(str(directory / name)), index_array(rows)):
            problems.append(Problem(index_name, "does not point at the records"))
    except (tfrecord.CorruptRecord, ValueError) as error:
        problems.append(Problem(name, str(error)))
    except InputError as error:
        problems.append(Problem(index_name, str(error)))
    except OSError:
        pass  # among the faults already
    return problems, counts


def _check_counts(parsed: manifest.Manifest, by_split: dict[str, list[_ShardContent]]) -> Iterator[Problem]:
    """The manifest's numbers against the records, where no shard is known to be wrong."""
    config = CONFIGS[parsed["config"]]
    split_of: dict[str, str] = {}
    for split, entry in parsed["splits"].items():
        if any(problems for problems, _ in by_split[split]):
            continue
        counted = manifest.count_cells(sum((counts for _, counts in by_split[split]), Counter()))
        for key, value in counted.items():
            if entry[key] != value:
                yield Problem(layout.MANIFEST, f"split {split}: {key} is {entry[key]}, its records say {value}")
        for patient in counted["patients"] if config.needs_patients else ():
            if patient in split_of:
                yield Problem(layout.MANIFEST, f"patient {patient} is in the splits {split_of[patient]} and {split}")
            split_of[patient] = split


def main() -> int:
    """Checks the data sets and prints what is wrong."""
    data_dir, configs = flags.FLAGS.data_dir, flags.FLAGS.config
    targets = {config: layout.dataset_dir(data_dir, config) for config in configs or CONFIGS}
    present = {config: target for config, target in targets.items() if layout.has_dataset(target)}
    if not present or (configs and len(present) < len(targets)):
        absent = [config for config in targets if config not in present]
        manifest.read_dataset(data_dir, absent[0])  # says what is missing and how to make it
    status = 0
    for config, target in present.items():
        problems = verify(target)
        for problem in problems:
            say(f"{target / problem.file}: {problem.what}")
        if problems:
            status = 1
            say(
                f"error: {config} has {len(problems)} problems; make corrupt files again with python -m "
                f"pipeline.preprocess --repair --config={config}, or everything with --overwrite",
                to_stderr=True,
            )
        else:
            say(f"{target}: complete")
    return status


if __name__ == "__main__":  # not on import: other commands define flags of the same names
    flags.DEFINE_string("data_dir", None, "Root folder of the data sets, as for pipeline.preprocess.", required=True)
    flags.DEFINE_list("config", None, "Configs to check, such as by_patient,folds; without it all that exist.")
    run(main)
