"""The manifest of a job: what is known before a cell is read, then the shards' results, then the signature."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from etils import epath

from pipeline import storage
from pipeline.cells import DATASET_NAME, LABELS, Rejected
from pipeline.job.plan import Job, Settings, Shard
from pipeline.job.results import ShardResult
from pipeline.records import layout
from pipeline.records.manifest import FORMAT, SIZE_BIN_PX, Manifest, compute_checksum, to_bytes
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
        old, new = (
            f"{source['name']} with {source['num_cells']} cells (fingerprint {source['fingerprint'][:12]})"
            for source in (existing["source"], wanted["source"])
        )
        texts.append(f"its source is {old}, wanted {new}")
    for key in ("format", "version"):
        if existing[key] != wanted[key]:
            texts.append(f"its {key} is {existing[key]}, wanted {wanted[key]}")
    for name in sorted(existing["settings"].keys() | wanted["settings"].keys()):
        old, new = existing["settings"].get(name), wanted["settings"].get(name)
        if old != new:
            texts.append(f"its {name} is {old}, wanted {new}")
    return texts


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide on the bytes."""
    return {name: metadata.version(name) for name in _PACKAGES}


def build(
    identity: Manifest,
    rejected: Sequence[Rejected],
    same_names: Sequence[str],
    results: Sequence[ShardResult],
    read_names: Callable[[ShardResult], list[str]],
) -> Manifest:
    """The manifest but for `files` and `checksum`.

    Args:
      identity, rejected, same_names: see `plan.Job`.
      results: one per shard, in the order of the plan.
      read_names: a shard's result -> file name of each record; called for the shards that hold copies.
    """
    config = CONFIGS[identity["config"]]
    by_split: dict[str, list[ShardResult]] = defaultdict(list)
    for result in results:
        by_split[result.split].append(result)
    # Each fold trains some runs, so each has its statistics; otherwise validation and test stay unseen.
    training_splits = ["train"] if "train" in config.splits else list(config.splits)
    all_rejected = sorted([*rejected, *(item for result in results for item in result.rejected)])
    return {
        **identity,
        "package_versions": package_versions(),
        "splits": {split: _split_entry(by_split[split]) for split in config.splits},
        "rejected": [{"filename": filename, "reason": reason} for filename, reason in all_rejected],
        "converted": dict(sorted(sum((Counter(result.converted) for result in results), Counter()).items())),
        "image_size": {
            split: {
                side: _size_statistics([getattr(result, f"{side}s") for result in by_split[split]])
                for side in ("height", "width")
            }
            for split in training_splits
        },
        "duplicates": _count_duplicates(results, read_names),
        "same_names": {"num": len(same_names), "examples": list(same_names[:_MAX_EXAMPLES])},
    }


def write(job: Job, results: Sequence[ShardResult]) -> None:
    """Writes TFDS's files, then the manifest, into the folder of the filled shards; removes what is not theirs."""
    from pipeline.records import tfds_metadata  # TFDS takes a second to import, which the workers need not wait for

    job_dir, shards_dir = job.shard_job.job_dir, job.shard_job.shards_dir

    def read_names(result: ShardResult) -> list[str]:
        planned = Shard.from_json((job_dir / layout.plan_name(result.file_name)).read_text())
        rejected = {item.filename for item in result.rejected}
        return [cell.filename for cell in planned.cells if cell.filename not in rejected]

    unsigned = build(job.identity, job.rejected, job.same_names, results, read_names)
    storage.remove_others(shards_dir, layout.expected_files(job.num_cells) | {job_dir.name})
    tfds_metadata.write(shards_dir, unsigned)
    tfds_metadata.write_default_config(job.directory.parent.parent)
    storage.write_atomic(shards_dir / layout.MANIFEST, sign(unsigned, shards_dir))


def sign(manifest: Manifest, directory: epath.Path) -> bytes:
    """The manifest's file: with the digests of TFDS's files, which are in the directory, and its own checksum."""
    files = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in layout.TFDS_FILES}
    unsigned = {**manifest, "files": files}
    return to_bytes({**unsigned, "checksum": compute_checksum(unsigned)})


def _split_entry(results: Sequence[ShardResult]) -> dict[str, Any]:
    patients = sorted({patient for result in results for patient in result.patients})
    classes = np.sum([count for result in results for count in result.patients.values()], axis=0)
    return {
        "num_cells": sum(result.num_records for result in results),
        "num_patients": len(patients),
        "patients": patients,
        "classes": {name: int(count) for name, count in zip(LABELS, classes, strict=True)},
        "shards": [result.entry() for result in results],
    }


def _size_statistics(histograms: Sequence[dict[int, int]]) -> dict[str, Any]:
    histogram = sum((Counter(part) for part in histograms), Counter())
    sizes = np.repeat(*np.array(sorted(histogram.items())).T)
    bins = np.unique(sizes // SIZE_BIN_PX * SIZE_BIN_PX, return_counts=True)
    return {
        "min": int(sizes.min()),
        "mean": round(float(sizes.mean()), 4),
        "median": float(np.median(sizes)),
        "max": int(sizes.max()),
        "histogram": {str(start): int(number) for start, number in zip(*bins, strict=True)},
    }


def _count_duplicates(
    results: Sequence[ShardResult], read_names: Callable[[ShardResult], list[str]]
) -> dict[str, int | list[str]]:
    """Counts image files of the same content.

    A copy in another split is seen in training and again in the test; a copy with the other label makes one of the two
    wrong. Neither is removed silently: people decide.
    """
    hashes = np.concatenate([np.frombuffer(bytes.fromhex(result.contents), np.uint64) for result in results])
    labels = np.concatenate([np.frombuffer(result.labels.encode(), np.uint8) for result in results])
    split_names = sorted({result.split for result in results})
    lengths = [result.num_records for result in results]
    splits = np.repeat([split_names.index(result.split) for result in results], lengths)

    _, contents, counts = np.unique(hashes, return_inverse=True, return_counts=True)

    def differs(values: np.ndarray) -> np.ndarray:  # values below 256; bool [contents]
        return np.bincount(np.unique(contents * 256 + values) // 256) > 1

    is_conflict, is_across = differs(labels), differs(splits)
    copies = np.flatnonzero(counts[contents] > 1)
    group = contents[copies]
    examples = copies[np.lexsort((group, ~is_across[group], ~is_conflict[group]))][:_MAX_EXAMPLES]  # stable
    shards = np.searchsorted(np.cumsum(lengths), examples, side="right")
    names = {shard: read_names(results[shard]) for shard in np.unique(shards).tolist()}
    firsts = np.cumsum([0, *lengths])
    return {
        "num_cells": len(hashes) - len(counts),
        "num_label_conflicts": int(is_conflict.sum()),
        "num_across_splits": int(is_across.sum()),
        "examples": [
            names[shard][record - firsts[shard]]
            for record, shard in zip(examples.tolist(), shards.tolist(), strict=True)
        ],
    }
