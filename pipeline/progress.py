"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class _Lines(tqdm):
    """A tqdm that prints whole lines, for logs and pipes."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        print(msg or str(self), file=sys.stderr, flush=True)


def progress_bar(total: int | None, description: str, unit: str, **tqdm_arguments: Any) -> tqdm:
    """A progress bar on standard error with rate and remaining time.

    Args:
      total: number of units to come, None if unknown.
      description: stands before the bar.
      unit: what is counted, such as "cells".
      **tqdm_arguments: passed on to tqdm.

    Returns:
      a tqdm to `update` and to close (it is a context manager). Where standard error is no terminal
      it prints a plain line every ten seconds and one at the end.
    """
    on_terminal = sys.stderr.isatty()
    if not on_terminal:
        tqdm_arguments |= {
            "mininterval": _SECONDS_BETWEEN_LINES,
            "maxinterval": _SECONDS_BETWEEN_LINES,
            "ncols": 100,
        }
    kind = tqdm if on_terminal else _Lines
    return kind(total=total, desc=description, unit=f" {unit}", file=sys.stderr, smoothing=0.1, **tqdm_arguments)
