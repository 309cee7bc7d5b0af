"""Beam's part of the job: names of shards in, filled shards in their folder, on any engine.

An element is a shard's name: no pixel and no cell crosses a shuffle, and the bytes depend neither on the runner nor on
the number of workers.
"""

import io
import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager, redirect_stderr

from pipeline.command import num_processors, set_environment
from pipeline.errors import InputError
from pipeline.job.plan import ShardJob
from pipeline.job.results import ShardCounts
from pipeline.job.workers import CONTINUES, WorkerProcesses, fill_shard

_disabled_level = logging.root.manager.disable
logging.disable(logging.WARNING)  # importing Beam warns about packages of Google Cloud that are missing
import apache_beam as beam  # noqa: E402 - see above
from apache_beam.metrics import Metrics  # noqa: E402
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions  # noqa: E402
from apache_beam.transforms.window import GlobalWindow  # noqa: E402
from apache_beam.utils.windowed_value import WindowedValue  # noqa: E402

logging.disable(_disabled_level)

_DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"  # the only name by which Beam knows it
_SHARD_ERROR = re.compile(f"shard [^ ]* could not be filled: .*?{CONTINUES}")


class FillShard(beam.DoFn):
    """Fills the shard that its element names; its file, index and result lie in the job's folders then.

    Runners differ in what they bring back (Dask's has no metrics), so Beam's counters are for watching only.
    """

    def __init__(self, job: ShardJob, num_processes: int) -> None:
        self._job, self._num_processes = job, num_processes
        self._processes: WorkerProcesses | None = None
        self._filling: list[Future[ShardCounts]] = []  # shards of the bundle

    def setup(self) -> None:
        """Starts the worker processes."""
        set_environment()  # as in commands, which another engine's workers are not
        if self._num_processes:
            self._processes = WorkerProcesses(self._job, self._num_processes)
            # Needed at the end of the job: TFDS takes half a second to import, in which the processes start. Not in a
            # thread: while it is imported, other threads' imports are lazy ones, which break Beam.
            from pipeline.records import tfds_metadata  # noqa: F401 - for its import

    def process(self, file_name: str) -> Iterator[ShardCounts]:
        """Fills one shard, or has a worker process fill it; raises ShardError if it cannot be."""
        if self._processes:
            self._filling.append(self._processes.fill(file_name))
        else:
            yield self._count(fill_shard(file_name, self._job))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Waits for the worker processes; raises ShardError if one failed."""
        window = GlobalWindow()
        for shard in as_completed(self._filling):
            yield WindowedValue(self._count(shard.result()), window.max_timestamp(), (window,))
        self._filling.clear()

    def teardown(self) -> None:
        """Ends the worker processes."""
        if self._processes:
            self._processes.close()

    def _count(self, counts: ShardCounts) -> ShardCounts:
        for name, count in counts._asdict().items():
            Metrics.counter(FillShard, name).inc(count)
        return counts


class FillShards(beam.PTransform[beam.PCollection[str], beam.PCollection[ShardCounts]]):
    """Fills the shards of a planned job: their file names in, `ShardCounts` of each out.

    All workers must reach the job's paths. Each starts `num_processes` processes to fill shards in; with 0 it fills
    them itself, with one thread per CPU.
    """

    def __init__(self, job: ShardJob, num_processes: int = 0) -> None:
        super().__init__()
        self._job, self._num_processes = job, num_processes

    def expand(self, file_names: beam.PCollection[str]) -> beam.PCollection[ShardCounts]:
        """See beam.PTransform."""
        fill = beam.ParDo(FillShard(self._job, self._num_processes))
        return file_names | "Spread over workers" >> beam.Reshuffle() | "Fill" >> fill


def parse_options(pipeline_options: Sequence[str]) -> tuple[PipelineOptions, int]:
    """Beam's options, and the number of processes for `FillShards`; InputError if Beam does not understand one.

    Without a runner that is `FnApiRunner` with one worker and a process per CPU. Other runners have a worker per CPU.
    """
    given = f"--pipeline_options={','.join(pipeline_options)}"
    if stray := [option for option in pipeline_options if not option.startswith("--")]:
        raise InputError(f"{given}: {stray[0]!r} is no option; expected --<name>=<value>")
    arguments = [_DASK if option == "--runner=DaskRunner" else option for option in pipeline_options]
    if _DASK in arguments and "--dask_npartitions" not in given and "--dask_partition_size" not in given:
        arguments.insert(0, "--dask_partition_size=1")  # by default all shards are one partition, for one worker
    try:
        with redirect_stderr(io.StringIO()) as message:
            options = PipelineOptions(arguments)
            options.get_all_options()
    except SystemExit as error:
        raise InputError(f"{given}: {message.getvalue().strip().rpartition('error: ')[2]}") from error
    standard = options.view_as(StandardOptions)
    if standard.runner is None:
        standard.runner = "FnApiRunner"  # Beam's default first tries to download another one
        return options, num_processors() if options.view_as(DirectOptions).direct_num_workers == 1 else 0
    return options, 0


def fill_shards(file_names: Sequence[str], job: ShardJob, pipeline_options: Sequence[str]) -> None:
    """Runs the pipeline; raises InputError if a shard cannot be filled or the runner fails, but filled shards stay."""
    options, num_processes = parse_options(pipeline_options)
    with explained_runner_errors(pipeline_options):
        pipeline = beam.Pipeline(options=options)
        fill = FillShards(job, min(num_processes, len(file_names)))
        _ = pipeline | "Planned shards" >> beam.Create(file_names) | "Fill shards" >> fill
        pipeline.run().wait_until_finish()


@contextmanager
def explained_runner_errors(pipeline_options: Sequence[str]) -> Iterator[None]:
    """Turns a runner's error in the block into an InputError of one line, which stands for Beam's log at WARNING.

    Runners hand on a worker's error as their own, with its text in theirs; Beam has no other way to tell what it was.
    """
    disabled_level = logging.root.manager.disable
    if not logging.root.isEnabledFor(logging.INFO):
        logging.disable(logging.ERROR)
    try:
        yield
    except Exception as error:
        text = str(error)
        if shard := _SHARD_ERROR.search(text):
            raise InputError(shard[0]) from error
        if "No module named 'pipeline" in text:
            message = "the workers have no package pipeline; give them its wheel, for example by --extra_packages"
            raise InputError(f"{message}{CONTINUES}") from error
        if not any(option.startswith("--runner=") for option in pipeline_options):
            raise
        lines = text.strip().splitlines() or ["no answer"]
        causes = [line.strip() for line in lines if "details = " in line or line.startswith("Caused by: ")]
        reason = (causes or lines)[-1]  # gRPC's or Java's, or the last of a traceback
        raise InputError(
            f"the runner failed: {type(error).__name__}: {reason}; check "
            f"--pipeline_options={','.join(pipeline_options)}, then the same command continues"
        ) from error
    finally:
        logging.disable(disabled_level)
