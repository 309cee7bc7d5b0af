"""The report's plots, from numbers to matplotlib figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from sklearn import metrics

from pipeline.cells import LABELS
from pipeline.plot_style import legend_label
from trainers.evaluation.metrics import bootstrap, thresholds
from trainers.evaluation.metrics.metrics import NUM_BINS, assign_bins
from trainers.evaluation.predictions import ModelPredictions
from trainers.evaluation.report.style import COLOURS, GREY, INK, styled, two_panels
from trainers.evaluation_flags import Options
from trainers.run_dir import HistoryRow

_GOLDEN_RATIO = 0.618  # its multiples are far from each other
_FOREST_METRICS = {"sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy", "auc": "AUC"}
_MARKERS = dict(zip(thresholds.NAMES, "oDs^", strict=True))


@styled
def forest(entries: dict[str, dict[str, Any]], noun: str) -> Figure:
    """The main metrics of all models of `metrics.json`: value, interval over patients (bold) and over cells (thin)."""
    figure = Figure(figsize=(5, 0.9 + 0.32 * len(_FOREST_METRICS) * (len(entries) + 0.6)))
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
    axis.set_xlabel(f"value; bold: 95 % interval over {noun}s,\nthin: over cells (too narrow)")
    if len(entries) > 1:
        figure.legend(loc="outside upper center", ncols=len(entries))
    return figure


@styled
def roc_and_precision_recall(models: Sequence[ModelPredictions], entries: dict[str, dict[str, Any]]) -> Figure:
    """ROC and precision-recall curves with the operating points that were fitted on validation."""
    figure, panels = two_panels(4.8)
    roc, recall = (panel.subplots() for panel in panels)
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
            look: dict[str, Any] = {"color": colour, "markersize": 7, "markeredgecolor": INK}
            label = None if number else thresholds.TITLES[name]
            roc.plot(1 - specificity, sensitivity, _MARKERS[name], label=label, **look)
            recall.plot(sensitivity, ppv, _MARKERS[name], **look)
    roc.plot([0, 1], [0, 1], linestyle=":", color=GREY)
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
    figure, panels = two_panels(5)
    for panel, colour, (name, values) in zip(panels, COLOURS, columns.items(), strict=False):
        dots, counts = panel.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        bins = assign_bins(values)
        num_cells = np.bincount(bins, minlength=NUM_BINS)
        for number in np.flatnonzero(num_cells):
            is_in = bins == number
            # The fraction of parasitized cells among those of a bin is the precision of "is in this bin".
            sums = bootstrap.Sums(labels, is_in.astype(float), patient_ids)
            interval = bootstrap.estimate([sums], options.num_resamples, options.bootstrap_seed, ["precision"])
            mean = values[is_in].mean()
            dots.plot(mean, labels[is_in].mean(), "o", color=colour, markersize=4)
            if ends := interval["precision"].ci95:
                dots.plot([mean] * 2, ends, color=colour, linewidth=1)
        dots.plot([0, 1], [0, 1], linestyle=":", color=GREY)
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
    """Confusion matrix with counts and fractions of each true class."""
    table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    fractions = table / table.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(4.2, 3.4))
    axis = figure.subplots()
    for row, column in np.ndindex(2, 2):
        colour, fraction = COLOURS[int(row != column)], fractions[row, column]
        axis.add_patch(Rectangle((column, row), 1, 1, color=colour, alpha=0.12 + 0.6 * fraction))
        text = f"{table[row, column]:,}\n{100 * fraction:.1f} %"
        axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=12)
    axis.set(xlim=(0, 2), ylim=(2, 0), title=title, xlabel="predicted", ylabel="label", aspect="equal")
    axis.set_xticks([0.5, 1.5], LABELS)
    axis.set_yticks([0.5, 1.5], LABELS, rotation=90, va="center")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


@styled
def patients(counts: Sequence[dict[str, Any]], noun: str) -> Figure:
    """Each patient (see `patients.count`) as a dot: sensitivity, and false positives per 1,000 uninfected cells."""
    figure, panels = two_panels(3.8)
    left, right = (panel.subplots() for panel in panels)
    infected = [item for item in counts if item["num_parasitized"]]
    uninfected = [item for item in counts if not item["num_parasitized"]]
    _scatter(left, noun, "sensitivity", "num_parasitized", {"infected": infected})
    rows = {"infected": [item for item in infected if item["num_uninfected"]], "uninfected": uninfected}
    _scatter(right, noun, "false_positives_per_1000", "num_uninfected", rows)
    area = f"area of a dot: number of the {noun}'s"
    left.set(xlabel=f"fraction of parasitized cells detected\n({area} parasitized cells)")
    left.set_title(f"Sensitivity by {noun}")
    right.set(xlabel=f"per 1,000 uninfected cells\n({area} uninfected cells)", title=f"False positives by {noun}")
    return figure


def _scatter(axis: Axes, noun: str, column: str, size: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """One row of dots per group of patients, worst first, with neighbours at other heights; names the three worst."""
    best = 1 if column == "sensitivity" else 0
    for row, (group, items) in enumerate(rows.items()):
        items = sorted(items, key=lambda item: -abs(item[column] - best))
        values = np.array([item[column] for item in items], float)
        sizes = 8 + 0.8 * np.array([item[size] for item in items], float)
        heights = row + 0.6 * (np.arange(len(items)) * _GOLDEN_RATIO % 1 - 0.5)
        colour = COLOURS[int(group == "infected")]
        axis.scatter(values, heights, s=sizes, color=colour, alpha=0.55, edgecolor=INK, linewidth=0.5)
        for item, x, y in zip(items[:3], values, heights, strict=False):
            if x != best:
                axis.annotate(item["patient_id"], (x, y), (0, 7), textcoords="offset points", fontsize=8, ha="center")
    axis.set_yticks(range(len(rows)), [f"{group}\n{noun}s" for group in rows])
    axis.set(ylim=(-0.6, len(rows) - 0.4), xlim=(None, max(1, axis.get_xlim()[1])))
    axis.grid(axis="x")


@styled
def learning_curves(histories: dict[str, list[HistoryRow]], title: str = "") -> Figure:
    """Loss and accuracy of training and validation over the epochs, the best epoch of each run marked by a dot.

    Args:
      histories: `history.csv` of each run by its name; at least one epoch each.
      title: text above the plot.
    """
    figure, panels = two_panels(3.8)
    figure.suptitle(title)
    for panel, metric in zip(panels, ("loss", "accuracy"), strict=True):
        axis = panel.subplots()
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
            axis.plot(epochs[best], values[best], "o", color=validation, markeredgecolor=INK)
        axis.set(xlabel="epoch (dot: the best by validation loss)", ylabel=metric)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid()
        axis.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # off the lines
    return figure


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
