"""Corrupt files of an existing data set: those that are not what its manifest vouches for, and making them again."""

import dataclasses
import time

from etils import epath

from pipeline import storage
from pipeline.errors import InputError
from pipeline.job import acquire
from pipeline.job.build_manifest import package_versions
from pipeline.job.plan import Settings, ShardJob, plan_shards
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
    """Compares an existing data set with its manifest, and makes corrupt files again if they may be repaired.

    They are made in a folder of their own, then moved to the data set. Raises InputError if files are corrupt and must
    not be repaired, or if one is not byte-identical to what the manifest vouches for; then none is moved.
    """
    started = time.perf_counter()
    # In an object store digests would cost a download of everything, so without --repair sizes have to do.
    with_shards = repair or not storage.is_remote(directory)
    corrupt = manifest.find_corrupt(directory, existing, with_shards)
    if not corrupt:
        return JobResult(directory, existing, 0, 0.0)
    if not repair:
        raise manifest.corrupt_files(directory, corrupt)
    shards = plan_shards(listing, settings, existing["source"]["name"])
    folder, num_filled = directory.with_name(f"{directory.name}.repair"), 0
    job = dataclasses.replace(job, job_dir=folder, shards_dir=folder)
    from pipeline.job import fill  # OpenCV and TFDS take a second to import, which other jobs need not wait for
    from pipeline.records import tfds_metadata

    with acquire.explained_os_errors(str(directory)), storage.lock(directory):
        storage.remove_folder(folder)
        storage.make_folder(folder)
        try:
            for shard in shards:
                if {shard.file_name, layout.index_name(shard.file_name)} & corrupt.keys():
                    storage.write_atomic(folder / layout.plan_name(shard.file_name), shard.to_json().encode())
                    fill.fill_shard(shard.file_name, job)
                    num_filled += len(shard.cells)
            if existing["files"].keys() & corrupt.keys():
                tfds_metadata.write(folder, existing)
            faults = manifest.find_corrupt(folder, existing, with_shards=True)
            if different := [name for name in faults if name in corrupt]:
                made_by = existing.get("package_versions", {})
                versions = ", ".join(
                    f"{package} {made_by.get(package)} made it and {version} is installed"
                    for package, version in package_versions().items()
                    if made_by.get(package) != version
                )
                raise InputError(
                    f"{different[0]}, made again, is not what the manifest vouches for, so the data set is left as it "
                    f"was ({versions or 'the source has changed, or this CPU resizes differently'}); replace it by "
                    "--overwrite"
                )
            for name in corrupt:
                (folder / name).replace(directory / name)
        finally:
            storage.remove_folder(folder)
    return JobResult(directory, existing, num_filled, time.perf_counter() - started, tuple(corrupt))
