"""SIGTERM (a machine that is taken away) and Ctrl-C end a training after its step, with a checkpoint."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

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

    with _handling({signal.SIGTERM: note, signal.SIGINT: note}):
        yield request


def run_trainer(command: Sequence[str]) -> int:
    """Runs a trainer, which gets SIGTERM passed on and alone answers to Ctrl-C; returns its exit status."""
    trainer = subprocess.Popen(command)
    with trainer, _handling({signal.SIGTERM: lambda *_: trainer.terminate(), signal.SIGINT: signal.SIG_IGN}):
        return trainer.wait()


@contextmanager
def _handling(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
