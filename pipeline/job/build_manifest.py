"""The manifest of a job: what is known before a cell is read, then the shards' results, then the signature."""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from etils import epath

from pipeline import storage
from pipeline.cells import DATASET_NAME
from pipeline.job.plan import Job, Settings
from pipeline.job.results import RecordFacts, ShardResult
from pipeline.records import layout
from pipeline.records.manifest import SIZE_BIN_PX, Manifest, compute_checksum, count_cells, to_bytes
from pipeline.records.schema import FORMAT
from pipeline.source.listing import Listing
from pipeline.splits.configs import CONFIGS

_MAX_EXAMPLES = 100
_PACKAGES = (
    "apache-beam",
    "kornia-rs",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
    "tensorflow-datasets",
)


def identity(listing: Listing, settings: Settings, source_name: str) -> Manifest:
    """The part of the manifest that is known before a cell is read: it tells one data set from another."""
    return {
        "format": FORMAT,
        "dataset": DATASET_NAME,
        "config": settings.config,
        "version": layout.VERSION,
        "source": {
            "name": source_name,
            "fingerprint": listing.fingerprint,
            "num_cells": len(listing.cells),
            "skipped": listing.skipped,
        },
        "settings": settings.as_json(),
    }


def differences(existing: Manifest, wanted: Manifest) -> list[str]:
    """How an existing data set differs from the wanted one: `image_size_px is 64, wanted 125`; empty if it does not."""
    texts = []
    if existing["source"]["fingerprint"] != wanted["source"]["fingerprint"]:
        was, is_wanted = (
            f"{source['name']} with {source['num_cells']} cells (fingerprint {source['fingerprint'][:12]})"
            for source in (existing["source"], wanted["source"])
        )
        texts.append(f"its source is {was}, wanted {is_wanted}")
    old, new = (
        {**made["settings"], "format": made["format"], "version": made["version"]} for made in (existing, wanted)
    )
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            texts.append(f"its {name} is {old.get(name)}, wanted {new.get(name)}")
    return texts


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide on the bytes."""
    return {name: metadata.version(name) for name in _PACKAGES}


def build(job: Job, results: Sequence[ShardResult]) -> Manifest:
    """The manifest but for `files` and `checksum`; `results` are in the order of the plan."""
    config = CONFIGS[job.identity["config"]]
    by_split: dict[str, list[ShardResult]] = defaultdict(list)
    for result in results:
        by_split[result.split].append(result)
    records = {split: [facts for result in by_split[split] for facts in result.records] for split in config.splits}
    # Each fold trains some runs, so each has its statistics; otherwise validation and test stay unseen.
    training_splits = ["train"] if "train" in config.splits else config.splits
    rejected = sorted([*job.rejected, *(item for result in results for item in result.rejected)])
    converted = Counter(kind for facts in itertools.chain(*records.values()) for kind in facts.conversions)
    return {
        **job.identity,
        "package_versions": package_versions(),
        "splits": {
            split: {
                **count_cells(Counter((facts.label, facts.patient_id) for facts in records[split])),
                "shards": [result.entry for result in by_split[split]],
            }
            for split in config.splits
        },
        "rejected": [item._asdict() for item in rejected],
        "converted": dict(sorted(converted.items())),
        "image_size": {
            split: {
                "height": _size_statistics([facts.height for facts in records[split]]),
                "width": _size_statistics([facts.width for facts in records[split]]),
            }
            for split in training_splits
        },
        "duplicates": _count_duplicates(records),
        "same_names": {"num": len(job.same_names), "examples": job.same_names[:_MAX_EXAMPLES]},
    }


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


def _size_statistics(of_images: Sequence[int]) -> dict[str, Any]:
    sizes = np.array(of_images)
    bins = np.unique(sizes // SIZE_BIN_PX * SIZE_BIN_PX, return_counts=True)
    return {
        "min": int(sizes.min()),
        "mean": round(float(sizes.mean()), 4),
        "median": float(np.median(sizes)),
        "max": int(sizes.max()),
        "histogram": {str(start): int(number) for start, number in zip(*bins, strict=True)},
    }


def _count_duplicates(by_split: Mapping[str, Sequence[RecordFacts]]) -> dict[str, int | list[str]]:
    """Counts image files of the same content.

    A copy in another split is seen in training and again in the test; a copy with the other label makes one of the two
    wrong. Neither is removed silently: people decide.
    """
    copies: dict[int, list[tuple[str, RecordFacts]]] = defaultdict(list)
    for split, records in by_split.items():
        for facts in records:
            copies[facts.content].append((split, facts))
    groups = sorted(
        (len({facts.label for _, facts in group}) == 1, len({split for split, _ in group}) == 1, content, group)
        for content, group in copies.items()
        if len(group) > 1
    )
    return {
        "num_cells": sum(len(group) - 1 for *_, group in groups),
        "num_label_conflicts": sum(not same_label for same_label, *_ in groups),
        "num_across_splits": sum(not same_split for _, same_split, *_ in groups),
        "examples": [facts.filename for *_, group in groups for _, facts in group][:_MAX_EXAMPLES],
    }
