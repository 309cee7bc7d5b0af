"""Filling a shard, in this process or in one of a local job's worker processes, each of which fills one at a time.

Threads would share one interpreter lock, which costs a quarter of the speed on two cores and more on more cores. These
are plain processes: multiprocessing's come with a tracker process, which prints a traceback if a job ends early.
"""

import multiprocessing
import platform
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.command import num_processors, set_environment
from pipeline.errors import InputError
from pipeline.job.plan import ShardJob
from pipeline.job.results import ShardCounts

CONTINUES = "; fix that, then the same command continues"


class ShardError(Exception):
    """A shard could not be filled; the message is one line."""


def _error(file_name: str, reason: str) -> ShardError:
    return ShardError(f"shard {file_name} could not be filled: {' '.join(reason.split())}{CONTINUES}")


def fill_shard(file_name: str, job: ShardJob, num_threads: int | None = None) -> ShardCounts:
    """Fills one shard, see `fill.fill_shard`; raises ShardError if it cannot be."""
    from pipeline.job import fill  # OpenCV is only for processes that decode

    try:
        return fill.fill_shard(file_name, job, num_threads)
    except (OSError, InputError) as error:
        reason = str(error)
        if isinstance(error, FileNotFoundError) and not job.job_dir.exists():
            reason = f"{platform.node()} has no {job.job_dir}; expected a --data_dir that all workers reach by its path"
        raise _error(file_name, reason) from error


class WorkerProcesses:
    """Processes that fill shards of one job; they end with `close`, and after their shard if this process has ended."""

    def __init__(self, job: ShardJob, num_processes: int) -> None:
        self._idle: list[tuple[Connection, subprocess.Popen[bytes]]] = []
        self._threads = ThreadPoolExecutor(num_processes)  # each waits for a process
        self._job, self._num_threads = job, max(1, num_processors() // num_processes)
        root = str(Path(__file__).parents[2])  # `tfds build` has it on its path only for a while
        code = f"import sys; sys.path = {[root, *sys.path]!r}; from pipeline.job import workers; workers.main()"
        for _ in range(num_processes):
            ours, theirs = multiprocessing.Pipe()
            with theirs:
                command = [sys.executable, "-c", code, str(theirs.fileno())]
                # In a group of its own: a terminal's Ctrl-C is for this process, whose end is theirs.
                process = subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0)
            self._idle.append((ours, process))

    def fill(self, file_name: str) -> Future[ShardCounts]:
        """Has a shard filled by the next idle process; the result raises ShardError if it cannot be."""
        return self._threads.submit(self._fill, file_name)

    def close(self) -> None:
        """Ends the processes, after the shards that they are filling."""
        self._threads.shutdown(cancel_futures=True)
        for connection, process in self._idle:
            connection.close()
            process.wait()

    def _fill(self, file_name: str) -> ShardCounts:
        connection, process = self._idle.pop()
        try:
            connection.send((file_name, self._job, self._num_threads))
            answer = connection.recv()
        except (EOFError, OSError) as error:
            status = process.wait()
            end = "was killed, perhaps for memory" if status < 0 else f"ended with status {status}, see its error"
            raise _error(file_name, f"a worker process {end}") from error
        finally:
            self._idle.append((connection, process))
        if isinstance(answer, ShardError):
            raise answer
        return answer


def main() -> None:
    """A worker process: fills the shards whose names it receives, until its parent has ended."""
    set_environment()
    with Connection(int(sys.argv[1])) as connection, suppress(EOFError, ConnectionError):
        while True:
            shard = connection.recv()
            try:
                answer: ShardCounts | ShardError = fill_shard(*shard)
            except ShardError as error:
                answer = error
            connection.send(answer)
