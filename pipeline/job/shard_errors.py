"""What goes wrong on a worker, in one line of the job.

Runners hand on a worker's error as their own, with its text in theirs; Beam has no other way to tell what it was.
"""

import logging
import platform
import re

from pipeline.errors import InputError
from pipeline.job.plan import ShardJob
from pipeline.job.results import ShardCounts

_CONTINUES = "; fix that, then the same command continues"
_SHARD = re.compile(f"shard [^ ]* could not be filled: .*?{_CONTINUES}")
_NO_CODE = re.compile("No module named 'pipeline")


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
        return ShardCounts.of(fill.fill_shard(file_name, job, num_threads))
    except (OSError, InputError) as error:
        reason = str(error)
        if isinstance(error, FileNotFoundError) and not job.job_dir.exists():
            reason = f"{platform.node()} has no {job.job_dir}; expected a --data_dir that all workers reach by its path"
        raise ShardError.of(file_name, reason) from error


def explained(text: str) -> str | None:
    """The line that explains an error of a runner by what happened on its workers, None if nothing is known."""
    if found := _SHARD.search(text):
        return found[0]
    if _NO_CODE.search(text):
        return f"the workers have no package pipeline; give them its wheel, for example by --extra_packages{_CONTINUES}"
    return None


def is_unexpected(record: logging.LogRecord) -> bool:
    """A filter for Beam's logs: what ends in one line of the job needs no traceback, which would only hide that."""
    text = f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
    return not ("KeyboardInterrupt" in text or explained(text))
