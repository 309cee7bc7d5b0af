"""Worker processes of a local job, started early: they are ready when the main process has listed and planned.

Threads would share one interpreter lock, which costs a quarter of the speed on two cores and more on more cores.
Beam's own multi-processing mode takes many seconds to start.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress

from pipeline.command import num_processors
from pipeline.job.plan import ShardJob
from pipeline.job.results import ShardResult

_SECONDS_BETWEEN_LOOKS = 0.5
_pool: ProcessPoolExecutor | None = None
_begun: dict[tuple[str, ShardJob], Future[ShardResult]] = {}


def are_started() -> bool:
    """Whether there are worker processes."""
    return _pool is not None


def begin(file_name: str, job: ShardJob, num_threads: int | None) -> None:
    """Queues a shard for the worker processes, ahead of `submit`."""
    with suppress(BrokenExecutor):  # `submit` raises it again
        _begun[file_name, job] = _queue(file_name, job, num_threads)


def submit(file_name: str, job: ShardJob, num_threads: int | None) -> Future[ShardResult]:
    """A shard that a worker process fills; raises BrokenExecutor if a worker was killed."""
    return _begun.pop((file_name, job), None) or _queue(file_name, job, num_threads)


def _queue(file_name: str, job: ShardJob, num_threads: int | None) -> Future[ShardResult]:
    if _pool is None:
        raise RuntimeError("there are no worker processes; they run within `started`")
    return _pool.submit(_fill, file_name, job, num_threads)


def _fill(file_name: str, job: ShardJob, num_threads: int | None) -> ShardResult:
    from pipeline.job import fill  # OpenCV is only for processes that decode

    return fill.fill_shard(file_name, job, num_threads)


@contextmanager
def started() -> Iterator[None]:
    """Runs worker processes, one per CPU, while the block runs; they end with it, whatever ends it.

    Ctrl-C ends the process at once, with status 130: a job may be killed at any moment, and KeyboardInterrupt gets lost
    within an import or one of Beam's callbacks.
    """
    global _pool
    count = num_processors()
    # Workers inherit that Ctrl-C is ignored; otherwise those that are still starting print a traceback.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _silent_resource_tracker():
        _pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _initialize, (os.getpid(),))
        for _ in range(count):
            _pool.submit(int)  # a process starts with the first call that it may take
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    except Exception:
        _pool.shutdown(wait=True, cancel_futures=True)  # running calls clean up after themselves
        raise
    finally:
        _pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()
        _pool = None
        _begun.clear()
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _silent_resource_tracker() -> Iterator[None]:
    """Python's resource tracker, which starts here, must not warn that it frees semaphores after Ctrl-C."""
    before = os.environ.get("PYTHONWARNINGS", "")
    ignored = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ["PYTHONWARNINGS"] = f"{before},{ignored}" if before else ignored
    try:
        yield
    finally:
        os.environ["PYTHONWARNINGS"] = before


def _leave(*_: object) -> None:
    print("\ninterrupted; the same command continues", file=sys.stderr, flush=True)
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(130)


def _initialize(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and kills its workers

    def end_with_parent() -> None:  # a worker whose main process was killed would wait forever
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    importlib.import_module("pipeline.job.fill")  # a second in which the main process lists and plans
