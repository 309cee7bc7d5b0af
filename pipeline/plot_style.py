"""How plots treat text: names come from outside, and are neither mathematics nor hidden by a leading underscore."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.terminal import printable, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = {"text.parse_math": False, "text.usetex": False, "figure.constrained_layout.use": True}


@contextmanager
def style(rc_params: dict[Any, Any] | None = None) -> Iterator[None]:
    """Matplotlib's settings for all plots, and more of them; also a decorator."""
    from matplotlib import rc_context  # takes a second, which mistakes need not wait for

    with rc_context(_STYLE | (rc_params or {})), warnings.catch_warnings():
        # Chinese names have no glyphs in the font, and very long ones leave no room.
        warnings.filterwarnings("ignore", "Glyph .* missing from|constrained_layout not applied", UserWarning)
        yield


@contextmanager
def optional(name: str, failures: dict[str, str] | None = None) -> Iterator[None]:
    """Turns a fault in what makes a plot or a page into a warning, since a picture never decides over a result.

    The warning is printed, or put into `failures` under the name of the file or of the part of the report.
    """
    try:
        yield
    except Exception as error:  # whatever it is, the numbers are the same without the picture
        text = printable(f"{name} could not be made: {type(error).__name__}: {error}")
        if failures is None:
            say(f"warning: {text}", to_stderr=True)
        else:
            failures[name] = text


def legend_label(name: str) -> str:
    """A name as matplotlib shows it in a legend, which would leave out one that begins with `_`."""
    return f" {name}" if name.startswith("_") else name


def save(figure: "Figure", file: Path | BinaryIO, rc_params: dict[Any, Any] | None = None, **options: Any) -> None:
    """Writes a figure by `savefig` with its options; control characters become escapes, which SVG cannot hold."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text("\n".join(map(printable, text.get_text().split("\n"))))
    with style(rc_params):
        figure.savefig(file, **options)
