"""The pictures of the report: numbers in, matplotlib figures out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn import metrics

from pipeline.cells import LABELS
from trainers.evaluation.metrics import calibration, operating_points
from trainers.evaluation.model_predictions import ModelPredictions
from trainers.evaluation.report.style import COLOURS, INK, plt, styled
from trainers.run_dir import HistoryRow

SHOWN = ("sensitivity", "specificity", "accuracy", "auc")
_MARKERS = {"default": "o", "youden": "D", "specificity_95": "s", "sensitivity_95": "^"}


@styled()
def forest(entries: dict[str, dict[str, Any]]) -> Figure:
    """The main metrics of all models: value, interval over patients (bold), interval over cells (thin).

    Args:
      entries: the models of `metrics.json`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 0.7 + 0.32 * len(SHOWN) * (len(entries) + 0.6)))
    place, ticks = 0.0, []
    for name in SHOWN:
        first = place
        for colour, (model, item) in zip(_cycled(len(entries)), entries.items(), strict=True):
            label = model if name == SHOWN[0] else None
            if item["ci95_by_cell"][name]:
                axis.plot(item["ci95_by_cell"][name], [place + 0.22] * 2, color=colour, linewidth=1, alpha=0.8)
            if item[name]["ci95"]:
                axis.plot(item[name]["ci95"], [place] * 2, color=colour, linewidth=4, alpha=0.55, solid_capstyle="butt")
            axis.plot(item[name]["value"], place, "o", color=colour, markersize=6, label=label)
            place += 1
        ticks.append(((first + place - 1) / 2, name))
        place += 0.6
    axis.set_yticks([tick for tick, _ in ticks], [name.upper() if name == "auc" else name for _, name in ticks])
    axis.invert_yaxis()
    axis.grid(axis="x")
    axis.set_xlim(right=1.0)
    axis.set_xlabel("value; bold: 95 % interval over patients, thin: over cells (too narrow)")
    if len(entries) > 1:
        figure.legend(loc="outside upper center", ncols=len(entries))
    return figure


@styled()
def roc_and_precision_recall(judged: Sequence[ModelPredictions], entries: dict[str, dict[str, Any]]) -> Figure:
    """ROC and precision-recall curves with the operating points that were chosen on validation."""
    figure, (roc, recall) = plt.subplots(1, 2, figsize=(10, 4.6))
    for colour, item in zip(_cycled(len(judged)), judged, strict=True):
        labels, probabilities = item.predictions[:2]
        entry = entries[item.name]
        fpr, tpr, _ = metrics.roc_curve(labels, probabilities)
        precision, found, _ = metrics.precision_recall_curve(labels, probabilities)
        roc.plot(fpr, tpr, color=colour, label=f"{item.name}, AUC {entry['auc']['value']:.3f}")
        recall.plot(found, precision, color=colour, label=f"{item.name}, AP {entry['average_precision']['value']:.3f}")
        for name, point in entry["operating_points"].items():
            sensitivity, specificity, ppv = (point[key]["value"] for key in ("sensitivity", "specificity", "precision"))
            label = operating_points.TITLES[name] if item is judged[0] else None
            style = {
                "color": colour,
                "marker": _MARKERS[name],
                "linestyle": "",
                "markersize": 7,
                "markeredgecolor": INK,
            }
            roc.plot(1 - specificity, sensitivity, label=label, **style)
            recall.plot(sensitivity, ppv, **style)
    roc.plot([0, 1], [0, 1], linestyle=":", color="#808080")
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    recall.set(xlabel="sensitivity (recall)", ylabel="precision", title="Precision and recall")
    for axis in (roc, recall):
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.grid()
        axis.legend(loc="lower right" if axis is roc else "lower left", fontsize=8)
    return figure


@styled()
def reliability(item: ModelPredictions) -> Figure:
    """Probability said against share found, before and after temperature scaling, with the number of cells a bin."""
    labels, probabilities = item.predictions[:2]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    versions = [("as it comes", probabilities)]
    if all(choice.split for choice in item.choices):
        versions.append(("after temperature scaling", item.scaled_probabilities))
    for name, values in versions:
        bins = calibration.reliability(labels, values)
        left.plot(bins.said, bins.found, "o-", label=name, markersize=4)
        right.hist(values, bins=np.linspace(0, 1, 16), histtype="step", linewidth=1.5, label=name)
    left.plot([0, 1], [0, 1], linestyle=":", color="#808080")
    left.set(xlabel="probability said", ylabel="share parasitized", title="Reliability", aspect="equal")
    right.set(xlabel="probability said", ylabel="cells", title="How often it is said", yscale="log")
    for axis in (left, right):
        axis.grid()
    left.legend(loc="upper left", fontsize=8)
    return figure


@styled()
def confusion(counts: dict[str, int], title: str) -> Figure:
    """Confusion matrix with counts and shares of each true class."""
    table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    shares = table / table.sum(axis=1, keepdims=True)
    figure, axis = plt.subplots(figsize=(4.2, 3.4))
    for row in range(2):
        for column in range(2):
            colour = COLOURS[0] if row == column else COLOURS[1]
            axis.add_patch(plt.Rectangle((column, row), 1, 1, color=colour, alpha=0.12 + 0.6 * shares[row, column]))
            text = f"{table[row, column]:,}\n{100 * shares[row, column]:.1f} %"
            axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=12)
    axis.set(xlim=(0, 2), ylim=(2, 0), title=title, xlabel="called", ylabel="labelled", aspect="equal")
    axis.set_xticks([0.5, 1.5], LABELS)
    axis.set_yticks([0.5, 1.5], LABELS, rotation=90, va="center")
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return figure


@styled()
def patient_strip(patients: Sequence[dict[str, Any]]) -> Figure:
    """Each patient as a dot of the size of its cells: sensitivity, and false positives of 1,000 uninfected cells.

    Args:
      patients: the table of `metrics.json`.
    """
    figure, (top, bottom) = plt.subplots(1, 2, figsize=(10, 3.6))
    rng = np.random.default_rng(0)  # only for the dots not to cover each other
    infected = [item for item in patients if item["sensitivity"] is not None]
    for axis, column, members, size in (
        (top, "sensitivity", [("infected", infected)], "num_parasitized"),
        (
            bottom,
            "false_positives_per_1000",
            [
                ("infected", [item for item in patients if item["num_parasitized"] and item["num_uninfected"]]),
                ("uninfected", [item for item in patients if not item["num_parasitized"]]),
            ],
            "num_uninfected",
        ),
    ):
        for row, (name, items) in enumerate(members):
            values = np.array([item[column] for item in items], float)
            sizes = np.array([item[size] for item in items], float)
            colour = COLOURS[1] if name == "infected" else COLOURS[0]
            heights = row + rng.uniform(-0.22, 0.22, len(items))
            axis.scatter(values, heights, s=8 + sizes * 0.8, color=colour, alpha=0.55, edgecolor=INK, linewidth=0.5)
            _name_extremes(axis, items, values, heights, column)
        axis.set_yticks(range(len(members)), [f"{name}\npatients" for name, _ in members])
        axis.set_ylim(-0.6, len(members) - 0.4)
        axis.grid(axis="x")
    top.set(xlabel="share of a patient's parasitized cells that is found", title="Sensitivity by patient")
    bottom.set(xlabel="of 1,000 uninfected cells of a patient", title="False positives by patient")
    return figure


def _name_extremes(
    axis: Axes, items: Sequence[dict[str, Any]], values: np.ndarray, heights: np.ndarray, column: str
) -> None:
    worst = np.argsort(values if column == "sensitivity" else -values)[:3]
    for i in worst:
        axis.annotate(
            items[i]["patient_id"],
            (values[i], heights[i]),
            xytext=(0, 7),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )


@styled()
def learning_curves(histories: Sequence[tuple[str, list[HistoryRow]]]) -> Figure:
    """Loss and accuracy over the epochs of one or several runs, best epochs marked.

    Args:
      histories: name and `history.csv` of each run.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
        for number, (name, history) in enumerate(histories):
            epochs = [row["epoch"] + 1 for row in history]
            best = int(np.argmin([row["val_loss"] for row in history]))
            alone = len(histories) == 1
            training, validation = (COLOURS[0], COLOURS[1]) if alone else (COLOURS[number % len(COLOURS)],) * 2
            prefix = "" if alone else f"{name}, "
            axis.plot(epochs, [row[metric] for row in history], "--", color=training, label=f"{prefix}training")
            checked = [row[f"val_{metric}"] for row in history]
            axis.plot(epochs, checked, "-", color=validation, label=f"{prefix}validation")
            axis.plot(epochs[best], checked[best], "o", color=validation, markeredgecolor=INK)
        axis.set(xlabel="epoch (dot: the one that is kept)", ylabel=metric)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid()
    axes[0].legend(fontsize=8)
    return figure


def _cycled(number: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(number)]
