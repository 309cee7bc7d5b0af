"""The manifest: what a data set was made of, how, and what is in it; it vouches for every file next to it.

`manifest.json` holds plain JSON values:

    format, dataset, config, version
    source             name, fingerprint, num_cells (listed), skipped (reason -> number)
    settings           see job.plan.Settings
    package_versions   of the packages that decide on the bytes
    splits             name -> num_cells, num_patients, patients, classes (label name -> number of cells),
                       shards (file, num_records, num_bytes, sha256, index_file, index_sha256)
    rejected           filename, reason
    converted          kind -> number of cells
    image_size         training split -> height, width -> min, mean, median, max of the source's images, in pixels,
                       and histogram (lower end of each bin of SIZE_BIN_PX -> number; empty bins left out)
    duplicates         num_cells (in excess of one per content), num_label_conflicts, num_across_splits (contents with
                       both labels, or in several splits), examples (up to 100 file names, those of a content together)
    same_names         num, examples: base names that are in both class folders
    files              TFDS's own files -> sha256
    checksum           sha256 of the manifest's bytes without this entry

It holds no time and no absolute path: the same source and settings give the same manifest. `job.build_manifest` makes
it, last of all files; here it is read.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from etils import epath

from pipeline.cells import DATASET_NAME, LABELS
from pipeline.errors import InputError
from pipeline.records import layout
from pipeline.splits.configs import CONFIGS

FORMAT = 1
SIZE_BIN_PX = 10

Manifest = dict[str, Any]


def read(directory: epath.Path) -> Manifest:
    """Reads a data set's manifest; raises InputError if it is missing, corrupt, or another config's."""
    path = directory / layout.MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        if not isinstance(manifest, dict) or manifest.get("dataset") != DATASET_NAME:
            raise ValueError(f"not a manifest of {DATASET_NAME}")
        if not is_signed(content):
            raise ValueError("its checksum does not fit: it has been changed")
        if directory.parent.name in CONFIGS and manifest["config"] != directory.parent.name:
            raise ValueError(f"it is that of config {manifest['config']}")
        return manifest
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} has no {layout.MANIFEST}, so it is not a complete data set; remove it and run "
            "python -m pipeline.preprocess again"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); make the data set again with --overwrite") from error


def read_dataset(data_dir: str, config: str) -> tuple[epath.Path, Manifest]:
    """A prepared data set's folder and manifest; if there is none, InputError with the command that makes it."""
    directory = layout.dataset_dir(data_dir, config)
    if not layout.has_dataset(directory):
        raise InputError(
            f"--data_dir={data_dir} has no data set {DATASET_NAME}/{config}/{layout.VERSION}; make it with: "
            f"python -m pipeline.preprocess --source=<folder, zip or nih> --data_dir={data_dir} --config={config}"
        )
    return directory, read(directory)


def is_signed(content: bytes) -> bool:
    """Whether the bytes of a manifest's file are those that `job.build_manifest.sign` made."""
    manifest = json.loads(content)
    checksum = manifest.pop("checksum", None)
    return checksum == compute_checksum(manifest) and content == to_bytes({**manifest, "checksum": checksum})


def compute_checksum(manifest: Manifest) -> str:
    """sha256 of a manifest that has no checksum yet."""
    return hashlib.sha256(to_bytes(manifest)).hexdigest()


def to_bytes(manifest: Manifest) -> bytes:
    """A manifest as the content of its file."""
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def shards(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The entries of all shards, split by split."""
    return (shard for split in manifest["splits"].values() for shard in split["shards"])


def count_cells(counts: Counter[tuple[int, str]]) -> Manifest:
    """A split's entry but for its shards, from the number of cells of each (label, patient)."""
    patients = sorted({patient for _, patient in counts})
    classes = {
        name: sum(n for (of_label, _), n in counts.items() if of_label == label) for label, name in enumerate(LABELS)
    }
    return {"num_cells": counts.total(), "num_patients": len(patients), "patients": patients, "classes": classes}


def corrupt_shard(file: str, problem: str) -> InputError:
    """The error for a shard with a problem, such as `record 3 is corrupt`, with the remedy."""
    return InputError(
        f"{file}: {problem}; python -m pipeline.verify names everything that is corrupt, and python -m "
        "pipeline.preprocess with --repair makes the shard again from the same source"
    )


def check_file(path: epath.Path, sha256: str | None, num_bytes: int | None = None) -> str | None:
    """What is wrong with a file that the manifest vouches for; None if nothing is.

    `sha256` is None to compare its size only, `num_bytes` is None if the manifest does not tell it.
    """
    try:
        with path.open("rb") as file:
            if num_bytes is not None and (size := file.seek(0, os.SEEK_END)) != num_bytes:
                return f"has {size} bytes, the manifest says {num_bytes}"
            file.seek(0)
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return "its sha256 is not the manifest's: it has been changed or swapped"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error}"
    return None


def check_shard(directory: epath.Path, shard: dict[str, Any], with_digests: bool = True) -> dict[str, str]:
    """What is wrong with a shard's two files: file name -> fault; empty if nothing is."""
    sha256, index_sha256 = (shard["sha256"], shard["index_sha256"]) if with_digests else (None, None)
    faults = {
        shard["file"]: check_file(directory / shard["file"], sha256, shard["num_bytes"]),
        shard["index_file"]: check_file(directory / shard["index_file"], index_sha256),
    }
    return {name: fault for name, fault in faults.items() if fault}
