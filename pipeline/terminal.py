"""What commands print: progress, and text that a terminal shows and never obeys, whatever names are in it."""

import io
import sys
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


def printable(text: object) -> str:
    """One line of text with control characters, lone surrogates and other invisible characters as Python escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(text)
    )


def quantity(number: int, noun: str) -> str:
    """A number with its noun: `1 cell`, `27,558 cells`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def csv_text(text: str) -> str:
    """Text for a CSV, with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def say(*lines: object, to_stderr: bool = False) -> None:
    """Prints lines, each made printable, and flushes."""
    print(*map(printable, lines), sep="\n", file=sys.stderr if to_stderr else sys.stdout, flush=True)


class _Lines(tqdm):
    """A tqdm that prints plain lines, for logs and pipes."""

    last_printed = 0

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n > max(self.initial, self.last_printed):  # not the start, and the end once
            self.last_printed = self.n
            print(msg or str(self), file=sys.stderr, flush=True)


def progress_bar(total: int | None, description: str, unit: str, **tqdm_arguments: Any) -> tqdm:
    """A tqdm on standard error that counts `unit`; elsewhere than on a terminal a line every ten seconds."""
    tqdm_arguments |= {"total": total, "desc": printable(description), "unit": f" {unit}", "smoothing": 0.1}
    if sys.stderr.isatty():
        return tqdm(file=sys.stderr, **tqdm_arguments)
    # `miniters`: else tqdm's own thread prints lines between; `file`: for the line break by which it leaves a bar.
    plain = {"mininterval": _SECONDS_BETWEEN_LINES, "miniters": 1, "ncols": 0, "file": io.StringIO()}
    return _Lines(**plain, **tqdm_arguments)
