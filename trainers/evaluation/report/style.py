"""How pictures look and how they are kept: as PNG on white, and as SVG for light and dark pages."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # no display needed
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

COLOURS = ("#3d7fc4", "#d9822b", "#3f9b5f", "#a35fb5", "#c44e52", "#7f7f7f")
"""Of middle lightness, so that they show on white and on black."""

INK = "#1b1f24"  # becomes the page's own text colour in the SVG
_ENLARGED = 1.25  # points of the figure to pixels of the page
_LEAST_WIDTH = 620  # pixels; on a narrow page a picture is scrolled rather than made illegible
_STYLE: dict[RcKeyType, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.3,
    "grid.color": "#808080",
    "legend.frameon": False,
    "savefig.transparent": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def styled() -> Iterator[None]:
    """The look of all pictures, for a `with` block or as a decorator."""
    with plt.rc_context(_STYLE):
        yield


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG on white."""
    figure.savefig(path, dpi=120, facecolor="white")


def to_svg(figure: Figure, label: str) -> str:
    """A figure as an SVG element for a page, in the page's text colour and font; the figure is closed.

    Args:
      figure: from one of the functions here.
      label: what it shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(font: [\d.]+px) [^\";]+", r"\1 var(--font)", svg)

    def opening(found: re.Match[str]) -> str:
        width, height = map(float, found.groups())
        size = f"max-width:{width * _ENLARGED:.0f}px;min-width:{min(width, _LEAST_WIDTH):.0f}px"
        return f'<svg viewBox="0 0 {width} {height}" style="{size}" role="img" aria-label="{label}"'

    return re.sub(r'<svg [^>]*?viewBox="0 0 ([\d.]+) ([\d.]+)"', opening, svg, count=1)
