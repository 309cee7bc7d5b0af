"""The report's plots, from numbers to matplotlib figures, and how figures are saved: as PNG and as SVG for the page."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO
from xml.dom import minidom

import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from sklearn import metrics
from sklearn.calibration import calibration_curve

from pipeline import plot_style
from pipeline.cells import LABELS
from pipeline.plot_style import legend_label
from pipeline.terminal import printable
from trainers.evaluation.metrics import thresholds
from trainers.evaluation.metrics.metrics import NUM_BINS
from trainers.evaluation.predictions import ModelPredictions
from trainers.run_dir import HistoryRow

_COLOURS = ("#3d7fc4", "#d9822b", "#3f9b5f", "#a35fb5", "#c44e52", "#7f7f7f")  # visible on white and on black
_INK = "#1b1f24"  # becomes the page's own text colour in the SVG
_GREY = "#808080"
_PAGE_SCALE = 1.25  # pixels of the page per point of the figure
_MIN_WIDTH = 620  # pixels; on a narrower page a plot is scrolled rather than made illegible
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
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_FOREST_METRICS = {"sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy", "auc": "AUC"}
_MARKERS = dict(zip(thresholds.NAMES, "oDs^", strict=True))


style = plot_style.style(_STYLE)


def save(figure: Figure, file: Path | BinaryIO) -> None:
    """Writes a figure as PNG on white."""
    plot_style.save(figure, file, _STYLE, format="png", dpi=120, facecolor="white")


def to_svg(figure: Figure, label: str) -> str:
    """A figure as an SVG element for a page, in the page's text colour; the label is its alternative text."""
    buffer = io.BytesIO()
    plot_style.save(figure, buffer, _STYLE, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = minidom.parseString(buffer.getvalue()).getElementsByTagName("svg")[0]
    for element in svg.getElementsByTagName("*"):
        if css := element.getAttribute("style"):
            element.setAttribute("style", css.replace(_INK, "currentColor"))
    width = float(svg.getAttribute("width").removesuffix("pt"))
    for side in ("width", "height"):
        svg.removeAttribute(side)
    size = f"max-width:{width * _PAGE_SCALE:.0f}px;min-width:{min(width, _MIN_WIDTH):.0f}px"
    for name, value in {"style": size, "role": "img", "aria-label": printable(label)}.items():
        svg.setAttribute(name, value)
    return svg.toxml()


@style
def forest(entries: dict[str, dict[str, Any]]) -> Figure:
    """The main metrics of all models of `metrics.json`: value, interval over patients (bold) and over cells (thin)."""
    figure = Figure(figsize=(7.5, 0.7 + 0.32 * len(_FOREST_METRICS) * (len(entries) + 0.6)))
    axis = figure.subplots()
    height, ticks = 0.0, []
    for metric in _FOREST_METRICS:
        ticks.append(height + (len(entries) - 1) / 2)
        for number, (name, entry) in enumerate(entries.items()):
            colour = _colour(number)
            if ends := entry["ci95_by_cell"][metric]:
                axis.plot(ends, [height + 0.22] * 2, color=colour, linewidth=1, alpha=0.8)
            if ends := entry[metric]["ci95"]:
                axis.plot(ends, [height] * 2, color=colour, linewidth=4, alpha=0.55, solid_capstyle="butt")
            label = legend_label(name) if len(ticks) == 1 else None
            axis.plot(entry[metric]["value"], height, "o", color=colour, markersize=6, label=label)
            height += 1
        height += 0.6
    axis.set_yticks(ticks, list(_FOREST_METRICS.values()))
    axis.invert_yaxis()
    axis.grid(axis="x")
    axis.set_xlim(right=1.0)
    axis.set_xlabel("value; bold: 95 % interval over patients, thin: over cells (too narrow)")
    if len(entries) > 1:
        figure.legend(loc="outside upper center", ncols=len(entries))
    return figure


@style
def roc_and_precision_recall(models: Sequence[ModelPredictions], entries: dict[str, dict[str, Any]]) -> Figure:
    """ROC and precision-recall curves with the operating points that were fitted on validation."""
    figure = Figure(figsize=(10, 4.6))
    roc, recall = figure.subplots(1, 2)
    for number, model in enumerate(models):
        labels, probabilities, *_ = model.predictions
        entry, colour = entries[model.name], _colour(number)
        fpr, tpr, _ = metrics.roc_curve(labels, probabilities)
        precisions, recalls, _ = metrics.precision_recall_curve(labels, probabilities)
        roc.plot(fpr, tpr, color=colour, label=f"{legend_label(model.name)}, AUC {entry['auc']['value']:.3f}")
        ap = entry["average_precision"]["value"]
        recall.plot(recalls, precisions, color=colour, label=f"{legend_label(model.name)}, AP {ap:.3f}")
        for name, point in entry["operating_points"].items():
            sensitivity, specificity, ppv = (point[key]["value"] for key in ("sensitivity", "specificity", "precision"))
            style = {"color": colour, "markersize": 7, "markeredgecolor": _INK}
            label = None if number else thresholds.TITLES[name]
            roc.plot(1 - specificity, sensitivity, _MARKERS[name], label=label, **style)
            recall.plot(sensitivity, ppv, _MARKERS[name], **style)
    roc.plot([0, 1], [0, 1], linestyle=":", color=_GREY)
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    recall.set(xlabel="sensitivity (recall)", ylabel="precision", title="Precision and recall")
    for axis, place in ((roc, "lower right"), (recall, "lower left")):
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.grid()
        axis.legend(loc=place, fontsize=8)
    return figure


@style
def reliability(model: ModelPredictions) -> Figure:
    """Reliability diagram before and after temperature scaling, with the number of cells by probability."""
    labels, probabilities, *_ = model.predictions
    figure = Figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2)
    curves = {"uncalibrated": probabilities}
    if model.is_calibrated:
        curves["after temperature scaling"] = model.calibrated_probabilities
    for name, values in curves.items():
        fractions, means = calibration_curve(labels, values, n_bins=NUM_BINS)
        left.plot(means, fractions, "o-", label=name, markersize=4)
        right.hist(values, bins=np.linspace(0, 1, NUM_BINS + 1), histtype="step", linewidth=1.5, label=name)
    left.plot([0, 1], [0, 1], linestyle=":", color=_GREY)
    left.set(xlabel="predicted probability", ylabel="fraction parasitized", title="Reliability", aspect="equal")
    right.set(xlabel="predicted probability", ylabel="cells", title="Number of cells", yscale="log")
    right.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))  # the default one writes mathematics
    right.yaxis.set_minor_formatter(NullFormatter())
    for axis in (left, right):
        axis.grid()
    left.legend(loc="upper left", fontsize=8)
    return figure


@style
def confusion(counts: dict[str, int], title: str) -> Figure:
    """Confusion matrix with counts and fractions of each true class."""
    table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    fractions = table / table.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(4.2, 3.4))
    axis = figure.subplots()
    for row, column in np.ndindex(2, 2):
        colour, fraction = _COLOURS[int(row != column)], fractions[row, column]
        axis.add_patch(Rectangle((column, row), 1, 1, color=colour, alpha=0.12 + 0.6 * fraction))
        text = f"{table[row, column]:,}\n{100 * fraction:.1f} %"
        axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=12)
    axis.set(xlim=(0, 2), ylim=(2, 0), title=title, xlabel="predicted", ylabel="label", aspect="equal")
    axis.set_xticks([0.5, 1.5], LABELS)
    axis.set_yticks([0.5, 1.5], LABELS, rotation=90, va="center")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


@style
def patients(counts: Sequence[dict[str, Any]]) -> Figure:
    """Each patient (see `patients.count`) as a dot: sensitivity, and false positives per 1,000 uninfected cells."""
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    rng = np.random.default_rng(0)  # only for the dots not to cover each other
    infected = [item for item in counts if item["num_parasitized"]]
    uninfected = [item for item in counts if not item["num_parasitized"]]
    _scatter(left, rng, "sensitivity", "num_parasitized", {"infected": infected})
    rows = {"infected": [item for item in infected if item["num_uninfected"]], "uninfected": uninfected}
    _scatter(right, rng, "false_positives_per_1000", "num_uninfected", rows)
    left.set(xlabel="fraction of a patient's parasitized cells detected", title="Sensitivity by patient")
    right.set(xlabel="per 1,000 uninfected cells of a patient", title="False positives by patient")
    return figure


def _scatter(
    axis: Axes, rng: np.random.Generator, column: str, size: str, rows: dict[str, list[dict[str, Any]]]
) -> None:
    """One row of dots per group of patients; the three worst are named."""
    for row, (group, items) in enumerate(rows.items()):
        values = np.array([item[column] for item in items], float)
        sizes = 8 + 0.8 * np.array([item[size] for item in items], float)
        heights = row + rng.uniform(-0.22, 0.22, len(items))
        colour = _COLOURS[int(group == "infected")]
        axis.scatter(values, heights, s=sizes, color=colour, alpha=0.55, edgecolor=_INK, linewidth=0.5)
        for i in np.argsort(values if column == "sensitivity" else -values)[:3]:
            place = (values[i], heights[i])
            axis.annotate(items[i]["patient_id"], place, (0, 7), textcoords="offset points", fontsize=8, ha="center")
    axis.set_yticks(range(len(rows)), [f"{group}\npatients" for group in rows])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.grid(axis="x")


@style
def learning_curves(histories: dict[str, list[HistoryRow]], title: str = "") -> Figure:
    """Loss and accuracy of training and validation over the epochs, the best epoch of each run marked by a dot.

    Args:
      histories: `history.csv` of each run by its name; at least one epoch each.
      title: text above the plot.
    """
    figure = Figure(figsize=(10, 3.6))
    figure.suptitle(title)
    for axis, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, (name, history) in enumerate(histories.items()):
            epochs = [row["epoch"] + 1 for row in history]
            best = int(np.argmin([row["val_loss"] for row in history]))
            is_alone = len(histories) == 1
            prefix = "" if is_alone else f"{legend_label(name)}, "
            training, validation = (_colour(0), _colour(1)) if is_alone else (_colour(number),) * 2
            axis.plot(
                epochs, [row[metric] for row in history], "o--", markersize=3, color=training, label=f"{prefix}training"
            )
            values = [row[f"val_{metric}"] for row in history]
            axis.plot(epochs, values, "o-", markersize=3, color=validation, label=f"{prefix}validation")
            axis.plot(epochs[best], values[best], "o", color=validation, markeredgecolor=_INK)
        axis.set(xlabel="epoch (dot: the best by validation loss)", ylabel=metric)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid()
    figure.axes[0].legend(fontsize=8)
    return figure


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
