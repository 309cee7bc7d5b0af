"""Corrupt files of an existing data set: those that are not what its manifest vouches for, and making them again."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

from etils import epath

from pipeline import storage
from pipeline.errors import InputError
from pipeline.job import acquire
from pipeline.job.build_manifest import package_versions
from pipeline.job.plan import Settings, Shard, ShardJob, plan_shards
from pipeline.job.results import JobResult
from pipeline.records import layout, manifest
from pipeline.source.listing import Listing


def check_existing(
    directory: epath.Path,
    existing: manifest.Manifest,
    listing: Listing,
    settings: Settings,
    job: ShardJob,
    repair: bool,
) -> JobResult:
    """Compares an existing data set with its manifest; raises InputError unless corrupt files may be repaired."""
    started = time.perf_counter()
    # In an object store digests would cost a download of everything, so without --repair sizes have to do.
    with_shards = repair or not storage.is_remote(directory)
    corrupt = manifest.find_corrupt(directory, existing, with_shards)
    if not corrupt:
        return JobResult(directory, existing, 0, 0.0)
    if not repair:
        raise manifest.corrupt_files(directory, corrupt)
    shards = plan_shards(listing, settings, existing["source"]["name"])
    folder = directory.with_name(f"{directory.name}.repair")
    with acquire.explained_os_errors(str(directory)), storage.lock(directory):
        job = dataclasses.replace(job, job_dir=folder, shards_dir=folder)
        num_filled = _make_again(directory, existing, corrupt, shards, job)
    return JobResult(directory, existing, num_filled, time.perf_counter() - started, tuple(corrupt))


def _make_again(
    directory: epath.Path,
    existing: manifest.Manifest,
    corrupt: Mapping[str, str],
    shards: Sequence[Shard],
    job: ShardJob,
) -> int:
    """Makes corrupt files again, in a folder of their own (that of `job`), and moves them to the data set.

    Returns the number of cells that were read. Raises InputError if a file is not byte-identical to what the manifest
    vouches for; then none is moved.
    """
    from pipeline.job import fill  # OpenCV and TFDS take a second to import, which other jobs need not wait for
    from pipeline.records import tfds_metadata

    folder = job.shards_dir
    storage.remove_folder(folder)
    storage.make_folder(folder)
    try:
        affected = [shard for shard in shards if {shard.file_name, layout.index_name(shard.file_name)} & corrupt.keys()]
        for shard in affected:
            storage.write_atomic(folder / layout.plan_name(shard.file_name), shard.to_json().encode())
            fill.fill_shard(shard.file_name, job)
        if existing["files"].keys() & corrupt.keys():
            tfds_metadata.write(folder, existing)
        if different := [name for name in manifest.find_corrupt(folder, existing, with_shards=True) if name in corrupt]:
            made_by = existing.get("package_versions", {})
            versions = ", ".join(
                f"{package} {made_by.get(package)} made it and {version} is installed"
                for package, version in package_versions().items()
                if made_by.get(package) != version
            )
            raise InputError(
                f"{different[0]}, made again, is not what the manifest vouches for, so the data set is left as it was "
                f"({versions or 'the source has changed, or this CPU resizes differently'}); replace it by --overwrite"
            )
        for name in corrupt:
            (folder / name).replace(directory / name)
    finally:
        storage.remove_folder(folder)
    return sum(len(shard.cells) for shard in affected)
