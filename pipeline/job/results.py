"""What workers leave in the job's folder: one result per filled shard. Progress is read from there on every runner."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pipeline.cells import Rejected
from pipeline.errors import InputError
from pipeline.job.plan import Job
from pipeline.records import layout, manifest
from pipeline.storage import PARTIAL, is_remote, list_names, remove_others
from pipeline.terminal import progress_bar


class RecordFacts(NamedTuple):
    """What the manifest's statistics need of a stored cell, see `cells.Cell`."""

    filename: str
    label: int
    patient_id: str
    height: int  # of the source's image, in pixels
    width: int
    content: int  # hash of the image file, to find duplicates by
    conversions: tuple[str, ...]  # see `source.decode.DecodedImage`
    has_background: bool  # see `source.decode.has_background`


class ShardResult(NamedTuple):
    """What is known of a filled shard, its records by columns; JSON in the job's folder has them by rows."""

    split: str
    entry: dict[str, Any]  # in the manifest
    rejected: list[Rejected]  # cells that are not in it, and why
    converted: list[str]  # the conversions of all records
    num_with_background: int
    labels: np.ndarray  # uint8 [records]
    patient_ids: list[str]  # of each record; the same string for the same patient
    sizes: np.ndarray  # int32 [records, 2], height and width
    contents: np.ndarray  # uint64 [records]
    filenames: str  # JSON


class JobResult(NamedTuple):
    """What the job did."""

    directory: epath.Path  # the data set's version folder
    manifest: manifest.Manifest
    num_filled: int  # cells that this run read; 0 if the data set was there already
    seconds: float  # of filling, from the first shard to the manifest
    repaired: tuple[str, ...] = ()  # names of the corrupt files that were made again
    num_with_background: int = 0  # of its cells, see `source.decode.has_background`; 0 if this run filled none


class ShardCounts(NamedTuple):
    """What Beam is told of a filled shard; its counters have the names of the fields."""

    records_written: int
    bytes_written: int
    cells_rejected: int
    cells_converted: int


def read_result(job_dir: epath.Path, file_name: str) -> ShardResult | None:
    """A filled shard's result; None if its file is missing or damaged."""
    try:
        digest, result = (job_dir / layout.result_name(file_name)).read_bytes().split(b"\n", 1)
    except (FileNotFoundError, ValueError):
        return None
    if digest != hashlib.sha256(result).hexdigest().encode():
        return None
    split, entry, rejected, rows = json.loads(result)
    columns = zip(*rows, strict=True) if rows else [()] * len(RecordFacts._fields)
    names, labels, patient_ids, heights, widths, contents, conversions, have_background = columns
    return ShardResult(
        split,
        entry,
        [Rejected(*cell) for cell in rejected],
        [sys.intern(kind) for of_record in conversions for kind in of_record],
        sum(have_background),
        np.array(labels, np.uint8),
        list(map(sys.intern, patient_ids)),
        np.array([heights, widths], np.int32).T,
        np.array(contents, np.uint64),
        json.dumps(names),
    )


def missing_shards(job: Job) -> list[str]:
    """File names of the shards that are not filled, or of which the disk lost what a killed job wrote last."""
    job_dir, shards_dir = job.shard_job.job_dir, job.shard_job.shards_dir
    if not is_remote(shards_dir):  # what killed workers were writing fills the disk
        remove_others(shards_dir, {name for name in list_names(shards_dir) if not name.endswith(PARTIAL)})
    present, missing = set(list_names(job_dir)), []
    for file_name in job.num_cells:
        result = read_result(job_dir, file_name) if layout.result_name(file_name) in present else None
        if result is None or manifest.check_shard(shards_dir, result.entry):
            (job_dir / layout.result_name(file_name)).unlink(missing_ok=True)
            missing.append(file_name)
    return missing


def read_results(job_dir: epath.Path, num_cells: Mapping[str, int]) -> list[ShardResult]:
    """The results of all shards, in the order of the plan; raises InputError if some are missing or damaged."""
    results = {name: result for name in num_cells if (result := read_result(job_dir, name))}
    if missing := num_cells.keys() - results:
        num_missing = f"{len(missing)} of {len(num_cells)} shards are missing, such as {min(missing)}"
        raise InputError(f"the runner has ended, but {num_missing}; look into its log, then the same command continues")
    return list(results.values())


def check(filled: Sequence[ShardResult], job: Job, max_rejected_fraction: float) -> None:
    """Raises InputError if too many images were rejected, or all of a split."""
    rejected = [*job.rejected, *(item for result in filled for item in result.rejected)]
    num_images = sum(job.num_cells.values()) + len(job.rejected)
    if not len(rejected) <= max_rejected_fraction * num_images:  # NaN is no limit
        examples = ", ".join(f"{filename} ({reason})" for filename, reason in sorted(rejected)[:3])
        raise InputError(
            f"{len(rejected)} of {num_images} images cannot be used, more than --max_rejected_fraction="
            f"{max_rejected_fraction}: {examples}{', …' if len(rejected) > 3 else ''}; raise the fraction, or "
            "correct or remove them and give --overwrite"
        )
    for split in sorted({result.split for result in filled}):
        if not any(result.labels.size for result in filled if result.split == split):
            raise InputError(f"every image of split {split} was rejected; mend the source")


@contextmanager
def watch(job_dir: epath.Path, num_cells: Mapping[str, int]) -> Iterator[None]:
    """Shows how many cells are in filled shards while the block runs."""
    finished, seconds_between_looks = threading.Event(), 5.0 if is_remote(job_dir) else 0.2

    def num_done() -> int:
        filled = set(list_names(job_dir))
        return sum(number for name, number in num_cells.items() if layout.result_name(name) in filled)

    with progress_bar(sum(num_cells.values()), "filling shards", "cells", initial=num_done()) as bar:

        def keep_looking() -> None:
            while not finished.wait(seconds_between_looks):
                with suppress(OSError):  # the job itself will meet it too, and say so
                    bar.update(num_done() - bar.n)

        watcher = threading.Thread(target=keep_looking, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
            bar.update(num_done() - bar.n)
