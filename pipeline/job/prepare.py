"""The job: a listing and settings in, a complete data set out; planned first, then filled by Beam.

A job that was killed, at any moment, continues with the shards that are missing.

Locally the data set is filled in `<version>.incomplete`, then renamed. On an object store it is filled in place, and
the manifest, written last, completes it. In both, `<version>.incomplete/<job>` holds the plan and the shards' results
while the job runs; its name is a hash of source and settings.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from etils import epath

from pipeline import storage
from pipeline.errors import InputError
from pipeline.job import build_manifest, results
from pipeline.job.plan import Job, Settings, Shard, ShardJob, plan_shards
from pipeline.job.results import JobResult
from pipeline.records import layout, manifest
from pipeline.source.listing import Listing


@contextmanager
def plan(
    listing: Listing, settings: Settings, source: str, data_dir: str, overwrite: bool = False, repair: bool = False
) -> Iterator[Job | JobResult]:
    """Plans one data set, writes the plan, and holds the data set's lock while the block runs.

    `source` is as workers reach it. The listing is not needed any more once the block is entered. `overwrite` replaces
    a data set of another source or other settings, `repair` makes corrupt files of an existing one again.

    Yields the job, or its result if the data set is there already. Raises InputError if the plan cannot be made,
    another data set or another job is in the way, or files are corrupt and must not be or cannot be repaired.
    """
    directory = layout.dataset_dir(data_dir, settings.config)
    place = storage.open_place(source, "--source")
    source_name = (place if storage.is_remote(place) else place.resolve()).name
    identity = build_manifest.identity(listing, settings, source_name.encode(errors="backslashreplace").decode())
    # A folder and a zip of it make the same bytes, so their jobs have the same name.
    deciding = [listing.fingerprint, *(identity[key] for key in ("format", "version", "settings"))]
    job_name = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]
    job_dir = layout.incomplete_dir(directory) / job_name
    shard_job = ShardJob(os.fspath(place), listing.cells.root, job_dir, layout.shards_dir(directory), settings)
    existing = _find_existing(directory, identity, overwrite)
    shards = plan_shards(listing, settings, identity["source"]["name"])  # an error here must leave nothing behind
    if existing:
        with suppress(InputError, OSError), storage.lock(directory):  # a job may have been killed at its very end
            _remove_leftovers(directory, job_name)
        yield _check_existing(directory, existing, shards, shard_job, repair)
        return
    planned: Job | JobResult
    with ExitStack() as stack:
        with _explained_os_errors(data_dir):
            stack.enter_context(storage.lock(directory))
            # Another job may have made it while this one waited for the lock.
            if existing := _find_existing(directory, identity, overwrite):
                planned = JobResult(directory, existing, 0, 0.0)
            else:
                _acquire(directory, job_dir, overwrite)
                num_cells = _write_plan(shards, job_dir)
                planned = Job(directory, identity, shard_job, num_cells, listing.rejected, listing.same_names)
        del listing, shards  # this frame lives as long as the block, which must not hold every cell
        yield planned


def run(job: Job | JobResult, max_rejected_fraction: float = 0.001, pipeline_options: Sequence[str] = ()) -> JobResult:
    """Fills the shards of what `plan` yields that are missing, with Beam's options, and completes the data set.

    Raises InputError if filling fails or a larger fraction of the images is rejected; filled shards stay.
    """
    if isinstance(job, JobResult):
        return job
    from pipeline.job import beam_pipeline  # takes a second to import, in which nothing is filled

    started, job_dir = time.perf_counter(), job.shard_job.job_dir
    with _explained_os_errors(str(job.directory)):
        if missing := results.missing_shards(job):
            with results.watch(job_dir, job.num_cells):
                beam_pipeline.fill_shards(missing, job.shard_job, pipeline_options)
        filled = results.read_results(job_dir, job.num_cells)
        results.check(filled, job, max_rejected_fraction)
        build_manifest.write(job, filled)
        seconds = time.perf_counter() - started
        _publish(job)
    num_filled = sum(job.num_cells[file_name] for file_name in missing)
    num_with_background = sum(result.num_with_background for result in filled)
    return JobResult(job.directory, manifest.read(job.directory), num_filled, seconds, (), num_with_background)


@contextmanager
def _explained_os_errors(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {place}: {error}; fix that, then the same command continues") from error


def _find_existing(directory: epath.Path, identity: manifest.Manifest, overwrite: bool) -> manifest.Manifest | None:
    """The manifest of the data set that exists, None without one or with `overwrite`; InputError if it is another."""
    if overwrite or not layout.has_dataset(directory):
        return None
    existing = manifest.read(directory)
    if different := build_manifest.differences(existing, identity):
        raise InputError(
            f"{directory} already holds another data set: {'; '.join(different)}; give --overwrite to replace it, or "
            "another --data_dir"
        )
    return existing


def _check_existing(
    directory: epath.Path, existing: manifest.Manifest, shards: Iterable[Shard], job: ShardJob, repair: bool
) -> JobResult:
    """Compares an existing data set with its manifest, and makes corrupt files again, byte-identical, with `repair`.

    They are made in a folder of their own, and moved to the data set only if all are what the manifest vouches for.
    """
    started = time.perf_counter()
    # In an object store digests would cost a download of everything, so without --repair sizes have to do.
    corrupt = manifest.find_corrupt(directory, existing, with_shards=repair or not storage.is_remote(directory))
    if not corrupt:
        return JobResult(directory, existing, 0, 0.0)
    if not repair:
        raise manifest.corrupt_files(directory, corrupt)
    folder, num_filled = directory.with_name(f"{directory.name}.repair"), 0
    job = dataclasses.replace(job, job_dir=folder, shards_dir=folder)
    from pipeline.job import fill  # OpenCV and TFDS take a second to import, which other jobs need not wait for
    from pipeline.records import tfds_metadata

    with _explained_os_errors(str(directory)), storage.lock(directory):
        storage.remove_folder(folder)
        storage.make_folder(folder)
        try:
            for shard in shards:
                if {shard.file_name, layout.index_name(shard.file_name)} & corrupt.keys():
                    storage.write_atomic(folder / layout.plan_name(shard.file_name), shard.to_json().encode())
                    fill.fill_shard(shard.file_name, job)
                    num_filled += len(shard.cells)
            tfds_metadata.write(folder, existing)
            faults = manifest.find_corrupt(folder, existing, with_shards=True)
            if different := [name for name in faults if name in corrupt]:
                raise InputError(
                    f"{different[0]}, made again, is not what the manifest vouches for, so the data set is left as it "
                    "was: the source has changed, this CPU resizes differently, or other package_versions made it than "
                    "are installed; replace it by --overwrite"
                )
            for name in corrupt:
                (folder / name).replace(directory / name)
        finally:
            storage.remove_folder(folder)
    return JobResult(directory, existing, num_filled, time.perf_counter() - started, tuple(corrupt))


def _acquire(directory: epath.Path, job_dir: epath.Path, overwrite: bool) -> None:
    """Makes the incomplete folder this job's own; raises InputError if another job's work is in it."""
    incomplete, is_remote = layout.incomplete_dir(directory), storage.is_remote(directory)
    if incomplete.exists() and not job_dir.exists():
        # Without a lock, on an object store, a plan alone may be that of a job which is running.
        holds_work = is_remote or any(not (incomplete / name).is_dir() for name in storage.list_names(incomplete))
        if holds_work and not overwrite:
            raise InputError(
                f"{incomplete} holds an unfinished data set of another source or other settings; give --overwrite to "
                "replace it"
            )
        storage.remove_folder(incomplete)
    if is_remote:
        (directory / layout.MANIFEST).unlink(missing_ok=True)  # from here on it is not complete
    storage.make_folder(layout.shards_dir(directory))
    storage.make_folder(job_dir)


def _write_plan(shards: Iterable[Shard], job_dir: epath.Path) -> dict[str, int]:
    num_cells = {}
    for shard in shards:
        plan, content = job_dir / layout.plan_name(shard.file_name), shard.to_json().encode()
        if plan.exists() and plan.read_bytes() != content:  # its cells may be others by now, of the same sizes
            (job_dir / layout.result_name(shard.file_name)).unlink(missing_ok=True)
        storage.write_atomic(plan, content)
        num_cells[shard.file_name] = len(shard.cells)
    return num_cells


def _publish(job: Job) -> None:
    """Makes the complete data set appear under its name, and removes what the job has left."""
    incomplete = layout.incomplete_dir(job.directory)
    if storage.is_remote(job.directory):
        storage.remove_folder(incomplete)
        return
    replaced = job.directory.with_name(f"{job.directory.name}.replaced")
    if job.directory.exists():
        storage.remove_folder(replaced)
        job.directory.rename(replaced)
    incomplete.rename(job.directory)
    _remove_leftovers(job.directory, job.shard_job.job_dir.name)


def _remove_leftovers(directory: epath.Path, job_name: str) -> None:
    storage.remove_folder(directory / job_name)
    storage.remove_folder(directory.with_name(f"{directory.name}.replaced"))
