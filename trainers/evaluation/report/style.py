"""How the report's figures look, and how they are saved: as PNG, and as SVG in the text colour of the page."""

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO
from xml.dom import minidom

from cycler import cycler
from matplotlib.figure import Figure, SubFigure

from pipeline import plot_style
from pipeline.terminal import printable

COLOURS = ("#3d7fc4", "#d9822b", "#3f9b5f", "#a35fb5", "#c44e52", "#7f7f7f")  # visible on white and on black
INK = "#1b1f24"  # becomes the page's own text colour in the SVG
GREY = "#808080"
_PAGE_SCALE = 1.25  # pixels of the page per point of the figure
_STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.alpha": 0.3,
    "grid.color": GREY,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
} | dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK)
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

styled = plot_style.style(_STYLE)


def save(figure: Figure, file: Path | BinaryIO) -> None:
    """Writes a figure as PNG on white."""
    plot_style.save(figure, file, _STYLE, format="png", dpi=120, facecolor="white")


def to_svg(figure: Figure, label: str) -> str:
    """A figure as SVG elements for a page, in the page's text colour; the label is their alternative text.

    Each panel of `two_panels` has an element of its own, so that a narrow page has them one below the other.
    """
    buffer = io.BytesIO()
    plot_style.save(figure, buffer, _STYLE, format="svg", transparent=True, metadata=_NO_METADATA)
    document = minidom.parseString(buffer.getvalue())
    svg, use = document.getElementsByTagName("svg")[0], document.createElement("use")
    for element in svg.getElementsByTagName("*"):
        if css := element.getAttribute("style"):
            element.setAttribute("style", css.replace(INK, "currentColor"))
    num_panels = max(1, len(figure.subfigs))
    width, height = (float(svg.getAttribute(side).removesuffix("pt")) for side in ("width", "height"))
    width /= num_panels
    for side in ("width", "height"):
        svg.removeAttribute(side)
    name = f"figure-{zlib.crc32(label.encode(errors='surrogatepass')):08x}"
    svg.getElementsByTagName("g")[0].setAttribute("id", name)
    use.setAttribute("href", f"#{name}")
    size = f"max-width:{width * _PAGE_SCALE:.0f}px"
    for attribute, value in {"style": size, "role": "img", "aria-label": printable(label)}.items():
        svg.setAttribute(attribute, value)
    texts = []
    for panel in range(num_panels):
        svg.setAttribute("viewBox", f"{panel * width} 0 {width} {height}")
        texts.append(svg.toxml())
        while svg.firstChild:  # the next panel shows another part of the same drawing
            svg.removeChild(svg.firstChild)
        svg.appendChild(use)
    return "\n".join(texts)


def two_panels(height: float) -> tuple[Figure, list[SubFigure]]:
    """A figure of a height in inches with two panels side by side."""
    figure = Figure(figsize=(10, height))
    return figure, list(figure.subfigures(1, 2, squeeze=False).flat)
