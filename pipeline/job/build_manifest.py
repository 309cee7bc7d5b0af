"""The manifest of a job: what is known before a cell is read, then the shards' results, then the signature."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from etils import epath

from pipeline import storage
from pipeline.cells import DATASET_NAME, LABELS
from pipeline.job.plan import Job, Settings
from pipeline.job.results import ShardResult
from pipeline.records import layout
from pipeline.records.manifest import SIZE_BIN_PX, Manifest, compute_checksum, count_cells, to_bytes
from pipeline.records.schema import FORMAT
from pipeline.source.listing import EXCLUDED, Listing
from pipeline.splits.configs import CONFIGS

_MAX_EXAMPLES = 100
# They decide on the bytes.
_PACKAGES = "apache-beam kornia-rs numpy opencv-python-headless pillow scikit-learn tensorflow-datasets"


def identity(listing: Listing, settings: Settings, source_name: str) -> Manifest:
    """The part of the manifest that is known before a cell is read: it tells one data set from another."""
    settings_entry, more = settings.as_json(), {}
    if listing.layout.patient_column:
        settings_entry["patient_column"] = listing.layout.patient_column
    if listing.overrides is not None:
        cells, changed = listing.cells, np.flatnonzero(listing.overrides != listing.cells.labels).tolist()
        num_excluded = int((listing.overrides == EXCLUDED).sum())
        settings_entry["label_overrides"] = listing.overrides_sha256
        more["label_overrides"] = {
            "num_corrected": len(changed) - num_excluded,
            "num_excluded": num_excluded,
            "published": {cells.filename(index): LABELS[cells.labels[index]] for index in changed},
        }
    source = {"name": source_name, "fingerprint": listing.fingerprint, "num_cells": len(listing.cells)}
    return {
        "format": FORMAT,
        "dataset": DATASET_NAME,
        "config": settings.config,
        "version": layout.VERSION,
        "source": {**source, "skipped": listing.skipped},
        "settings": settings_entry,
        **more,
    }


def differences(existing: Manifest, wanted: Manifest) -> list[str]:
    """How an existing data set differs from the wanted one: `image_size_px is 64, wanted 125`; empty if it does not."""
    old, new = dict(existing["settings"]), dict(wanted["settings"])
    if existing["source"]["fingerprint"] != wanted["source"]["fingerprint"]:
        old["source"], new["source"] = (
            f"{source['name']} with {source['num_cells']} cells (fingerprint {source['fingerprint'][:12]})"
            for source in (existing["source"], wanted["source"])
        )
    return [
        f"its {name} is {old.get(name, 'the default')}, wanted {new.get(name, 'the default')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def build(job: Job, results: Sequence[ShardResult]) -> Manifest:
    """The manifest but for `files` and `checksum`; `results` are in the order of the plan."""
    by_split = {
        split: of_split
        for split in CONFIGS[job.identity["config"]].splits
        if (of_split := [result for result in results if result.split == split])
    }
    # Each fold trains some runs, so each has its statistics; otherwise validation and test stay unseen.
    training_splits = ["train"] if "train" in by_split else list(by_split)
    sizes = {split: np.concatenate([result.sizes for result in by_split[split]]) for split in training_splits}
    rejected = sorted([*job.rejected, *(item for result in results for item in result.rejected)])
    converted = Counter(kind for result in results for kind in result.converted)
    return {
        **job.identity,
        "package_versions": {name: metadata.version(name) for name in _PACKAGES.split()},
        "splits": {split: _split_entry(of_split) for split, of_split in by_split.items()},
        "rejected": [item._asdict() for item in rejected],
        "converted": dict(sorted(converted.items())),
        "image_size": {
            split: {"height": _size_statistics(of_split[:, 0]), "width": _size_statistics(of_split[:, 1])}
            for split, of_split in sizes.items()
        },
        "duplicates": _count_duplicates(list(itertools.chain(*by_split.values()))),
        "same_names": {"num": len(job.same_names), "examples": job.same_names[:_MAX_EXAMPLES]},
    }


def _split_entry(results: Sequence[ShardResult]) -> dict[str, Any]:
    cells: Counter[tuple[int, str]] = Counter()
    for result in results:
        cells.update(zip(result.labels.tolist(), result.patient_ids, strict=True))
    return {**count_cells(cells), "shards": [result.entry for result in results]}


def write(job: Job, results: Sequence[ShardResult]) -> None:
    """Writes TFDS's files, then the manifest, into the folder of the filled shards; removes what is not theirs."""
    from pipeline.records import tfds_metadata  # TFDS takes a second to import, which the workers need not wait for

    shards_dir = job.shard_job.shards_dir
    unsigned = build(job, results)
    storage.remove_others(shards_dir, layout.expected_files(job.num_cells) | {job.shard_job.job_dir.name})
    tfds_metadata.write(shards_dir, unsigned)
    tfds_metadata.write_default_config(job.directory.parent.parent)
    storage.write_atomic(shards_dir / layout.MANIFEST, sign(unsigned, shards_dir))


def sign(manifest: Manifest, directory: epath.Path) -> bytes:
    """The manifest's file: with the digests of TFDS's files, which are in the directory, and its own checksum."""
    files = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in layout.TFDS_FILES}
    unsigned = {**manifest, "files": files}
    return to_bytes({**unsigned, "checksum": compute_checksum(unsigned)})


def _size_statistics(sizes: np.ndarray) -> dict[str, Any]:
    bins = np.unique(sizes // SIZE_BIN_PX * SIZE_BIN_PX, return_counts=True)
    return {
        "min": int(sizes.min()),
        "mean": round(float(sizes.mean()), 4),
        "median": float(np.median(sizes)),
        "max": int(sizes.max()),
        "histogram": {str(start): int(number) for start, number in zip(*bins, strict=True)},
    }


def _count_duplicates(results: Sequence[ShardResult]) -> dict[str, int | list[str]]:
    """Counts image files of the same content; they are reported and not removed, since people decide what is right."""
    contents = np.concatenate([result.contents for result in results])
    labels = np.concatenate([result.labels for result in results])
    shards = np.repeat(range(len(results)), [len(result.contents) for result in results])
    splits = np.unique([result.split for result in results], return_inverse=True)[1][shards]
    by_content = np.argsort(contents, kind="stable")
    _, starts, sizes = np.unique(contents[by_content], return_index=True, return_counts=True)
    same_label, same_split = (
        np.minimum.reduceat(values[by_content], starts) == np.maximum.reduceat(values[by_content], starts)
        for values in (labels, splits)
    )
    copied = np.flatnonzero(sizes > 1)
    examples: list[int] = []
    for group in copied[np.lexsort((same_split[copied], same_label[copied]))][:_MAX_EXAMPLES]:
        examples += by_content[starts[group] :][: sizes[group]].tolist()
    firsts = np.searchsorted(shards, range(len(results)))
    return {
        "num_cells": int((sizes - 1).sum()),
        "num_label_conflicts": int((~same_label).sum()),
        "num_across_splits": int((~same_split).sum()),
        "examples": [
            json.loads(results[shards[index]].filenames)[index - firsts[shards[index]]]
            for index in examples[:_MAX_EXAMPLES]
        ],
    }
