"""The manifest: what a data set was made of, how, and what is in it; written last, so that it vouches for the rest.

In: the listing, the settings and the shards' results. Out: `manifest.json`, a plain dictionary of JSON values:

    format, dataset, config, version
    source             name, fingerprint, num_cells (listed), skipped (reason -> number)
    settings           see plan.Settings
    package_versions   of what decides on the bytes
    splits             name -> num_cells, num_patients, patients, classes (label name -> number of cells),
                       shards (file, num_records, num_bytes, sha256, index_file, index_sha256)
    rejected           filename, reason
    converted          kind -> number of cells
    image_size         training split -> height, width -> min, mean, median, max of the source's images, in pixels,
                       and histogram (lower end of each bin of SIZE_BIN_PX -> number; empty bins left out)
    duplicates         of content, see pipeline.duplicates
    same_names         num, examples: base names that are in both class folders
    files              TFDS's own files -> sha256
    checksum           sha256 of the manifest's bytes without this entry

It holds no time and no absolute path: the same source and settings give the same manifest.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from etils import epath

from pipeline.cells import DATASET_NAME, LABELS, Rejected
from pipeline.errors import InputError
from pipeline.job.plan import Settings
from pipeline.job.shard import ShardResult
from pipeline.records import layout
from pipeline.source.listing import Listing
from pipeline.splits.configs import CONFIGS

FORMAT = 1
_MAX_EXAMPLES = 100
SIZE_BIN_PX = 10
_PACKAGES = (
    "apache-beam",
    "kornia-rs",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
    "tensorflow-datasets",
)

Manifest = dict[str, Any]


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


def build(
    identity: Manifest,
    refused: Sequence[Rejected],
    same_names: Sequence[str],
    results: Sequence[ShardResult],
    duplicates: dict[str, Any],
) -> Manifest:
    """The manifest but for `files` and `checksum`.

    Args:
      identity: see `identity`.
      refused: the files refused by name.
      same_names: base names in both class folders.
      results: one a shard, in the order of the plan.
      duplicates: see `pipeline.duplicates`.
    """
    config = CONFIGS[identity["config"]]
    by_split: dict[str, list[ShardResult]] = defaultdict(list)
    for result in results:
        by_split[result.split].append(result)
    # Each fold trains some runs, so each has its statistics; otherwise validation and test stay unseen.
    training_splits = ["train"] if "train" in config.splits else list(config.splits)
    rejected = sorted([*refused, *(item for result in results for item in result.rejected)])
    return {
        **identity,
        "package_versions": {name: metadata.version(name) for name in _PACKAGES},
        "splits": {split: _split_entry(by_split[split]) for split in config.splits},
        "rejected": [{"filename": filename, "reason": reason} for filename, reason in rejected],
        "converted": dict(sorted(sum((Counter(result.converted) for result in results), Counter()).items())),
        "image_size": {
            split: {
                side: _size_statistics([getattr(result, f"{side}s") for result in by_split[split]])
                for side in ("height", "width")
            }
            for split in training_splits
        },
        "duplicates": duplicates,
        "same_names": {"num": len(same_names), "examples": list(same_names[:_MAX_EXAMPLES])},
    }


def seal(manifest: Manifest, directory: epath.Path) -> bytes:
    """The manifest's file: with the digests of TFDS's files, which are in the directory, and its own checksum."""
    files = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in layout.TFDS_FILES}
    unsealed = {**manifest, "files": files}
    return _to_bytes({**unsealed, "checksum": _checksum(unsealed)})


def is_sealed(content: bytes) -> bool:
    """Whether a manifest's file is what `seal` made, to the last byte."""
    manifest = json.loads(content)
    checksum = manifest.pop("checksum", None)
    return checksum == _checksum(manifest) and content == _to_bytes({**manifest, "checksum": checksum})


def _checksum(manifest: Manifest) -> str:
    return hashlib.sha256(_to_bytes(manifest)).hexdigest()


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


def differences(existing: Manifest, wanted: Manifest) -> list[str]:
    """How an existing data set differs from the wanted one: `image_size_px is 64, wanted 125`; empty if it does not."""
    found = []
    if existing["source"]["fingerprint"] != wanted["source"]["fingerprint"]:
        found.append(
            f"its source is {existing['source']['name']} with {existing['source']['num_cells']} cells, "
            f"wanted {wanted['source']['name']} with {wanted['source']['num_cells']} "
            f"(fingerprints {existing['source']['fingerprint'][:12]} and {wanted['source']['fingerprint'][:12]})"
        )
    for key in ("format", "version"):
        if existing[key] != wanted[key]:
            found.append(f"its {key} is {existing[key]}, wanted {wanted[key]}")
    for name in sorted(existing["settings"].keys() | wanted["settings"].keys()):
        old, new = existing["settings"].get(name), wanted["settings"].get(name)
        if old != new:
            found.append(f"its {name} is {old}, wanted {new}")
    return found


def _to_bytes(manifest: Manifest) -> bytes:
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def read(directory: epath.Path) -> Manifest:
    """Reads a data set's manifest.

    Raises:
      InputError: if it is missing or damaged.
    """
    path = directory / layout.MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        if not isinstance(manifest, dict) or manifest.get("dataset") != DATASET_NAME:
            raise ValueError(f"not a manifest of {DATASET_NAME}")
        if not is_sealed(content):
            raise ValueError("its checksum does not fit: it has been changed")
        if _is_version_dir(directory) and manifest["config"] != directory.parent.name:
            raise ValueError(f"it is that of config {manifest['config']}")
        return manifest
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} has no {layout.MANIFEST}, so it is not a whole data set; remove it and run "
            "python -m pipeline.preprocess again"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); make the data set again with --overwrite") from error


def _is_version_dir(directory: epath.Path) -> bool:
    return directory.parent.name in CONFIGS


def read_dataset(data_dir: str, config: str) -> tuple[epath.Path, Manifest]:
    """Finds a prepared data set: its folder and its manifest.

    Raises:
      InputError: if there is none; the message gives the command that makes it.
    """
    directory = layout.dataset_dir(data_dir, config)
    if not layout.has_dataset(directory):
        raise InputError(
            f"--data_dir={data_dir} has no data set {DATASET_NAME}/{config}/{layout.VERSION}; make it with: "
            f"python -m pipeline.preprocess --source=<folder, zip or nih> --data_dir={data_dir} --config={config}"
        )
    return directory, read(directory)
