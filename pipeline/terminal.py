"""What commands print: text that a terminal shows and never obeys, whatever names are in it."""

import sys


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
