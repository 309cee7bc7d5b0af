"""The job: a listing and settings in, a whole data set out; planned first, then filled by Beam.

A job that was killed, at any moment, continues with the shards that are missing.

Locally the data set is filled in `<version>.incomplete` and renamed when it is whole. On an object store it is filled
in place, and the manifest, written last, makes it whole. In both, `<version>.incomplete/<job>` holds the plan and the
shards' results while the job runs; its name is a hash of what is made.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from etils import epath

from pipeline import storage
from pipeline.errors import InputError
from pipeline.job import finish, results, workers
from pipeline.job.acquire import check_apart, claim, find_existing, job_name, tidy
from pipeline.job.plan import Settings, Shard, plan_shards
from pipeline.job.planned import Job
from pipeline.job.shard import ShardJob, holds_shard
from pipeline.records import layout, manifest
from pipeline.source.listing import Listing


class JobResult(NamedTuple):
    """What the job did.

    Attributes:
      directory: the data set's version folder.
      manifest: its manifest.
      num_filled: number of cells that this run read; 0 if the data set was there already.
      seconds: how long filling took, from the first shard to the manifest.
    """

    directory: epath.Path
    manifest: manifest.Manifest
    num_filled: int
    seconds: float


def prepare(
    listing: Listing,
    settings: Settings,
    *,
    source: str,
    data_dir: str,
    max_rejected_fraction: float = 0.001,
    overwrite: bool = False,
    pipeline_options: Sequence[str] = (),
) -> JobResult:
    """Makes one data set, or finds that it is there already: `plan`, then `run`.

    Raises:
      InputError: see `plan` and `run`.
    """
    with plan(listing, settings, source=source, data_dir=data_dir, overwrite=overwrite) as planned:
        return run(planned, max_rejected_fraction=max_rejected_fraction, pipeline_options=pipeline_options)


@contextmanager
def plan(
    listing: Listing, settings: Settings, *, source: str, data_dir: str, overwrite: bool = False
) -> Iterator[Job | JobResult]:
    """Plans one data set, writes the plan, and holds the data set's lock while the block runs.

    Args:
      listing: the source's cells; not needed any more once the block is entered.
      settings: what to make.
      source: path of the source, as workers reach it.
      data_dir: root of all data sets.
      overwrite: replaces a data set of another source or other settings, and makes an equal one anew.

    Yields:
      the job, or its outcome if the data set is there already.

    Raises:
      InputError: if the plan cannot be made, the data set would lie among the cells, or another data set or another
        job is in the way.
    """
    directory = layout.dataset_dir(data_dir, settings.config)
    check_apart(source, listing.root, settings.class_folders, directory)
    source_name = _printable_name(source)
    identity = manifest.identity(listing, settings, source_name)
    if existing := find_existing(directory, identity, overwrite):
        tidy(directory)
        yield JobResult(directory, existing, 0, 0.0)
        return
    planned: Job | JobResult
    shards = plan_shards(listing, settings, source_name)  # it may refuse, which must leave nothing behind
    with ExitStack() as held:
        with _explained_os_errors(data_dir):
            held.enter_context(storage.lock(directory))
            # Another job may have made it while this one waited for the lock.
            existing = find_existing(directory, identity, overwrite)
            if existing:
                planned = JobResult(directory, existing, 0, 0.0)
            else:
                job_dir = layout.incomplete_dir(directory) / job_name(identity)
                claim(directory, job_dir, identity, overwrite)
                target = ShardJob(
                    source=os.fspath(storage.open_place(source, "--source")),
                    root=listing.root,
                    job_dir=str(job_dir),
                    shards_dir=str(layout.shards_dir(directory)),
                    image_size_px=settings.image_size_px,
                    image_encoding=settings.image_encoding,
                )
                num_cells = _write_plan(shards, job_dir)
                planned = Job(directory, identity, target, num_cells, listing.rejected, listing.same_names)
        del listing, shards  # this frame lives as long as the block, which must not hold every cell
        yield planned


def run(
    job: Job | JobResult, *, max_rejected_fraction: float = 0.001, pipeline_options: Sequence[str] = ()
) -> JobResult:
    """Fills the shards that are missing and makes the data set whole.

    Args:
      job: what `plan` yields.
      max_rejected_fraction: the job fails if more of the listed images than this cannot be used.
      pipeline_options: Beam's options, such as `["--runner=DirectRunner"]`.

    Raises:
      InputError: if filling fails or too many images are rejected. What was filled stays in the incomplete folder,
        and the next call continues with it.
    """
    if isinstance(job, JobResult):
        return job
    started = time.perf_counter()
    num_filled = 0
    with _explained_os_errors(str(job.directory)):
        if not finish.is_sealed(job):
            num_filled = _fill_missing(job, pipeline_options)
            filled = results.read_results(job.job_dir, job.num_cells)
            finish.check_results(filled, job, max_rejected_fraction)
            finish.complete(job, filled)
        seconds = time.perf_counter() - started
        finish.publish(job)
    return JobResult(job.directory, manifest.read(job.directory), num_filled, seconds)


@contextmanager
def _explained_os_errors(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {place}: {error}; mend that, then the same command continues") from error


def _write_plan(shards: Sequence[Shard], job_dir: epath.Path) -> dict[str, int]:
    for shard in shards:
        storage.write_atomic(job_dir / layout.plan_name(shard.file_name), shard.to_json().encode())
    return {shard.file_name: len(shard.cells) for shard in shards}


def _printable_name(source: str) -> str:
    place = storage.open_place(source, "--source")
    name = place.name if storage.is_remote(place) else place.resolve().name
    return name.encode(errors="backslashreplace").decode()


def _fill_missing(job: Job, pipeline_options: Sequence[str]) -> int:
    storage.remove_partials(job.shards_dir)  # of workers that were killed: they fill the disk
    for file_name in results.done(job.job_dir):
        result = results.read_result(job.job_dir, file_name)
        if result is None or not holds_shard(job.shards_dir, result.entry()):
            (job.job_dir / layout.result_name(file_name)).unlink()  # the disk lost what was written last
    done = results.done(job.job_dir)
    missing = [file_name for file_name in job.num_cells if file_name not in done]
    if missing:
        with results.watch(job.job_dir, job.num_cells):
            num_threads = _begin(missing, job.target) if workers.are_started() else None

            from pipeline.job import beam_pipeline  # Beam takes a second to import, and local workers are busy by now

            beam_pipeline.fill_shards(missing, job.target, num_threads, pipeline_options)
    return sum(job.num_cells[file_name] for file_name in missing)


def _begin(missing: Sequence[str], target: ShardJob) -> int:
    """Lets local worker processes begin; returns how many threads each uses."""
    num_threads = max(1, workers.num_processors() // len(missing))
    for file_name in missing:
        workers.begin("pipeline.job.fill:fill_shard", file_name, target, num_threads)
    return num_threads
