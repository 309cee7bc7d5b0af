"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import io
import sys
from typing import Any

from tqdm import tqdm

from pipeline.terminal import printable

_SECONDS_BETWEEN_LINES = 10.0


class _Lines(tqdm):
    """A tqdm that prints plain lines, for logs and pipes."""

    last_printed = 0

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n > max(self.initial, self.last_printed):  # not the start, and the end once
            self.last_printed = self.n
            print(msg or str(self), file=sys.stderr, flush=True)


def progress_bar(total: int | None, description: str, unit: str, **tqdm_arguments: Any) -> tqdm:
    """A tqdm on standard error, with rate and remaining time; `unit` is what it counts, such as "cells".

    Where standard error is not a terminal it prints a line every ten seconds and one at the end.
    """
    tqdm_arguments |= {"total": total, "desc": printable(description), "unit": f" {unit}", "smoothing": 0.1}
    if sys.stderr.isatty():
        return tqdm(file=sys.stderr, **tqdm_arguments)
    return _Lines(
        file=io.StringIO(),  # for the line break by which tqdm leaves a bar
        mininterval=_SECONDS_BETWEEN_LINES,
        miniters=1,  # else tqdm's own thread prints lines between
        ncols=0,  # numbers without the bar
        **tqdm_arguments,
    )
