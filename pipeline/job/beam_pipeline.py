"""Beam's part of the job: names of shards in, filled shards in their folder, on any engine.

An element is a shard's name: no pixel and no cell crosses a shuffle, and the bytes depend neither on the runner nor on
the number of workers.
"""

import gc
import io
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager, redirect_stderr

from pipeline.command import set_environment
from pipeline.errors import InputError
from pipeline.job import workers
from pipeline.job.plan import ShardJob
from pipeline.job.results import ShardResult

# Importing Beam warns about packages of Google Cloud that are missing, and spends a fifth of its time on garbage.
_disabled_level, _collects = logging.root.manager.disable, gc.isenabled()
logging.disable(logging.WARNING)
gc.disable()
import apache_beam as beam  # noqa: E402 - the lines above are for it
from apache_beam.metrics import Metrics  # noqa: E402 - as above
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402 - as above

logging.disable(_disabled_level)
if _collects:
    gc.enable()

_DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"  # the only name by which Beam knows it


# Runners hand on a worker's error as their own, with its text in theirs; Beam has no other way to tell what it was.
_START, _END = "ShardError: ", "; fix that, then the same command continues"


class ShardError(Exception):
    """A shard could not be filled; the message is one line."""

    def __init__(self, file_name: str, reason: object) -> None:
        super().__init__(f"{file_name} could not be filled: {reason}{_END}")


class FillShard(beam.DoFn):
    """Fills the shard that its element names; yields nothing, since the result lies in the job's folder.

    Runners differ in what they bring back (Dask's has no metrics), so Beam's counters are for watching only.
    """

    def __init__(self, job: ShardJob, num_threads: int | None) -> None:
        self._job, self._num_threads = job, num_threads

    def setup(self) -> None:
        """Sets what a command sets in its own process: another engine's workers are no commands."""
        set_environment()

    def start_bundle(self) -> None:
        """Begins with no shard."""
        self._filling: dict[str, Future[ShardResult]] = {}

    def process(self, file_name: str) -> None:
        """Fills one shard, or lets a local worker process begin with it; raises ShardError if that fails."""
        with _explained_as_shard_errors(file_name):
            if workers.are_started():
                self._filling[file_name] = workers.submit(file_name, self._job, self._num_threads)
            else:
                from pipeline.job import fill  # OpenCV is only for processes that decode

                self._count(fill.fill_shard(file_name, self._job, self._num_threads))

    def finish_bundle(self) -> None:
        """Waits for the worker processes; raises ShardError if one failed."""
        if self._filling:
            # Needed at the end of the job: TFDS takes a second to import, and workers are busy now.
            from pipeline.records import tfds_metadata  # noqa: F401 - for its import
        for file_name, filling in self._filling.items():
            with _explained_as_shard_errors(file_name):
                self._count(filling.result())

    def _count(self, result: ShardResult) -> None:
        counts = {
            "records_written": len(result.records),
            "bytes_written": result.entry["num_bytes"],
            "cells_rejected": len(result.rejected),
            "cells_converted": sum(len(facts.conversions) for facts in result.records),
        }
        for name, count in counts.items():
            Metrics.counter("malaria", name).inc(count)


@contextmanager
def _explained_as_shard_errors(file_name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShardError(file_name, error) from error
    except BrokenExecutor as error:
        raise ShardError(file_name, "a worker process was killed, perhaps for memory") from error


def fill_shards(
    file_names: Sequence[str], job: ShardJob, num_threads: int | None, pipeline_options: Sequence[str]
) -> None:
    """Fills shards, each by `fill.fill_shard`, in a Beam pipeline.

    Raises InputError if a shard cannot be filled or the runner fails; shards that were filled stay.
    """
    logger = logging.getLogger("apache_beam.runners.common")
    logger.addFilter(_is_unexpected)
    try:
        pipeline = beam.Pipeline(options=parse_options(pipeline_options))
        _ = (
            pipeline
            | "Planned shards" >> beam.Create(file_names)
            | "Spread over workers" >> beam.Reshuffle()
            | "Fill shards" >> beam.ParDo(FillShard(job, num_threads))
        )
        pipeline.run().wait_until_finish()
    except Exception as error:
        if _END in str(error):
            raise InputError(str(error).rpartition(_END)[0].rpartition(_START)[2] + _END) from error
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        if not any(option.startswith("--runner=") for option in pipeline_options):
            raise
        raise InputError(
            f"the runner failed: {type(error).__name__}: {error}; check "
            f"--pipeline_options={','.join(pipeline_options)}, then the same command continues"
        ) from error
    finally:
        logger.removeFilter(_is_unexpected)


def parse_options(pipeline_options: Sequence[str]) -> PipelineOptions:
    """Reads Beam's options, with the project's defaults; raises InputError if Beam does not understand one."""
    given = f"--pipeline_options={','.join(pipeline_options)}"
    if stray := [option for option in pipeline_options if not option.startswith("--")]:
        raise InputError(f"{given}: {stray[0]!r} is no option; expected --<name>=<value>")
    arguments = [_DASK if option == "--runner=DaskRunner" else option for option in pipeline_options]
    if not any(option.startswith("--runner=") for option in arguments):
        arguments.insert(0, "--runner=FnApiRunner")  # Beam's default first tries to download another one
    if _DASK in arguments and "--dask_npartitions" not in given and "--dask_partition_size" not in given:
        arguments.insert(0, "--dask_partition_size=1")  # by default all shards are one partition, for one worker
    message = io.StringIO()
    try:
        with redirect_stderr(message):
            options = PipelineOptions(arguments)
            options.get_all_options()
    except SystemExit as error:
        raise InputError(f"{given}: {message.getvalue().strip().rpartition('error: ')[2]}") from error
    return options


def _is_unexpected(record: logging.LogRecord) -> bool:
    """A ShardError or Ctrl-C ends in one line of its own; its traceback would only hide that."""
    error = record.exc_info and record.exc_info[1]
    return not (isinstance(error, ShardError | KeyboardInterrupt) or "KeyboardInterrupt" in str(error))
