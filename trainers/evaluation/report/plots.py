"""The report's plots, from numbers to matplotlib figures, and how they are saved: as PNG, and as SVG for the page."""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from cycler import cycler
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from sklearn import metrics

from pipeline import plot_style
from pipeline.cells import LABELS
from pipeline.plot_style import legend_label
from pipeline.terminal import printable
from trainers.evaluation.metrics import bootstrap, thresholds
from trainers.evaluation.metrics.metrics import NUM_BINS, assign_bins
from trainers.evaluation.predictions import ModelPredictions
from trainers.evaluation_flags import Options
from trainers.run_dir import HistoryRow

_COLOURS = ("#3d7fc4", "#d9822b", "#3f9b5f", "#a35fb5", "#c44e52", "#7f7f7f")  # visible on white and on black
_INK = "#1b1f24"  # becomes the page's own text colour in the SVG
_GREY = "#808080"
_STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=_COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.alpha": 0.3,
    "grid.color": _GREY,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
} | dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), _INK)
_MARKERS = dict(zip(thresholds.NAMES, "oDs^", strict=True))

styled = plot_style.style(_STYLE)


def save(figure: Figure, file: Path | BinaryIO) -> None:
    """Writes a figure as PNG on white."""
    plot_style.save(figure, file, _STYLE, format="png", dpi=120, facecolor="white")


def to_svg(figure: Figure, label: str) -> str:
    """A figure as SVG for a page, in its text colour; the label is the alternative text.

    Each panel of `_two_panels` is an element of its own, so that a narrow page has them one below the other.
    """
    buffer, name = io.BytesIO(), f"figure-{zlib.crc32(label.encode(errors='surrogatepass')):08x}"
    undated = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    plot_style.save(figure, buffer, _STYLE, format="svg", transparent=True, metadata=undated)
    text = buffer.getvalue().decode().replace(f": {_INK}", ": currentColor")
    contents = f'<g id="{name}">{text[text.index("<defs>") : text.rindex("</svg>")]}</g>'
    num_panels = max(1, len(figure.subfigs))
    width, height = figure.get_size_inches() * 72 / (num_panels, 1)  # points
    look = f'style="max-width:{1.25 * width:.0f}px" role="img" aria-label="{escape(printable(label))}"'
    # Each further panel shows another part of the same drawing.
    views = enumerate([contents, *[f'<use href="#{name}"/>'] * (num_panels - 1)])
    return "\n".join(f'<svg viewBox="{i * width} 0 {width} {height}" {look}>{view}</svg>' for i, view in views)


def _two_panels(height: float) -> tuple[Figure, list[SubFigure]]:
    figure = Figure(figsize=(10, height))
    return figure, list(figure.subfigures(1, 2, squeeze=False).flat)


@styled
def roc_and_precision_recall(models: Sequence[ModelPredictions], entries: dict[str, dict[str, Any]]) -> Figure:
    """ROC and precision-recall curves with the operating points that were fitted on validation."""
    figure, panels = _two_panels(4.8)
    roc, recall = (panel.subplots() for panel in panels)
    for number, model in enumerate(models):
        labels, probabilities, *_ = model.predictions
        entry, colour = entries[model.name], _COLOURS[number % len(_COLOURS)]
        fpr, tpr, _ = metrics.roc_curve(labels, probabilities)
        precisions, recalls, _ = metrics.precision_recall_curve(labels, probabilities)
        roc.plot(fpr, tpr, color=colour, label=f"{legend_label(model.name)}, AUC {entry['auc']['value']:.3f}")
        ap = entry["average_precision"]["value"]
        recall.plot(recalls, precisions, color=colour, label=f"{legend_label(model.name)}, AP {ap:.3f}")
        for name, point in entry["operating_points"].items():
            sensitivity, specificity, ppv = (point[key]["value"] for key in ("sensitivity", "specificity", "precision"))
            look: dict[str, Any] = {"color": colour, "markersize": 7, "markeredgecolor": _INK}
            label = None if number else thresholds.TITLES[name]
            roc.plot(1 - specificity, sensitivity, _MARKERS[name], label=label, **look)
            if ppv is not None:
                recall.plot(sensitivity, ppv, _MARKERS[name], **look)
    roc.plot([0, 1], [0, 1], linestyle=":", color=_GREY)
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    recall.set(xlabel="sensitivity (recall)", ylabel="precision", title="Precision and recall")
    for axis in (roc, recall):
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.grid()
    roc.legend(loc="lower right", fontsize=8)
    recall.legend(loc="lower left", fontsize=8)
    return figure


@styled
def reliability(model: ModelPredictions, noun: str, options: Options) -> Figure:
    """Reliability diagrams before and after temperature scaling: a dot, its interval and its cells for each bin."""
    labels, probabilities, _, patient_ids = model.predictions
    columns = {"uncalibrated": probabilities}
    if model.is_calibrated:
        columns["after temperature scaling"] = model.calibrated_probabilities
    figure, panels = _two_panels(5)
    for panel, colour, (name, values) in zip(panels, _COLOURS, columns.items(), strict=False):
        dots, counts = panel.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        bins = assign_bins(values)
        num_cells = np.bincount(bins, minlength=NUM_BINS)
        for number in np.flatnonzero(num_cells):
            is_in = bins == number
            # The fraction of parasitized cells among those of a bin is the precision of "is in this bin".
            sums = bootstrap.Sums(labels, is_in.astype(float), patient_ids)
            interval = bootstrap.estimate([sums], options.num_resamples, ["precision"])
            mean = values[is_in].mean()
            dots.plot(mean, labels[is_in].mean(), "o", color=colour, markersize=4)
            if ends := interval["precision"].ci95:
                dots.plot([mean] * 2, ends, color=colour, linewidth=1)
        dots.plot([0, 1], [0, 1], linestyle=":", color=_GREY)
        dots.set(ylabel="fraction parasitized", title=f"{name}; lines: 95 % over {noun}s", ylim=(-0.03, 1.03))
        dots.grid()
        bars = counts.bar((np.arange(NUM_BINS) + 0.5) / NUM_BINS, num_cells, 0.9 / NUM_BINS, color=colour, alpha=0.6)
        counts.bar_label(bars, [f"{number:,}" for number in num_cells], fontsize=7)
        counts.set(xlabel="predicted probability of parasitized (bars: cells)", yscale="symlog")
        counts.margins(y=0.25)
        counts.yaxis.set_visible(False)
        counts.spines["left"].set_visible(False)
    return figure


@styled
def confusion(counts: dict[str, int], title: str) -> Figure:
    """Confusion matrix."""
    table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    figure = Figure(figsize=(4.2, 3.4))
    axis = figure.subplots()
    display = metrics.ConfusionMatrixDisplay(table, display_labels=LABELS)
    display.plot(ax=axis, cmap="Blues", colorbar=False, values_format=",")
    axis.set(title=title, xlabel="predicted", ylabel="label")
    return figure


@styled
def patients(counts: Sequence[dict[str, Any]], noun: str) -> Figure:
    """Each patient (see `count_by_patient`) as a dot: sensitivity, and false positives per 1,000 uninfected cells."""
    figure, panels = _two_panels(3.8)
    left, right = (panel.subplots() for panel in panels)
    rows = {"infected": [item for item in counts if item["num_parasitized"]]}
    _scatter(left, noun, "sensitivity", "num_parasitized", rows)
    rows = {"infected": [item for item in rows["infected"] if item["num_uninfected"]]}
    rows["uninfected"] = [item for item in counts if not item["num_parasitized"]]
    _scatter(right, noun, "false_positives_per_1000", "num_uninfected", rows)
    area = f"area of a dot: number of the {noun}'s"
    detected, per_1000 = "fraction of parasitized cells detected", "per 1,000 uninfected cells"
    left.set(xlabel=f"{detected}\n({area} parasitized cells)", title=f"Sensitivity by {noun}")
    right.set(xlabel=f"{per_1000}\n({area} uninfected cells)", title=f"False positives by {noun}")
    return figure


def _scatter(axis: Axes, noun: str, column: str, size: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """One row of dots per group of patients, with neighbours at other heights; names the three worst above the row."""
    best = 1 if column == "sensitivity" else 0
    for row, (group, items) in enumerate(rows.items()):
        items = sorted(items, key=lambda item: -abs(item[column] - best))
        values = np.array([item[column] for item in items], float)
        sizes = 8 + 0.8 * np.array([item[size] for item in items], float)
        heights = row + 0.6 * (np.arange(len(items)) * 0.618 % 1 - 0.5)  # multiples of it are far from each other
        colour = _COLOURS[int(group == "infected")]
        axis.scatter(values, heights, s=sizes, color=colour, alpha=0.55, edgecolor=_INK, linewidth=0.5)
        if worst := [item["patient_id"] for item in items[:3] if item[column] != best]:
            text = f"worst: {', '.join(worst)}"
            axis.text(0.01, row + 0.5, text, fontsize=8, va="center", transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(rows)), [f"{group}\n{noun}s" for group in rows])
    axis.set(ylim=(-0.5, len(rows) - 0.3), xlim=(None, max(1, axis.get_xlim()[1])))
    axis.grid(axis="x")


@styled
def learning_curves(histories: dict[str, list[HistoryRow]], title: str = "") -> Figure:
    """Loss and accuracy over the epochs in each run's `history.csv`, at least one, by the run's name."""
    figure, panels = _two_panels(3.8)
    figure.suptitle(title)
    for panel, metric in zip(panels, ("loss", "accuracy"), strict=True):
        axis = panel.subplots()
        for number, (name, history) in enumerate(histories.items()):
            epochs = [row["epoch"] + 1 for row in history]
            best = int(np.argmin([row["val_loss"] for row in history]))
            is_alone = len(histories) == 1
            prefix = "" if is_alone else f"{legend_label(name)}, "
            for dots, kind, column, second in (("o--", "training", "", 0), ("o-", "validation", "val_", 1)):
                colour = _COLOURS[second if is_alone else number % len(_COLOURS)]
                values = [row[f"{column}{metric}"] for row in history]
                axis.plot(epochs, values, dots, markersize=3, color=colour, label=f"{prefix}{kind}")
            axis.plot(epochs[best], values[best], "o", color=colour, markeredgecolor=_INK)
        axis.set(xlabel="epoch (dot: the best by validation loss)", ylabel=metric)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid()
        axis.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # off the lines
    return figure
