"""The manifest: what a data set was made of, how, and what is in it; it vouches for every file next to it.

`manifest.json` holds plain JSON values, which `schema` lists. It has no time and no absolute path: the same source and
settings give the same manifest. `job.build_manifest` makes it, last of all files; here it is read.
"""

import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from pipeline.cells import DATASET_NAME, LABELS
from pipeline.errors import InputError
from pipeline.records import layout, schema
from pipeline.splits.configs import CONFIGS
from pipeline.storage import open_file, read_file

SIZE_BIN_PX = 10
_THREADS = 4  # on an object store several files arrive at a time

Manifest = dict[str, Any]


def read(directory: epath.Path) -> Manifest:
    """Reads a data set's manifest; raises InputError if it is missing, corrupt, impossible, or another config's."""
    path = directory / layout.MANIFEST
    try:
        content = read_file(path)
        manifest = parse(content)
        if not is_signed(content):
            raise ValueError("its checksum does not fit: it has been changed")
        if directory.parent.name in CONFIGS and manifest["config"] != directory.parent.name:
            raise ValueError(f"it is that of config {manifest['config']}")
        schema.check_consistency(manifest)
        return manifest
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} has no {layout.MANIFEST}, so it is not a complete data set; remove it and run "
            "python -m pipeline.preprocess again"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); make the data set again with --overwrite") from error


def parse(content: bytes) -> Manifest:
    """The JSON of a manifest's file; raises ValueError or RecursionError if it has not a manifest's form."""
    manifest: Manifest = json.loads(content)
    schema.check(manifest)
    return manifest


def open_dataset(directory: epath.Path) -> Manifest:
    """Reads a data set's manifest and compares what it vouches for, except for the contents of shards.

    Every reader of a data set passes here, before it parses any other file. Readers of shards compare the checksums of
    records. Raises InputError if the manifest cannot be used, or files are missing or changed.
    """
    manifest = read(directory)
    if faults := find_corrupt(directory, manifest, with_shards=False):
        raise corrupt_files(directory, faults)
    return manifest


def find_corrupt(directory: epath.Path, manifest: Manifest, with_shards: bool) -> dict[str, str]:
    """Name -> fault of each missing or changed file of a data set.

    Of shards only the size is compared, unless `with_shards`, which takes about a second per GB.
    """
    faults: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for of_shard in pool.map(lambda shard: check_shard(directory, shard, with_shards), shards(manifest)):
            faults |= of_shard
    for name, sha256 in manifest["files"].items():
        if fault := check_file(directory / name, sha256):
            faults[name] = fault
    return faults


def corrupt_files(directory: epath.Path, faults: Mapping[str, str]) -> InputError:
    """The error for files with faults, with the first of them and the remedy."""
    texts = [f"{name} {fault}" for name, fault in faults.items()]
    return InputError(
        f"{directory} has {len(texts)} corrupt {'file' if len(texts) == 1 else 'files'}: {'; '.join(texts[:5])}; "
        "python -m pipeline.preprocess with --repair makes them again from the same source"
    )


def read_dataset(data_dir: str, config: str) -> tuple[epath.Path, Manifest]:
    """The folder and manifest of a data set, see `open_dataset`; InputError with the command that makes it if none."""
    directory = layout.dataset_dir(data_dir, config)
    if not layout.has_dataset(directory):
        others = [name for name in CONFIGS if layout.has_dataset(layout.dataset_dir(data_dir, name))]
        but = f" (but has --config={' and --config='.join(others)})" if others else ""
        raise InputError(
            f"--data_dir={data_dir} has no data set {DATASET_NAME}/{config}/{layout.VERSION}{but}; make it with: "
            "python -m pipeline.preprocess --source=<folder, zip or nih> "
            f"{shlex.quote(f'--data_dir={data_dir}')} --config={config}"
        )
    return directory, open_dataset(directory)


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
    """What is wrong with a file that the manifest vouches for, None if nothing is; what is None is not compared."""
    try:
        with open_file(path) as file:
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


def check_shard(directory: epath.Path, shard: dict[str, Any], with_content: bool = True) -> dict[str, str]:
    """What is wrong with a shard's two files: file name -> fault; empty if nothing is."""
    sha256 = shard["sha256"] if with_content else None
    faults = {
        shard["file"]: check_file(directory / shard["file"], sha256, shard["num_bytes"]),
        shard["index_file"]: check_file(directory / shard["index_file"], shard["index_sha256"]),
    }
    return {name: fault for name, fault in faults.items() if fault}
