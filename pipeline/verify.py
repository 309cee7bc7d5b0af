"""Checks prepared data sets against their manifests, byte by byte and record by record.

    python -m pipeline.verify --data_dir=data

Names everything that is wrong, one line each on standard output; the exit status is then 1. It finds corrupt, missing,
swapped and foreign files, and a manifest that disagrees with the records.
"""

import itertools
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
from pipeline.records import example, layout, manifest, schema
from pipeline.records.index import index_array, read_index
from pipeline.splits.configs import CONFIGS
from pipeline.terminal import progress_bar, quantity, say

_THREADS = 4  # on an object store several files arrive at a time; locally hashing keeps two cores busy


class Problem(NamedTuple):
    """Something that is wrong: the file, and what."""

    file: str
    what: str


_ShardContent = tuple[list[Problem], Counter[tuple[int, str]]]  # problems; (label, patient) -> number of cells


def verify(directory: epath.Path) -> list[Problem]:
    """Everything that is wrong with the data set in a version folder; empty for a complete one."""
    try:
        content = storage.read_file(directory / layout.MANIFEST)
        parsed = manifest.parse(content)
    except FileNotFoundError:
        return [Problem(layout.MANIFEST, "is missing: this is no complete data set")]
    except (OSError, ValueError, RecursionError) as error:
        return [Problem(layout.MANIFEST, f"cannot be read: {type(error).__name__}: {error}")]
    problems = list(_check_files(directory, parsed))
    if not manifest.is_signed(content):
        problems.append(Problem(layout.MANIFEST, "its checksum does not fit: it has been changed"))
    try:
        schema.check_consistency(parsed)
        if not problems:
            from pipeline.records import tfds_metadata  # TFDS takes a second to import

            tfds_metadata.check(directory, parsed)
    except (OSError, ValueError, RecursionError) as error:
        problems.append(Problem(layout.MANIFEST, str(error)))
    return problems


def _check_files(directory: epath.Path, parsed: manifest.Manifest) -> Iterator[Problem]:
    config, version = directory.parent.name, directory.name
    if (parsed["config"], parsed["version"]) != (config, version):
        what = f"is that of {parsed['config']}/{parsed['version']}, but lies in {config}/{version}"
        yield Problem(layout.MANIFEST, what)
    shards = list(manifest.shards(parsed))
    foreign = set(storage.list_names(directory)) - layout.expected_files([shard["file"] for shard in shards])
    yield from (Problem(name, "does not belong to the data set") for name in sorted(foreign))
    for name, digest in parsed["files"].items():
        if fault := manifest.check_file(directory / name, digest):
            yield Problem(name, fault)
    settings = parsed["settings"]
    raw_size_px = settings["image_size_px"] if settings["image_encoding"] == "raw" else None
    num_bytes = sum(shard["num_bytes"] for shard in shards)
    with ThreadPoolExecutor(_THREADS) as pool, progress_bar(num_bytes, "checking", "B", unit_scale=True) as bar:
        contents: list[_ShardContent] = []
        for content in pool.map(lambda shard: _check_shard(directory, shard, raw_size_px), shards):
            bar.update(shards[len(contents)]["num_bytes"])
            contents.append(content)
            yield from content[0]
    yield from _check_counts(parsed, iter(contents))


def _check_shard(directory: epath.Path, shard: dict[str, Any], raw_size_px: int | None) -> _ShardContent:
    """Compares digests, then reads the records: they may disagree with the index and with the manifest's numbers."""
    name, index_name = shard["file"], shard["index_file"]
    faults = manifest.check_shard(directory, shard)
    problems, counts = [Problem(*fault) for fault in faults.items()], Counter[tuple[int, str]]()
    rows: list[tuple[int, int, int, int]] = []
    try:
        with storage.open_file(directory / name) as file:
            for offset, record in example.read_records(file):
                cell = example.parse(record)
                encoded, image_start = example.encode(*cell)
                if raw_size_px and len(cell.image) != 3 * raw_size_px**2:
                    raise ValueError(f"record {len(rows)} is not {raw_size_px} pixels wide")
                if encoded != record:
                    raise ValueError(f"record {len(rows)} is not serialised as pipeline.preprocess does")
                rows.append((offset, offset + example.HEADER_BYTES + image_start, len(cell.image), cell.label))
                counts[cell.label, cell.patient_id] += 1
        if len(rows) != shard["num_records"]:
            raise ValueError(f"has {len(rows)} records, the manifest says {shard['num_records']}")
        if index_name not in faults and not np.array_equal(read_index(str(directory / name)), index_array(rows)):
            problems.append(Problem(index_name, "does not point at the records"))
    except (example.CorruptRecord, ValueError) as error:
        problems.append(Problem(name, str(error)))
    except InputError as error:
        problems.append(Problem(index_name, str(error)))
    except OSError:
        pass  # among the faults already
    return problems, counts


def _check_counts(parsed: manifest.Manifest, contents: Iterator[_ShardContent]) -> Iterator[Problem]:
    """The manifest's numbers against the records of all shards, in splits of which no shard is known to be wrong."""
    split_of: dict[str, str] = {}
    for split, entry in parsed["splits"].items():
        of_split = list(itertools.islice(contents, len(entry["shards"])))
        if any(problems for problems, _ in of_split):
            continue
        counted = manifest.count_cells(sum((counts for _, counts in of_split), Counter()))
        for key, value in counted.items():
            if entry[key] != value:
                yield Problem(layout.MANIFEST, f"split {split}: {key} is {entry[key]}, its records say {value}")
        for patient in counted["patients"] if CONFIGS[parsed["config"]].needs_patients else ():
            if patient in split_of:
                yield Problem(layout.MANIFEST, f"patient {patient} is in the splits {split_of[patient]} and {split}")
            split_of[patient] = split


def main() -> int:
    """Checks the data sets and prints what is wrong."""
    data_dir, status = flags.FLAGS.data_dir, 0
    present = [config for config in CONFIGS if layout.has_dataset(layout.dataset_dir(data_dir, config))]
    for config in flags.FLAGS.config or present or list(CONFIGS)[:1]:
        directory = layout.dataset_dir(data_dir, config)
        if config not in present:
            manifest.read_dataset(data_dir, config)  # says how to make it
        problems = verify(directory)
        say(*[f"{directory / problem.file}: {problem.what}" for problem in problems] or [f"{directory}: complete"])
        if problems:
            status = 1
            remedy = f"make corrupt files again with python -m pipeline.preprocess --repair --config={config}"
            problems_found = quantity(len(problems), "problem")
            say(f"error: {config} has {problems_found}; {remedy}, or everything with --overwrite", to_stderr=True)
    return status


if __name__ == "__main__":  # not on import: other commands define flags of the same names
    flags.DEFINE_string("data_dir", None, "Root folder of the data sets, as for pipeline.preprocess.", required=True)
    flags.DEFINE_list("config", None, "Configs to check, such as by_patient,folds; without it all that exist.")
    run(main)
