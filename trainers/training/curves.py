"""Learning curves: a history in, a picture out."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")  # no display needed
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from trainers.run_dir import HistoryRow


def draw(history: list[HistoryRow], title: str, path: Path) -> None:
    """Draws loss and accuracy of training and validation over the epochs, the best epoch marked.

    Args:
      history: see `trainers.run_dir.read_history`; at least one epoch.
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
