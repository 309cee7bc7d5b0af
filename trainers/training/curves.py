"""Learning curves: `history.csv` in, a picture out."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # no display needed
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "images_per_second",
    "waiting_share",
)
"""Of `history.csv`."""

Row = dict[str, float]
"""One epoch of `history.csv`; `epoch` counts from 0."""


def read_history(path: Path) -> list[Row]:
    """Reads `history.csv`; empty if there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def write_history(history: Sequence[Row], path: Path) -> None:
    """Writes `history.csv`; it appears whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(history)
    partial.replace(path)


def draw(history: list[Row], title: str, path: Path) -> None:
    """Draws loss and accuracy of training and validation over the epochs, the best epoch marked.

    Args:
      history: see `read_history`; at least one epoch.
      title: stands over the picture.
      path: PNG to write.
    """
    epochs = [row["epoch"] + 1 for row in history]
    best = min(history, key=lambda row: row["val_loss"])["epoch"] + 1
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        axis.plot(epochs, [row[name] for row in history], "o-", label="training", markersize=3)
        axis.plot(epochs, [row[f"val_{name}"] for row in history], "o-", label="validation", markersize=3)
        axis.axvline(best, color="grey", linestyle=":", label=f"best epoch ({best:.0f})")
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
