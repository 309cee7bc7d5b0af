"""What goes wrong on a runner and its workers, in one line.

Runners hand on a worker's error as their own, with its text in theirs; Beam has no other way to tell what it was.
"""

import logging
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.errors import InputError
from pipeline.job.plan import ShardJob
from pipeline.job.results import ShardCounts

_CONTINUES = "; fix that, then the same command continues"
_SHARD = re.compile(f"shard [^ ]* could not be filled: .*?{_CONTINUES}")


class ShardError(Exception):
    """A shard could not be filled; the message is one line."""

    @classmethod
    def of(cls, file_name: str, reason: object) -> "ShardError":
        """The error of a shard."""
        return cls(f"shard {file_name} could not be filled: {' '.join(str(reason).split())}{_CONTINUES}")


def fill_shard(file_name: str, job: ShardJob, num_threads: int | None = None) -> ShardCounts:
    """Fills one shard, see `fill.fill_shard`; raises ShardError if it cannot be."""
    from pipeline.job import fill  # OpenCV is only for processes that decode

    try:
        return fill.fill_shard(file_name, job, num_threads)
    except (OSError, InputError) as error:
        reason = str(error)
        if isinstance(error, FileNotFoundError) and not job.job_dir.exists():
            reason = f"{platform.node()} has no {job.job_dir}; expected a --data_dir that all workers reach by its path"
        raise ShardError.of(file_name, reason) from error


@contextmanager
def explained_runner_errors(pipeline_options: Sequence[str]) -> Iterator[None]:
    """Turns a runner's error in the block into an InputError, and keeps what that explains out of the logs."""
    loggers = [logging.getLogger(), logging.getLogger("apache_beam.runners.common")]
    for logger in loggers:
        logger.addFilter(_is_unexpected)
    try:
        yield
    except Exception as error:
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        if message := _explanation(str(error)):
            raise InputError(message) from error
        if not any(option.startswith("--runner=") for option in pipeline_options):
            raise
        lines = str(error).strip().splitlines() or ["no answer"]
        causes = [line.strip() for line in lines if "details = " in line or line.startswith("Caused by: ")]
        reason = (causes or lines)[-1]  # gRPC's or Java's, or the last of a traceback
        raise InputError(
            f"the runner failed: {type(error).__name__}: {reason}; check "
            f"--pipeline_options={','.join(pipeline_options)}, then the same command continues"
        ) from error
    finally:
        for logger in loggers:
            logger.removeFilter(_is_unexpected)


def _explanation(text: str) -> str | None:
    """The line that explains an error of a runner by what happened on its workers."""
    if shard := _SHARD.search(text):
        return shard[0]
    if "No module named 'pipeline" in text:
        return f"the workers have no package pipeline; give them its wheel, for example by --extra_packages{_CONTINUES}"
    return None


def _is_unexpected(record: logging.LogRecord) -> bool:
    if record.module == "portable_runner" and record.levelno == logging.ERROR:
        return False  # a job server's, with its stack trace; the exception repeats it
    text = f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
    return not ("KeyboardInterrupt" in text or _explanation(text))
