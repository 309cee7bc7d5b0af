"""SIGTERM (a machine that is taken away) and Ctrl-C end a training after its step, with a checkpoint."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command again continues
INTERRUPTED = 130


class StopRequest:
    """Whether, and with which exit status, the process was told to end."""

    status: int | None = None

    def __bool__(self) -> bool:
        return self.status is not None

    def end_call(self) -> None:
        """To be called after each call of the compiled function."""


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """While the block runs, the first SIGTERM or Ctrl-C is only noted; a second Ctrl-C raises KeyboardInterrupt."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        request.status = PREEMPTED if number == signal.SIGTERM else INTERRUPTED
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this step, with a checkpoint; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_trainer(command: Sequence[str]) -> int:
    """Runs a trainer, which gets SIGTERM passed on and alone answers to Ctrl-C; returns its exit status."""
    with subprocess.Popen(command) as trainer:
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: trainer.terminate()),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        }
        try:
            return trainer.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
