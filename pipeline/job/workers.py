"""Worker processes of a local job, each filling one shard at a time.

Threads would share one interpreter lock, which costs a quarter of the speed on two cores and more on more cores. These
are plain processes: multiprocessing's come with a tracker process, which prints a traceback if a job ends early.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.command import num_processors, set_environment
from pipeline.job.plan import ShardJob
from pipeline.job.results import ShardCounts
from pipeline.job.runner_errors import ShardError, fill_shard

_SECONDS_TO_END = 5.0


class WorkerProcesses:
    """Processes that fill shards of one job; they end with `close`, and with this process, whatever ends it."""

    def __init__(self, job: ShardJob, num_processes: int) -> None:
        self._processes: dict[Connection, subprocess.Popen[bytes]] = {}
        self._threads = ThreadPoolExecutor(num_processes)  # each waits for a process
        self._job, self._num_threads = job, max(1, num_processors() // num_processes)
        root = str(Path(__file__).parents[2])  # `tfds build` has it on its path only for a while
        code = f"import sys; sys.path = {[root, *sys.path]!r}; from pipeline.job import workers; workers.main()"
        for _ in range(num_processes):
            ours, theirs = multiprocessing.Pipe()
            with theirs:
                self._processes[ours] = subprocess.Popen(
                    [sys.executable, "-c", code, str(theirs.fileno())],
                    stdin=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # a terminal's Ctrl-C is for this process, whose end is theirs
                )
        self._idle = list(self._processes)

    def fill(self, file_name: str) -> Future[ShardCounts]:
        """Has a shard filled by the next idle process; the result raises ShardError if it cannot be."""
        return self._threads.submit(self._fill, file_name)

    def close(self) -> None:
        """Ends the processes; those that fill a shard remove what they have written of it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes.values():
            process.terminate()
        for connection, process in self._processes.items():
            with process, connection:
                _wait(process)

    def _fill(self, file_name: str) -> ShardCounts:
        connection = self._idle.pop()
        try:
            connection.send((file_name, self._job, self._num_threads))
            answer = connection.recv()
        except (EOFError, OSError) as error:
            status = _wait(self._processes[connection])
            end = "was killed, perhaps for memory" if status < 0 else f"ended with status {status}, see its error"
            raise ShardError.of(file_name, f"a worker process {end}") from error
        finally:
            self._idle.append(connection)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def main() -> None:
    """A worker process: fills the shards whose names it receives, until its parent ends it or has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # an exception, so that unfinished files are removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_environment()
    with Connection(int(sys.argv[1])) as connection, suppress(EOFError, ConnectionError):
        while True:
            shard = connection.recv()
            try:
                answer: ShardCounts | Exception = fill_shard(*shard)
            except Exception as error:
                error.add_note("".join(traceback.format_exception(error)))  # which does not travel by itself
                answer = error
            connection.send(answer)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # ends when the parent does: nobody else holds the other side
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_END)
    os._exit(1)
