"""The input benchmark's bar chart: steady rate and first epoch of every reader."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # no display needed
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

_OURS = ("resident", "mapped", "streaming")
_COLORS = {True: ("#b2182b", "#f4a582"), False: ("#4d4d4d", "#bababa")}


def draw(rows: Sequence[Mapping[str, Any]], num_cells: int, path: Path) -> None:
    """Draws a panel a batch size, the fastest reader on top.

    Args:
      rows: cases of `benchmarks.input_throughput`.
      num_cells: which cases are shown.
      path: PNG to write.
    """
    shown = [row for row in rows if row["num_images"] == num_cells and row["images_per_second"]["median"]]
    if not shown:
        return
    sizes = sorted({row["batch_size"] for row in shown})
    num_bars = max(sum(row["batch_size"] == size for row in shown) for size in sizes)
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(7 * len(sizes), 1.4 + 0.42 * num_bars), layout="constrained", squeeze=False
    )
    figure.suptitle(
        f"Reading {num_cells:,} shuffled cells (uint8, 125×125×3 at the default size), warm page cache\n"
        "dark: steady; light: first epoch, with the reader's start-up; red: this project"
    )
    for axis, size in zip(axes[0], sizes, strict=True):
        mine = sorted(
            (row for row in shown if row["batch_size"] == size), key=lambda row: row["images_per_second"]["median"]
        )
        for position, row in enumerate(mine):
            steady, first = row["images_per_second"]["median"], row["first_epoch"]["median"]
            dark, light = _COLORS[row["reader"] in _OURS]
            axis.barh(position + 0.2, steady, 0.4, color=dark)
            axis.barh(position - 0.2, first, 0.4, color=light)
            axis.annotate(f" {steady:,.0f}", (steady, position + 0.2), va="center", fontsize=8)
            axis.annotate(f" {first:,.0f}", (first, position - 0.2), va="center", fontsize=8)
        axis.set(
            xscale="log",
            xlabel="images per second",
            title=f"batch {size}",
            yticks=range(len(mine)),
            yticklabels=[row["reader"] for row in mine],
        )
        axis.margins(x=0.12, y=0.02)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
