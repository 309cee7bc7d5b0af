"""The form of a manifest. A data set may come from anybody: what does not fit is an error before it is used."""

import re
from typing import Any

from pipeline.cells import BACKGROUNDS, DATASET_NAME, LABELS
from pipeline.records import layout
from pipeline.records.example import IMAGE_ENCODINGS, MAX_SIZE_PX
from pipeline.splits.configs import CONFIGS

FORMAT = 1

_COUNT = range(2**48)
# Readers do without these: early data sets lack them or have them in another form.
_OPTIONAL = {"package_versions", "converted", "image_size", "histogram", "duplicates"}
_OPTIONAL |= {"label_overrides", "patient_column", "background"}  # where the data set has them
_DIGEST, _BIN = re.compile("[0-9a-f]{64}"), re.compile("[0-9]{1,9}")
_SHARD_FILE = DATASET_NAME + r"-\w+\.tfrecord-\d{5,}-of-\d{5,}"
_SHARD = {
    "file": re.compile(_SHARD_FILE),  # a bare name, whatever else is wrong
    "num_records": _COUNT,
    "num_bytes": _COUNT,
    "sha256": _DIGEST,
    "index_file": re.compile(layout.index_name(_SHARD_FILE)),
    "index_sha256": _DIGEST,
}
_SPLIT = {
    "num_cells": _COUNT,
    "num_patients": _COUNT,
    "patients": [str],
    "classes": dict.fromkeys(LABELS, _COUNT),
    "shards": [_SHARD],
}
# Of the source's images, in pixels; the histogram has the lower end of each bin of `manifest.SIZE_BIN_PX` -> number.
_SIZES = {"min": _COUNT, "mean": float, "median": float, "max": _COUNT, "histogram": {_BIN: _COUNT}}
_ANY = re.compile(r"[\s\S]*")
_MANIFEST = {
    "format": (FORMAT,),
    "dataset": (DATASET_NAME,),
    "config": tuple(CONFIGS),
    "version": (layout.VERSION,),
    "source": {"name": str, "fingerprint": _DIGEST, "num_cells": _COUNT, "skipped": {_ANY: _COUNT}},  # as listed
    "settings": {  # see `job.plan.Settings`
        "image_size_px": range(1, MAX_SIZE_PX + 1),
        "image_encoding": IMAGE_ENCODINGS,
        "split_seed": _COUNT,
        "cells_per_shard": range(1, _COUNT.stop),
        "class_folders": [str],
        "patient_regex": str,
        "patient_column": str,  # the table's, with patients from one
        "label_overrides": _DIGEST,  # of the list of labels, with one
        "background": BACKGROUNDS,
    },
    # Published labels of the cells that the list changes or excludes; only with a list.
    "label_overrides": {"num_corrected": _COUNT, "num_excluded": _COUNT, "published": {_ANY: LABELS}},
    "package_versions": {_ANY: str},  # of those that decide on the bytes
    "splits": {_ANY: _SPLIT},
    "rejected": [{"filename": str, "reason": str}],
    "converted": {_ANY: _COUNT},  # kind -> cells
    "image_size": {_ANY: {"height": _SIZES, "width": _SIZES}},  # of the training split, or of each fold
    # Cells in excess of one per content; contents with both labels, in several splits; also up to 100 examples' names.
    "duplicates": {"num_cells": _COUNT, "num_label_conflicts": _COUNT, "num_across_splits": _COUNT},
    # Also same_names, unchecked: number and examples of base names that are in both class folders.
    "files": dict.fromkeys(layout.TFDS_FILES, _DIGEST),  # TFDS's own
    "checksum": _DIGEST,  # of the manifest's bytes without this entry
}


def check(value: Any, expected: Any = _MANIFEST, place: str = "") -> None:
    """Raises ValueError, with the entry's place, if an entry of a manifest is missing, or has another type or range."""
    match expected:
        case dict():
            fits = isinstance(value, dict)
            if fits and all(isinstance(key, re.Pattern) for key in expected):
                ((pattern, of_any),) = expected.items()
                fits = all(pattern.fullmatch(key) for key in value)
                expected = dict.fromkeys(value, of_any)
            for key, of_key in expected.items() if fits else ():
                if key in value:
                    check(value[key], of_key, f"{place}{key}.")
                elif key not in _OPTIONAL:
                    raise ValueError(f"it lacks the entry {place}{key}")
        case list():
            fits = isinstance(value, list)
            for item in value if fits else ():
                check(item, expected[0], place)
        case re.Pattern():
            fits = isinstance(value, str) and expected.fullmatch(value) is not None
        case type():
            fits = type(value) is expected
        case _:  # the values that are possible, all of one type
            fits = type(value) is type(expected[0]) and value in expected
    if not fits:
        raise ValueError(f"its entry {place.removesuffix('.')} is {str(value)[:50]!r}, which cannot be")


def check_consistency(manifest: dict[str, Any]) -> None:
    """Raises ValueError if splits, shards and counts of a manifest of the right form do not fit together."""
    config = CONFIGS[manifest["config"]]
    expected_splits = config.splits
    if config.assign is None:  # those that the source has
        expected_splits = tuple(split for split in config.splits if split in manifest["splits"]) or config.splits
    if tuple(manifest["splits"]) != expected_splits:
        raise ValueError(f"has the splits {', '.join(manifest['splits'])}; expected {', '.join(expected_splits)}")
    size_px, encoding = manifest["settings"]["image_size_px"], manifest["settings"]["image_encoding"]
    least_bytes = 3 * size_px**2 if encoding == "raw" else 1
    for split, entry in manifest["splits"].items():
        shards = entry["shards"]
        for number, shard in enumerate(shards):
            name = layout.shard_name(split, number, len(shards))
            if (shard["file"], shard["index_file"]) != (name, layout.index_name(name)):
                raise ValueError(f"names the shard {shard['file']}; expected {name}")
            if shard["num_records"] * least_bytes > shard["num_bytes"]:
                raise ValueError(f"{name} cannot have {shard['num_records']} records in {shard['num_bytes']} bytes")
        numbers = entry["num_cells"], sum(shard["num_records"] for shard in shards), sum(entry["classes"].values())
        if len(set(numbers)) != 1 or entry["num_patients"] != len(set(entry["patients"])):
            raise ValueError(f"split {split}: its numbers of cells or patients contradict each other")
