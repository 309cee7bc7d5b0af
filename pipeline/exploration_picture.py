"""The picture of a data set: an `Exploration` in, a matplotlib figure out."""

import matplotlib

matplotlib.use("agg")  # no display needed
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.cells import LABELS
from pipeline.exploration import NUM_SAMPLES, Exploration
from pipeline.records.manifest import SIZE_BIN_PX

_COLOURS = ("#3d7fc4", "#d9822b")
_GRID = int(NUM_SAMPLES**0.5)


def draw(exploration: Exploration) -> Figure:
    """Class counts and patients by split, sizes, cells per patient, colours, and labelled sample cells."""
    figure = plt.figure(figsize=(16, 9), layout="constrained")
    figure.suptitle(exploration.name)
    numbers, cells = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.25, 1)).flat
    axes = numbers.subplots(3, 2)
    _classes(axes[0, 0], exploration)
    _patients(axes[0, 1], exploration)
    for axis, side in zip(axes[1], ("height", "width"), strict=True):
        _sizes(axis, exploration, side)
    _cells_per_patient(axes[2, 0], exploration)
    _colours(axes[2, 1], exploration)
    cells.suptitle(f"{len(exploration.samples)} cells of {exploration.training_split}, as they are stored", fontsize=11)
    grid = cells.subplots(_GRID, _GRID)
    for axis in grid.flat:
        axis.axis("off")
    for axis, cell in zip(grid.flat, exploration.samples, strict=False):
        axis.imshow(cell.image)
        axis.set_title(f"{LABELS[cell.label]}, {cell.patient_id or 'patient unknown'}", fontsize=8)
    return figure


def _classes(axis: Axes, exploration: Exploration) -> None:
    bottom = np.zeros(len(exploration.classes))
    for label, name in enumerate(LABELS):
        counts = np.array([classes[label] for classes in exploration.classes.values()])
        bars = axis.bar(list(exploration.classes), counts, bottom=bottom, color=_COLOURS[label], label=name)
        axis.bar_label(bars, [f"{count:,}" for count in counts], label_type="center", fontsize=8, color="white")
        bottom = bottom + counts
    axis.set(title="Cells by split", ylabel="cells")
    axis.legend(fontsize=8)


def _patients(axis: Axes, exploration: Exploration) -> None:
    if not any(exploration.patients.values()):
        _say(axis, "Patients by split", "no patient is known")
        return
    names = list(exploration.patients)
    infected = [sum(bool(cells[1]) for cells in exploration.patients[name].values()) for name in names]
    uninfected = [len(exploration.patients[name]) - count for name, count in zip(names, infected, strict=True)]
    for counts, bottom, colour, label in (
        (uninfected, [0] * len(names), _COLOURS[0], "no parasitized cell"),
        (infected, uninfected, _COLOURS[1], "some parasitized cells"),
    ):
        bars = axis.bar(names, counts, bottom=bottom, color=colour, label=label)
        axis.bar_label(bars, label_type="center", fontsize=8, color="white")
    shared = _num_shared(exploration)
    axis.set(title=f"Patients by split ({shared or 'none'} in more than one)", ylabel="patients")
    axis.legend(fontsize=8)


def _num_shared(exploration: Exploration) -> int:
    everywhere = [patient for split in exploration.patients.values() for patient in split]
    return sum(everywhere.count(patient) > 1 for patient in set(everywhere))


def _say(axis: Axes, title: str, text: str) -> None:
    axis.set(title=title, xticks=[], yticks=[])
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)


def _sizes(axis: Axes, exploration: Exploration, side: str) -> None:
    title = f"Image {side} ({exploration.training_split}), before resizing"
    if exploration.sizes is None:
        _say(axis, title, "not kept by this data set;\nmake it again")
        return
    axis.set(title=title, xlabel="pixels", ylabel="images")
    histogram = exploration.sizes[side]
    axis.bar(list(histogram), list(histogram.values()), width=SIZE_BIN_PX, align="edge", color=_COLOURS[0])


def _cells_per_patient(axis: Axes, exploration: Exploration) -> None:
    if not any(exploration.patients.values()):
        _say(axis, "Cells of each patient", "no patient is known")
        return
    counts = np.array(list(_all_patients(exploration).values()))
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    axis.bar(range(len(counts)), counts[order, 0], width=1, color=_COLOURS[0], label=LABELS[0])
    axis.bar(range(len(counts)), counts[order, 1], width=1, bottom=counts[order, 0], color=_COLOURS[1], label=LABELS[1])
    axis.set(title=f"Cells of each of {len(counts)} patients", xlabel="patients, most cells first", ylabel="cells")
    axis.legend(fontsize=8)


def _all_patients(exploration: Exploration) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for split in exploration.patients.values():
        for patient, counts in split.items():
            found[patient] = found.get(patient, 0) + counts
    return found


def _colours(axis: Axes, exploration: Exploration) -> None:
    for label, marker in ((0, "o"), (1, "^")):
        colours = [colour for (_, its_label), colour in exploration.colours.items() if its_label == label]
        if not colours:
            continue
        points = np.array(colours)
        axis.scatter(points[:, 0], points[:, 2], c=points / 255, marker=marker, s=40, edgecolor="black", linewidth=0.4)
        mean = points.mean(axis=0)
        shown = ", ".join(f"{value:.0f}" for value in mean)
        name = f"{LABELS[label]}: mean RGB {shown}"
        style = {"color": mean / 255, "marker": marker, "edgecolor": "black"}
        axis.scatter(mean[0], mean[2], s=260, linewidth=1.6, label=name, **style)
    axis.set(title=f"Mean colour of each patient's cells ({exploration.training_split})", xlabel="red", ylabel="blue")
    axis.margins(y=0.3)
    axis.legend(fontsize=8, markerscale=0.5, loc="upper center")
