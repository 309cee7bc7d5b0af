"""The job: a listing and settings in, a complete data set out; planned first, then filled by Beam.

A job that was killed, at any moment, continues with the shards that are missing.

Locally the data set is filled in `<version>.incomplete`, then renamed. On an object store it is filled in place, and
the manifest, written last, completes it. In both, `<version>.incomplete/<job>` holds the plan and the shards' results
while the job runs; its name is a hash of source and settings.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from etils import epath

from pipeline import storage
from pipeline.job import acquire, build_manifest, results
from pipeline.job.plan import Job, Settings, Shard, ShardJob, plan_shards
from pipeline.job.repair import check_existing
from pipeline.job.results import JobResult
from pipeline.records import layout, manifest
from pipeline.source.listing import Listing


def prepare(
    listing: Listing,
    settings: Settings,
    *,
    max_rejected_fraction: float = 0.001,
    pipeline_options: Sequence[str] = (),
    **plan_options: Any,
) -> JobResult:
    """Makes one data set, or finds that it exists: `plan`, then `run`; for arguments and errors see there."""
    with plan(listing, settings, **plan_options) as planned:
        return run(planned, max_rejected_fraction=max_rejected_fraction, pipeline_options=pipeline_options)


@contextmanager
def plan(
    listing: Listing, settings: Settings, *, source: str, data_dir: str, overwrite: bool = False, repair: bool = False
) -> Iterator[Job | JobResult]:
    """Plans one data set, writes the plan, and holds the data set's lock while the block runs.

    Args:
      listing, settings: the source's cells, not needed any more once the block is entered, and what to make.
      source, data_dir: path of the source, as workers reach it, and root of all data sets.
      overwrite: replaces a data set of another source or other settings, and makes an equal one again.
      repair: makes corrupt files of an existing data set again, byte-identical.

    Yields:
      the job, or its result if the data set is there already.

    Raises:
      InputError: if the plan cannot be made, the data set would lie among the cells, another data set or another
        job is in the way, or files of the data set are corrupt and must not be or cannot be repaired.
    """
    directory = layout.dataset_dir(data_dir, settings.config)
    acquire.check_outside_source(source, listing.layout, directory)
    place = storage.open_place(source, "--source")
    source_name = (place if storage.is_remote(place) else place.resolve()).name
    source_name = source_name.encode(errors="backslashreplace").decode()
    identity = build_manifest.identity(listing, settings, source_name)
    job_dir, shards_dir = layout.incomplete_dir(directory) / acquire.job_name(identity), layout.shards_dir(directory)
    shard_job = ShardJob(
        os.fspath(place),
        listing.cells.root,
        job_dir,
        shards_dir,
        settings.image_size_px,
        settings.image_encoding,
        settings.background,
    )
    if existing := acquire.find_existing(directory, identity, overwrite):
        acquire.cleanup(directory)
        yield check_existing(directory, existing, listing, settings, shard_job, repair)
        return
    planned: Job | JobResult
    shards = plan_shards(listing, settings, source_name)  # an error here must leave nothing behind
    with ExitStack() as stack:
        with acquire.explained_os_errors(data_dir):
            stack.enter_context(storage.lock(directory))
            # Another job may have made it while this one waited for the lock.
            if existing := acquire.find_existing(directory, identity, overwrite):
                planned = JobResult(directory, existing, 0, 0.0)
            else:
                acquire.acquire(directory, job_dir, identity, overwrite)
                num_cells = _write_plan(shards, job_dir)
                planned = Job(directory, identity, shard_job, num_cells, listing.rejected, listing.same_names)
        del listing, shards  # this frame lives as long as the block, which must not hold every cell
        yield planned


def run(
    job: Job | JobResult, *, max_rejected_fraction: float = 0.001, pipeline_options: Sequence[str] = ()
) -> JobResult:
    """Fills the shards that are missing and completes the data set.

    Args:
      job: what `plan` yields.
      max_rejected_fraction: the largest fraction of the listed images that may be rejected.
      pipeline_options: Beam's options, such as `["--runner=DirectRunner"]`.

    Raises InputError if filling fails or too many images are rejected; the next call continues with the filled shards.
    """
    if isinstance(job, JobResult):
        return job
    from pipeline.job import beam_pipeline  # takes a second to import, in which nothing is filled

    started, num_with_background = time.perf_counter(), 0
    missing: list[str] = []
    job_dir = job.shard_job.job_dir
    with acquire.explained_os_errors(str(job.directory)):
        if not acquire.is_complete(job):
            if missing := results.missing_shards(job):
                with results.watch(job_dir, job.num_cells):
                    beam_pipeline.fill_shards(missing, job.shard_job, pipeline_options)
            filled = results.read_results(job_dir, job.num_cells)
            results.check(filled, job, max_rejected_fraction)
            build_manifest.write(job, filled)
            num_with_background = sum(result.num_with_background for result in filled)
        seconds = time.perf_counter() - started
        acquire.publish(job)
    num_filled = sum(job.num_cells[file_name] for file_name in missing)
    return JobResult(job.directory, manifest.read(job.directory), num_filled, seconds, (), num_with_background)


def _write_plan(shards: Iterable[Shard], job_dir: epath.Path) -> dict[str, int]:
    num_cells = {}
    for shard in shards:
        plan, content = job_dir / layout.plan_name(shard.file_name), shard.to_json().encode()
        if plan.exists() and plan.read_bytes() != content:  # its cells may be others by now, of the same sizes
            (job_dir / layout.result_name(shard.file_name)).unlink(missing_ok=True)
        storage.write_atomic(plan, content)
        num_cells[shard.file_name] = len(shard.cells)
    return num_cells
