"""The Beam job: a planned data set in, a whole data set out; one Beam element fills one shard.

No pixel crosses a shuffle, a killed job continues with the shards that are missing, and the bytes depend neither on
the runner nor on the number of workers. The data set is filled in `<version>.incomplete` and renamed when whole.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from etils import epath

from pipeline import fill, layout, manifest, metadata
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

_JOB = "job.json"
_SECONDS_BETWEEN_LOOKS = 0.2


class Outcome(NamedTuple):
    """What the job did.

    Attributes:
      directory: the data set's version folder.
      manifest: its manifest.
      num_filled: number of cells that this run read; 0 if the data set was there already.
      seconds: how long filling took.
    """

    directory: epath.Path
    manifest: manifest.Manifest
    num_filled: int
    seconds: float


class ShardError(Exception):
    """A shard could not be filled; the message is one line."""


_SHARD_ERROR = f"{ShardError.__name__}: "


class FillShard(beam.DoFn):
    """Fills the shard that is its element; yields nothing, since the result lies beside the shard.

    Runners differ in what they bring back (Dask's has no metrics), so Beam's counters are for watching only.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._records = Metrics.counter("malaria", "records_written")
        self._bytes = Metrics.counter("malaria", "bytes_written")
        self._rejected = Metrics.counter("malaria", "cells_rejected")
        self._converted = Metrics.counter("malaria", "cells_converted")

    def process(self, shard: Shard) -> None:
        """Fills one shard; raises ShardError if reading or writing fails."""
        try:
            result = fill.fill_shard(shard, self._target)
        except OSError as error:
            raise ShardError(f"{shard.file_name} could not be filled: {error}") from error
        self._records.inc(result.num_records)
        self._bytes.inc(result.num_bytes)
        self._rejected.inc(len(result.rejected))
        self._converted.inc(sum(result.converted.values()))


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
    """Makes one data set, or finds that it is there already.

    Args:
      listing: the source's cells.
      settings: what to make.
      source: path of the source, as workers reach it.
      data_dir: root of all data sets.
      max_rejected_fraction: the job fails if more of the listed images than this cannot be used.
      overwrite: replaces a data set of another source or other settings, and makes an equal one anew.
      pipeline_options: Beam's options, such as `["--runner=DirectRunner"]`.

    Raises:
      InputError: if the plan cannot be made, another data set is in the way, too many images are rejected, or
        filling fails. What was filled stays in the incomplete folder, and the next call continues with it.
    """
    target = layout.dataset_dir(data_dir, settings.config)
    source_name = epath.Path(source).name
    wanted = manifest.identity(listing, settings, source_name)
    if target.exists() and not overwrite:
        return Outcome(target, _check_existing(target, wanted), 0, 0.0)
    shards = plan_shards(listing, settings, source_name)
    directory = layout.incomplete_dir(target)
    started = time.perf_counter()
    num_filled = 0
    try:
        _claim(directory, wanted, overwrite)
        if not (directory / layout.MANIFEST).exists():
            place = Target(source, listing.root, str(directory), settings.image_size_px, settings.image_encoding)
            num_filled = _fill_missing(shards, place, directory, pipeline_options)
            results = [_read_result(directory, shard) for shard in shards]
            _check_results(results, listing, max_rejected_fraction)
            whole = manifest.build(wanted, listing, results)
            metadata.write(directory, whole)
            fill.write_atomically(directory / layout.MANIFEST, manifest.to_bytes(whole))
        seconds = time.perf_counter() - started
        _publish(directory, target, shards)
        metadata.write_default_config(target.parent.parent)
    except OSError as error:
        raise InputError(f"cannot write to {data_dir}: {error}; mend that, then the same command continues") from error
    return Outcome(target, manifest.read(target), num_filled, seconds)


def _check_existing(target: epath.Path, wanted: manifest.Manifest) -> manifest.Manifest:
    existing = manifest.read(target)
    if found := manifest.differences(existing, wanted):
        raise InputError(
            f"{target} already holds another data set: {'; '.join(found)}; give --overwrite to replace it, or another "
            "--data_dir"
        )
    return existing


def _claim(directory: epath.Path, wanted: manifest.Manifest, overwrite: bool) -> None:
    """Makes the incomplete folder this job's own, or finds that it is."""
    job = directory / _JOB
    if directory.exists():
        for path in (directory / layout.MANIFEST, job):
            if path.exists():
                found = manifest.differences(json.loads(path.read_text()), wanted)
                break
        else:
            found = [] if not any(directory.iterdir()) else ["nothing in it tells what it is"]
        if found and not overwrite:
            raise InputError(
                f"{directory} holds another, unfinished data set: {'; '.join(found)}; give --overwrite to replace it"
            )
        if found:
            directory.rmtree()
    directory.mkdir(parents=True, exist_ok=True)
    if not job.exists():
        fill.write_atomically(job, manifest.to_bytes(wanted))


def _fill_missing(
    shards: Sequence[Shard], place: Target, directory: epath.Path, pipeline_options: Sequence[str]
) -> int:
    done = _done(directory)
    missing = [shard for shard in shards if shard.file_name not in done]
    if missing:
        with _watch(directory, shards):
            _run(missing, place, pipeline_options)
    return sum(len(shard.cells) for shard in missing)


def _run(shards: Sequence[Shard], place: Target, pipeline_options: Sequence[str]) -> None:
    # Beam's default local runner first tries to download another one.
    named = any(option.startswith("--runner") for option in pipeline_options)
    options = [*pipeline_options] if named else ["--runner=FnApiRunner", *pipeline_options]
    logging.getLogger("apache_beam.runners.common").addFilter(_is_unexpected)
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(options))
        _ = (
            pipeline
            | "Planned shards" >> beam.Create(shards)
            | "Spread over workers" >> beam.Reshuffle()
            | "Fill shards" >> beam.ParDo(FillShard(place))
        )
        pipeline.run().wait_until_finish()
    except Exception as error:
        if isinstance(error, ShardError) or _SHARD_ERROR in str(error):  # other runners hand on its text only
            message = str(error).rpartition(_SHARD_ERROR)[2].partition(" [while running")[0]
            raise InputError(f"{message}; mend that, then the same command continues") from error
        if "runner" in str(error).lower() and isinstance(error, ValueError):
            raise InputError(f"--pipeline_options={','.join(pipeline_options)}: {error}") from error
        raise


def _is_unexpected(record: logging.LogRecord) -> bool:
    """A ShardError ends in one line of its own; its traceback would only hide that."""
    return not (record.exc_info and isinstance(record.exc_info[1], ShardError))


def _done(directory: epath.Path) -> set[str]:
    suffix = layout.result_name("")
    return {path.name.removesuffix(suffix) for path in directory.iterdir() if path.name.endswith(suffix)}


@contextmanager
def _watch(directory: epath.Path, shards: Sequence[Shard]) -> Iterator[None]:
    """Shows how many cells are in whole shards, whichever runner and workers fill them."""
    num_cells = {shard.file_name: len(shard.cells) for shard in shards}
    finished = threading.Event()
    seen = _done(directory)
    total = sum(num_cells.values())
    with progress_bar(total, "filling shards", "cells", initial=sum(num_cells[name] for name in seen)) as bar:

        def look() -> None:
            for name in _done(directory) - seen:
                seen.add(name)
                bar.update(num_cells[name])

        def keep_looking() -> None:
            while not finished.wait(_SECONDS_BETWEEN_LOOKS):
                look()

        watcher = threading.Thread(target=keep_looking, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
            look()


def _read_result(directory: epath.Path, shard: Shard) -> ShardResult:
    return ShardResult.from_json((directory / layout.result_name(shard.file_name)).read_text())


def _check_results(results: Sequence[ShardResult], listing: Listing, max_rejected_fraction: float) -> None:
    rejected = [*listing.rejected, *(item for result in results for item in result.rejected)]
    num_images = len(listing.cells) + len(listing.rejected)
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


def _publish(directory: epath.Path, target: epath.Path, shards: Sequence[Shard]) -> None:
    """Makes the whole data set appear under its name."""
    for shard in shards:
        (directory / layout.result_name(shard.file_name)).unlink(missing_ok=True)
    (directory / _JOB).unlink(missing_ok=True)
    replaced = target.parent / f"{target.name}.replaced"
    if target.exists():
        target.rename(replaced)
    directory.rename(target)
    if replaced.exists():
        replaced.rmtree()
