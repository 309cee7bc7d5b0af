"""The Beam job: a planned data set in, a whole data set out; one Beam element fills one shard.

An element is a shard's name: no pixel and no cell crosses a shuffle, a killed job continues with the shards that are
missing, and the bytes depend neither on the runner nor on the number of workers.

Locally the data set is filled in `<version>.incomplete` and renamed when it is whole. On an object store it is filled
in place, and the manifest, written last, makes it whole. In both, `<version>.incomplete/<job>` holds the plan and the
shards' results while the job runs; its name is a hash of what is made.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from typing import NamedTuple

from etils import epath

from pipeline import duplicates, fill, layout, manifest, storage, workers
from pipeline.cells import Rejected
from pipeline.errors import InputError
from pipeline.fill import ShardResult, Target
from pipeline.listing import Listing
from pipeline.plan import Settings, Shard, plan_shards
from pipeline.progress import progress_bar

_disabled = logging.root.manager.disable
logging.disable(logging.WARNING)  # importing Beam without Google Cloud's packages warns about those
import apache_beam as beam  # noqa: E402
from apache_beam.metrics import Metrics  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402

logging.disable(_disabled)

_IDENTITY = "job.json"
_DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"  # the only name by which Beam knows it
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_REMOTE_LOOKS = 5.0


class Outcome(NamedTuple):
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


@dataclasses.dataclass(frozen=True)
class Job:
    """A planned data set; the plan itself lies in files, so what is held here is small.

    Attributes:
      directory: the version folder that it becomes.
      identity: see `manifest.identity`.
      target: what workers need to know.
      num_cells: shard's file name -> number of planned cells, in the order of the plan.
      refused: files refused by name.
      same_names: base names in both class folders.
    """

    directory: epath.Path
    identity: manifest.Manifest
    target: Target
    num_cells: dict[str, int]
    refused: list[Rejected]
    same_names: list[str]

    @property
    def job_dir(self) -> epath.Path:
        """Folder of the plan and the results."""
        return epath.Path(self.target.job_dir)

    @property
    def shards_dir(self) -> epath.Path:
        """Folder of the shards."""
        return epath.Path(self.target.shards_dir)


class ShardError(Exception):
    """A shard could not be filled; the message is one line."""


_SHARD_ERROR = f"{ShardError.__name__}: "


class FillShard(beam.DoFn):
    """Fills the shard that its element names; yields nothing, since the result lies in the job's folder.

    Runners differ in what they bring back (Dask's has no metrics), so Beam's counters are for watching only.
    """

    def __init__(self, target: Target, num_threads: int | None) -> None:
        self._target, self._num_threads = target, num_threads
        self._records = Metrics.counter("malaria", "records_written")
        self._bytes = Metrics.counter("malaria", "bytes_written")
        self._rejected = Metrics.counter("malaria", "cells_rejected")
        self._converted = Metrics.counter("malaria", "cells_converted")

    def start_bundle(self) -> None:
        """Begins with no shard at work."""
        self._filling: dict[str, Future] = {}

    def process(self, file_name: str) -> None:
        """Fills one shard, or lets a local worker process begin with it; raises ShardError if that fails."""
        if pool := workers.pool():
            self._filling[file_name] = pool.submit(fill.fill_shard, file_name, self._target, self._num_threads)
        else:
            with _explained_as_shard_errors(file_name):
                self._count(fill.fill_shard(file_name, self._target, self._num_threads))

    def finish_bundle(self) -> None:
        """Waits for the worker processes; raises ShardError if one failed."""
        if self._filling:
            from pipeline import metadata  # needed at the end: TFDS takes a second to import, while workers are busy

            del metadata
        for file_name, filling in self._filling.items():
            with _explained_as_shard_errors(file_name):
                self._count(filling.result())

    def _count(self, result: ShardResult) -> None:
        self._records.inc(result.num_records)
        self._bytes.inc(result.num_bytes)
        self._rejected.inc(len(result.rejected))
        self._converted.inc(sum(result.converted.values()))


@contextmanager
def _explained_as_shard_errors(file_name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShardError(f"{file_name} could not be filled: {error}") from error
    except BrokenExecutor as error:
        raise ShardError(f"{file_name} could not be filled: a worker process was killed, perhaps for memory") from error


def prepare(
    listing: Listing,
    settings: Settings,
    *,
    source: str,
    data_dir: str,
    max_rejected_fraction: float = 0.001,
    overwrite: bool = False,
    pipeline_options: Sequence[str] = (),
) -> Outcome:
    """Makes one data set, or finds that it is there already: `plan`, then `run`.

    Raises:
      InputError: see `plan` and `run`.
    """
    with plan(listing, settings, source=source, data_dir=data_dir, overwrite=overwrite) as planned:
        return run(planned, max_rejected_fraction=max_rejected_fraction, pipeline_options=pipeline_options)


@contextmanager
def plan(
    listing: Listing, settings: Settings, *, source: str, data_dir: str, overwrite: bool = False
) -> Iterator[Job | Outcome]:
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
      InputError: if the plan cannot be made, or another data set or another job is in the way.
    """
    directory = layout.dataset_dir(data_dir, settings.config)
    source_name = _printable_name(source)
    identity = manifest.identity(listing, settings, source_name)
    if existing := _find_existing(directory, identity, overwrite):
        _tidy(directory)
        yield existing
        return
    with ExitStack() as held:
        with _explained_os_errors(data_dir):
            held.enter_context(storage.lock(directory))
            # Another job may have made it while this one waited for the lock.
            planned = _find_existing(directory, identity, overwrite)
            if planned is None:
                job_dir = layout.incomplete_dir(directory) / _digest(identity)
                _claim(directory, job_dir, identity, overwrite)
                target = Target(
                    source=os.fspath(storage.open_place(source, "--source")),
                    root=listing.root,
                    job_dir=str(job_dir),
                    shards_dir=str(layout.shards_dir(directory)),
                    image_size_px=settings.image_size_px,
                    image_encoding=settings.image_encoding,
                )
                num_cells = _write_plan(plan_shards(listing, settings, source_name), job_dir)
                planned = Job(directory, identity, target, num_cells, listing.rejected, listing.same_names)
        del listing  # this frame lives as long as the block, which must not hold every cell
        yield planned


def run(job: Job | Outcome, *, max_rejected_fraction: float = 0.001, pipeline_options: Sequence[str] = ()) -> Outcome:
    """Fills the shards that are missing and makes the data set whole.

    Args:
      job: what `plan` yields.
      max_rejected_fraction: the job fails if more of the listed images than this cannot be used.
      pipeline_options: Beam's options, such as `["--runner=DirectRunner"]`.

    Raises:
      InputError: if filling fails or too many images are rejected. What was filled stays in the incomplete folder,
        and the next call continues with it.
    """
    if isinstance(job, Outcome):
        return job
    started = time.perf_counter()
    num_filled = 0
    with _explained_os_errors(str(job.directory)):
        if not _is_sealed(job):
            num_filled = _fill_missing(job, pipeline_options)
            results = _read_results(job)
            _check_results(results, job, max_rejected_fraction)
            _complete(job, results)
        seconds = time.perf_counter() - started
        _publish(job)
    return Outcome(job.directory, manifest.read(job.directory), num_filled, seconds)


@contextmanager
def _explained_os_errors(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {place}: {error}; mend that, then the same command continues") from error


def _write_plan(shards: Sequence[Shard], job_dir: epath.Path) -> dict[str, int]:
    for shard in shards:
        storage.write_whole(job_dir / layout.plan_name(shard.file_name), shard.to_json().encode())
    return {shard.file_name: len(shard.cells) for shard in shards}


def _printable_name(source: str) -> str:
    place = storage.open_place(source, "--source")
    name = place.name if storage.is_remote(place) else place.resolve().name
    return name.encode(errors="backslashreplace").decode()


def _digest(identity: manifest.Manifest) -> str:
    """A name for the job that makes these bytes: a folder and a zip of it have the same."""
    deciding = [identity["source"]["fingerprint"], *(identity[key] for key in ("format", "version", "settings"))]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def _is_sealed(job: Job) -> bool:
    """Whether a job that was killed at its end has left everything but the last rename."""
    path = job.shards_dir / layout.MANIFEST
    if not path.exists() or not manifest.is_sealed(path.read_bytes()):
        return False
    splits = json.loads(path.read_text())["splits"]
    return all(manifest.holds_shard(job.shards_dir, shard) for split in splits.values() for shard in split["shards"])


def _find_existing(directory: epath.Path, identity: manifest.Manifest, overwrite: bool) -> Outcome | None:
    """The data set that is there, if it is the wanted one and is not to be replaced."""
    if overwrite or not layout.has_dataset(directory):
        return None
    existing = manifest.read(directory)
    if found := manifest.differences(existing, identity):
        raise InputError(
            f"{directory} already holds another data set: {'; '.join(found)}; give --overwrite to replace it, or "
            "another --data_dir"
        )
    return Outcome(directory, existing, 0, 0.0)


def _claim(directory: epath.Path, job_dir: epath.Path, identity: manifest.Manifest, overwrite: bool) -> None:
    """Makes the incomplete folder this job's own, or finds that it is."""
    incomplete = layout.incomplete_dir(directory)
    if incomplete.exists():
        found = _unfinished(incomplete, identity)
        if found and not overwrite:
            raise InputError(
                f"{incomplete} holds another, unfinished data set: {'; '.join(found)}; give --overwrite to replace it"
            )
        if found != []:
            storage.remove_folder(incomplete)
    if storage.is_remote(directory):
        (directory / layout.MANIFEST).unlink(missing_ok=True)  # from here on it is not whole
    storage.make_folder(layout.shards_dir(directory))
    storage.make_folder(job_dir)
    storage.write_whole(job_dir / _IDENTITY, json.dumps(identity).encode())


def _unfinished(incomplete: epath.Path, identity: manifest.Manifest) -> list[str] | None:
    """How what an incomplete folder holds differs from what is wanted; None if it was left before it held anything."""
    entries = sorted(incomplete.iterdir())
    for path in [incomplete / layout.MANIFEST, *(path / _IDENTITY for path in entries)]:
        if path.exists():
            try:
                return manifest.differences(json.loads(path.read_text()), identity)
            except (ValueError, KeyError, TypeError):
                return [f"{path} is damaged"]
    holds_files = any(not path.is_dir() or any(storage.is_whole(file) for file in path.iterdir()) for path in entries)
    return ["nothing in it tells what it is"] if holds_files else None


def _fill_missing(job: Job, pipeline_options: Sequence[str]) -> int:
    storage.remove_partials(job.shards_dir)  # of workers that were killed: they fill the disk
    for file_name in _done(job):
        result = _read_result(job, file_name)
        if result is None or not manifest.holds_shard(job.shards_dir, manifest.shard_entry(result)):
            (job.job_dir / layout.result_name(file_name)).unlink()  # the disk lost what was written last
    done = _done(job)
    missing = [file_name for file_name in job.num_cells if file_name not in done]
    if missing:
        with _watch(job):
            _run_pipeline(missing, job.target, pipeline_options)
    return sum(job.num_cells[file_name] for file_name in missing)


def _run_pipeline(file_names: Sequence[str], target: Target, pipeline_options: Sequence[str]) -> None:
    logging.getLogger("apache_beam.runners.common").addFilter(_is_unexpected)
    # Local workers are processes; they need threads only where there are fewer shards than processors.
    num_threads = max(1, workers.num_processors() // len(file_names)) if workers.pool() else None
    try:
        pipeline = beam.Pipeline(options=parse_options(pipeline_options))
        _ = (
            pipeline
            | "Planned shards" >> beam.Create(file_names)
            | "Spread over workers" >> beam.Reshuffle()
            | "Fill shards" >> beam.ParDo(FillShard(target, num_threads))
        )
        pipeline.run().wait_until_finish()
    except Exception as error:
        if isinstance(error, ShardError) or _SHARD_ERROR in str(error):  # other runners hand on its text only
            message = str(error).rpartition(_SHARD_ERROR)[2].partition(" [while running")[0]
            raise InputError(f"{message}; mend that, then the same command continues") from error
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        if not any(option.startswith("--runner=") for option in pipeline_options):
            raise
        raise InputError(
            f"the runner failed: {type(error).__name__}: {error}; check "
            f"--pipeline_options={','.join(pipeline_options)}, then the same command continues"
        ) from error


def parse_options(pipeline_options: Sequence[str]) -> PipelineOptions:
    """Reads Beam's options, with the project's defaults.

    Raises:
      InputError: if Beam does not understand one.
    """
    given = f"--pipeline_options={','.join(pipeline_options)}"
    if stray := [option for option in pipeline_options if not option.startswith("--")]:
        raise InputError(f"{given}: {stray[0]!r} is no option; expected --<name>=<value>")
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            options = PipelineOptions(_with_defaults(pipeline_options))
            options.get_all_options()
    except SystemExit as error:
        raise InputError(f"{given}: {said.getvalue().strip().rpartition('error: ')[2]}") from error
    return options


def _with_defaults(pipeline_options: Sequence[str]) -> list[str]:
    """Beam's options as given, and what must not be left to Beam."""
    options = [_DASK if option == "--runner=DaskRunner" else option for option in pipeline_options]
    if not any(option.startswith("--runner=") for option in options):
        return ["--runner=FnApiRunner", *options]  # Beam's default first tries to download another one
    if _DASK in options and not any(
        option.startswith(("--dask_npartitions", "--dask_partition_size")) for option in options
    ):
        return ["--dask_partition_size=1", *options]  # by default all shards are one partition, for one worker
    return options


def _is_unexpected(record: logging.LogRecord) -> bool:
    """A ShardError or Ctrl-C ends in one line of its own; its traceback would only hide that."""
    error = record.exc_info and record.exc_info[1]
    return not (isinstance(error, ShardError | KeyboardInterrupt) or "KeyboardInterrupt" in str(error))


def _done(job: Job) -> set[str]:
    suffix = layout.result_name("")
    return {path.name.removesuffix(suffix) for path in job.job_dir.iterdir() if path.name.endswith(suffix)}


@contextmanager
def _watch(job: Job) -> Iterator[None]:
    """Shows how many cells are in whole shards, whichever runner and workers fill them."""
    num_cells = job.num_cells
    finished = threading.Event()
    seen = _done(job)
    interval = _SECONDS_BETWEEN_REMOTE_LOOKS if storage.is_remote(job.directory) else _SECONDS_BETWEEN_LOOKS
    num_done = sum(num_cells[name] for name in seen)
    with progress_bar(sum(num_cells.values()), "filling shards", "cells", initial=num_done) as bar:

        def look() -> None:
            for name in _done(job) - seen:
                seen.add(name)
                bar.update(num_cells[name])

        def keep_looking() -> None:
            while not finished.wait(interval):
                with suppress(OSError):  # the job itself will meet it too, and say so
                    look()

        watcher = threading.Thread(target=keep_looking, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
            look()


def _read_results(job: Job) -> list[ShardResult]:
    if missing := sorted(job.num_cells.keys() - _done(job)):
        raise InputError(
            f"the runner has ended, but {len(missing)} of {len(job.num_cells)} shards are missing, such as "
            f"{missing[0]}; look into its log, then the same command continues"
        )
    return [_read_result(job, file_name) for file_name in job.num_cells]


def _read_result(job: Job, file_name: str) -> ShardResult | None:
    try:
        return ShardResult.from_json((job.job_dir / layout.result_name(file_name)).read_text())
    except (ValueError, TypeError, KeyError):
        return None


def _check_results(results: Sequence[ShardResult], job: Job, max_rejected_fraction: float) -> None:
    rejected = [*job.refused, *(item for result in results for item in result.rejected)]
    num_images = sum(job.num_cells.values()) + len(job.refused)
    if len(rejected) > max_rejected_fraction * num_images:
        examples = ", ".join(f"{filename} ({reason})" for filename, reason in sorted(rejected)[:3])
        raise InputError(
            f"{len(rejected)} of {num_images} images cannot be used, more than --max_rejected_fraction="
            f"{max_rejected_fraction}: {examples}{', …' if len(rejected) > 3 else ''}; mend or remove them, or raise "
            "the fraction"
        )
    for split in sorted({result.split for result in results}):
        if not any(result.num_records for result in results if result.split == split):
            raise InputError(f"every image of split {split} was rejected; mend the source")


def _complete(job: Job, results: Sequence[ShardResult]) -> None:
    """Writes TFDS's files, then the manifest."""
    from pipeline import metadata  # TFDS takes a second to import, which the workers need not wait for

    def read_names(result: ShardResult) -> list[str]:
        planned = Shard.from_json((job.job_dir / layout.plan_name(result.file_name)).read_text())
        rejected = {item.filename for item in result.rejected}
        return [cell.filename for cell in planned.cells if cell.filename not in rejected]

    copies = duplicates.find_duplicates(results, read_names)
    whole = manifest.build(job.identity, job.refused, job.same_names, results, copies)
    expected = layout.expected_files(list(job.num_cells))
    storage.remove_others(job.shards_dir, expected | {job.job_dir.name})
    metadata.write(job.shards_dir, whole)
    metadata.write_default_config(job.directory.parent.parent)
    storage.write_whole(job.shards_dir / layout.MANIFEST, manifest.seal(whole, job.shards_dir))


def _publish(job: Job) -> None:
    """Makes the whole data set appear under its name, and removes what the job has left."""
    incomplete = layout.incomplete_dir(job.directory)
    if storage.is_remote(job.directory):
        storage.remove_folder(incomplete)
        return
    storage.remove_others(incomplete, layout.expected_files(list(job.num_cells)))
    replaced = layout.replaced_dir(job.directory)
    storage.remove_folder(replaced)
    if job.directory.exists():
        job.directory.rename(replaced)
    incomplete.rename(job.directory)
    storage.remove_folder(replaced)


def _tidy(directory: epath.Path) -> None:
    """Removes what a job that was killed at its very end has left beside its data set."""
    lock, replaced = storage.lock_file(directory), layout.replaced_dir(directory)
    if not storage.is_remote(directory) and (lock.exists() or replaced.exists()):
        with suppress(InputError, OSError), storage.lock(directory):
            storage.remove_folder(replaced)
