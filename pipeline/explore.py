"""Plots what a prepared data set holds.

    python -m pipeline.explore --data_dir=data --output=exploration.png [--config=by_patient]

One figure: cells and patients per split, image sizes before resizing, cells per patient, the mean colour of each
patient's cells, and sixteen labelled cells. Sizes, colours and sample cells are those of the training split (of the
first fold where there is none), so the test split stays unseen. Takes about five seconds for 27,558 cells.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from etils import epath

from pipeline import plot_style, storage
from pipeline.cells import LABELS
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.records import example, index, manifest
from pipeline.splits.configs import CONFIGS
from pipeline.terminal import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".pdf", ".svg")
_GRID = 4
_NUM_COLOURED = 2000  # cells whose colour is looked at


CellImage = tuple[example.ParsedExample, np.ndarray]  # uint8 RGB [size, size, 3]


def count_patients(directory: epath.Path, split: dict[str, Any]) -> dict[str, np.ndarray]:
    """Known patient -> int64 [labels], number of cells, of a split in the manifest; InputError if it is corrupt."""
    cells = Counter(
        (cell.label, cell.patient_id)
        for shard in split["shards"]
        for cell in index.read_without_images(str(directory / shard["file"]), 0, shard["num_records"])
    )
    known = sorted({patient for _, patient in cells} - {""})
    return {patient: np.array([cells[label, patient] for label in range(len(LABELS))]) for patient in known}


def read_cells(directory: epath.Path, contents: manifest.Manifest, split: str) -> Iterator[CellImage]:
    """The first cells of each shard: they are in hash order, so these are a random sample; InputError if corrupt."""
    size, encoding = (contents["settings"][name] for name in ("image_size_px", "image_encoding"))
    shards = contents["splits"][split]["shards"]
    for shard in shards:
        take = min(shard["num_records"], -(-_NUM_COLOURED // len(shards)))
        yield from index.read_cells(str(directory / shard["file"]), 0, take, size, encoding == "png")


def mean_colours(cells: Sequence[CellImage]) -> dict[tuple[str, int], np.ndarray]:
    """(patient, label) -> float64 [3], mean RGB in 0…255 of the cells' own pixels, black background left out."""
    colours: dict[tuple[str, int], list[np.ndarray]] = {}
    for cell, image in cells:
        inside = image[image.any(axis=2)]
        if len(inside):
            colours.setdefault((cell.patient_id, cell.label), []).append(inside.mean(axis=0))
    return {key: np.mean(means, axis=0) for key, means in sorted(colours.items())}


@plot_style.style()
def plot(directory: epath.Path, contents: manifest.Manifest) -> "Figure":
    """Makes the figure of the data set in a version folder; raises InputError if a shard is corrupt."""
    from matplotlib.figure import Figure  # takes a second, which mistakes need not wait for

    splits = contents["splits"]
    split = "train" if "train" in splits else next(iter(splits))
    images = list(read_cells(directory, contents, split))
    by_split = {name: count_patients(directory, of_split) for name, of_split in splits.items()}
    figure = Figure(figsize=(16, 9), dpi=110)
    name = "/".join(contents[key] for key in ("dataset", "config", "version"))
    figure.suptitle(f"{name}, {contents['source']['name']}")
    charts, cells = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.25, 1)).flat
    (num_cells, num_patients), sides, (per_patient, colours) = charts.subplots(3, 2)
    classes = {label: [of_split["classes"][label] for of_split in splits.values()] for label in LABELS}
    _plot_stacked(num_cells, list(splits), classes)
    num_cells.set(title="Cells by split", ylabel="cells")
    if any(by_split.values()):
        _plot_patients(num_patients, per_patient, by_split)
    for axis, side in zip(sides, ("height", "width"), strict=True):
        # Early manifests have no histogram.
        histogram = contents.get("image_size", {}).get(split, {}).get(side, {}).get("histogram", {})
        axis.bar(list(map(int, histogram)), histogram.values(), manifest.SIZE_BIN_PX, align="edge")
        axis.set(title=f"Image {side} ({split}), before resizing", xlabel="pixels", ylabel="images")
    of_patients = mean_colours(images)
    for label, marker in enumerate("o^"):
        points = np.array([colour for (_, of_label), colour in of_patients.items() if of_label == label])
        if len(points):
            red, _, blue = mean = points.mean(axis=0)
            name = f"{LABELS[label]}: mean RGB {', '.join(f'{value:.0f}' for value in mean)}"
            colours.scatter(points[:, 0], points[:, 2], c=points / 255, marker=marker, edgecolor="black")
            colours.scatter(red, blue, s=260, color=mean / 255, marker=marker, edgecolor="black", label=name)
    colours.set(title=f"Mean colour of each patient's cells ({split})", xlabel="red", ylabel="blue")
    colours.margins(y=0.3)
    colours.legend(fontsize=8, markerscale=0.5, loc="upper center")
    cells.suptitle(f"Cells of {split}, as they are stored", fontsize=11)
    grid = cells.subplots(_GRID, _GRID, subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
    for axis, (cell, image) in zip(grid.flat, images, strict=False):
        axis.imshow(image)
        axis.set_title(f"{LABELS[cell.label]}, {cell.patient_id or 'patient unknown'}", fontsize=8)
    return figure


def _plot_patients(num_patients: "Axes", per_patient: "Axes", by_split: dict[str, dict[str, np.ndarray]]) -> None:
    infected = [sum(bool(counts[1]) for counts in patients.values()) for patients in by_split.values()]
    uninfected = [len(patients) - number for patients, number in zip(by_split.values(), infected, strict=True)]
    _plot_stacked(num_patients, list(by_split), {"no parasitized cell": uninfected, "parasitized cells": infected})
    patients = sorted(set().union(*by_split.values()))
    num_shared = sum(map(len, by_split.values())) - len(patients)
    num_patients.set(title=f"Patients by split ({num_shared or 'none'} in more than one)", ylabel="patients")
    counts = np.array([sum(of_split.get(patient, 0) for of_split in by_split.values()) for patient in patients])
    counts = counts[np.argsort(-counts.sum(axis=1))]
    _plot_stacked(per_patient, range(len(counts)), dict(zip(LABELS, counts.T, strict=True)))
    title = f"Cells of each of {len(counts)} patients"
    per_patient.set(title=title, xlabel="patients, most cells first", ylabel="cells")


def _plot_stacked(axis: "Axes", x: Sequence[Any], heights: dict[str, Any]) -> None:
    bottom = np.zeros(len(x))
    for label, counts in heights.items():
        bars = axis.bar(x, counts, bottom=bottom, label=label)
        if isinstance(x, list):  # of splits: there is room for numbers
            axis.bar_label(bars, fmt="{:,.0f}", label_type="center", color="white")
        bottom = bottom + counts
    axis.legend(fontsize=8)


def main() -> None:
    """Writes the figure and prints its path."""
    values = flags.FLAGS
    output = Path(values.output)
    if output.suffix not in _SUFFIXES:
        raise InputError(f"--output={output} is not an image; expected a name that ends in {', '.join(_SUFFIXES)}")
    figure = plot(*manifest.read_dataset(values.data_dir, values.config))
    output.parent.mkdir(parents=True, exist_ok=True)
    with storage.open_atomic(output) as file:
        plot_style.save(figure, file, format=output.suffix[1:])
    say(output)


if __name__ == "__main__":  # flags are not defined on import: other commands have some of the same names
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", "exploration.png", "Figure to write: .png, .pdf or .svg.")
    flags.DEFINE_enum("config", next(iter(CONFIGS)), list(CONFIGS), "Config of the data set.")
    run(main)
