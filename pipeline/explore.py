"""Plots what a prepared data set holds.

    python -m pipeline.explore --data_dir=data --output=exploration.png [--config=by_patient]

One figure: cells and patients per split, image sizes before resizing, cells per patient, the mean colour of each
patient's cells, and sixteen labelled cells. Sizes, colours and sample cells are those of the training split (of the
first fold where there is none), so the test split stays unseen. Takes about five seconds for 27,558 cells.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags
from etils import epath

from pipeline import plot_style, storage
from pipeline.cells import LABELS
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.records import example, index, manifest, tfrecord
from pipeline.splits.configs import CONFIGS
from pipeline.terminal import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".pdf", ".svg")
_GRID = 4
_NUM_COLOURED = 2000  # cells whose colour is looked at
_LABEL_COLOURS = ("#3d7fc4", "#d9822b")


class CellImage(NamedTuple):
    """A cell of the training split: uint8 RGB [size, size, 3], index into `cells.LABELS`, patient."""

    image: np.ndarray
    label: int
    patient_id: str


class Exploration(NamedTuple):
    """What to plot."""

    contents: manifest.Manifest
    training_split: str  # the one that sizes, colours and sample cells are of
    patients: dict[str, dict[str, np.ndarray]]  # split -> known patient -> int64 [labels], number of cells
    colours: dict[tuple[str, int], np.ndarray]  # see `mean_colours`
    samples: list[CellImage]  # sixteen or fewer


def explore(directory: epath.Path, contents: manifest.Manifest) -> Exploration:
    """Reads what to plot from a data set's version folder and manifest; raises InputError if a shard is corrupt."""
    splits = contents["splits"]
    training_split = "train" if "train" in splits else next(iter(splits))
    cells = list(_read_cells(directory, contents, training_split))
    patients = {name: _count_patients(directory, split) for name, split in splits.items()}
    return Exploration(contents, training_split, patients, mean_colours(cells), cells[: _GRID**2])


def _count_patients(directory: epath.Path, split: dict[str, Any]) -> dict[str, np.ndarray]:
    cells: Counter[tuple[int, str]] = Counter()
    for shard in split["shards"]:
        rows = index.read_without_images(str(directory / shard["file"]), 0, shard["num_records"])
        cells.update((cell.label, cell.patient_id) for cell in rows)
    counts: dict[str, np.ndarray] = {}
    for (label, patient), number in cells.items():
        if patient:
            counts.setdefault(patient, np.zeros(len(LABELS), np.int64))[label] = number
    return counts


def _read_cells(directory: epath.Path, contents: manifest.Manifest, split: str) -> Iterator[CellImage]:
    """The first cells of each shard: they are in hash order, so these are a random sample."""
    size, encoding = (contents["settings"][name] for name in ("image_size_px", "image_encoding"))
    shards = contents["splits"][split]["shards"]
    for shard in shards:
        path = directory / shard["file"]
        try:
            with path.open("rb") as file:
                for _, record in itertools.islice(tfrecord.read_records(file), -(-_NUM_COLOURED // len(shards))):
                    parsed = example.parse(record)
                    stored = np.frombuffer(parsed.image, np.uint8)
                    pixels = example.decode_png(stored) if encoding == "png" else stored.reshape(size, size, 3)
                    yield CellImage(pixels, parsed.label, parsed.patient_id)
        except (OSError, ValueError, tfrecord.CorruptRecord) as error:
            raise InputError(f"{path}: {error}; check the data set with python -m pipeline.verify") from error


def mean_colours(cells: Sequence[CellImage]) -> dict[tuple[str, int], np.ndarray]:
    """(patient, label) -> float64 [3], mean RGB in 0…255 of the cells' own pixels, black background left out."""
    colours: dict[tuple[str, int], list[np.ndarray]] = {}
    for cell in cells:
        inside = cell.image[cell.image.any(axis=2)]
        if len(inside):
            colours.setdefault((cell.patient_id, cell.label), []).append(inside.mean(axis=0))
    return {key: np.mean(means, axis=0) for key, means in sorted(colours.items())}


@plot_style.style()
def plot(exploration: Exploration) -> "Figure":
    """Makes the figure."""
    from matplotlib.figure import Figure  # takes a second, which mistakes need not wait for

    figure = Figure(figsize=(16, 9))
    contents, split = exploration.contents, exploration.training_split
    name = "/".join(contents[key] for key in ("dataset", "config", "version"))
    figure.suptitle(f"{name}, {contents['source']['name']}")
    charts, cells = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.25, 1)).flat
    axes = charts.subplots(3, 2)
    classes = {label: [of_split["classes"][label] for of_split in contents["splits"].values()] for label in LABELS}
    _plot_stacked(axes[0, 0], list(contents["splits"]), classes)
    axes[0, 0].set(title="Cells by split", ylabel="cells")
    for axis, side in zip(axes[1], ("height", "width"), strict=True):
        title = f"Image {side} ({split}), before resizing"
        # Early manifests have no histogram.
        histogram = contents.get("image_size", {}).get(split, {}).get(side, {}).get("histogram")
        if not histogram:
            _plot_text(axis, title, "not in this data set;\nmake it again")
            continue
        axis.bar(
            list(map(int, histogram)), histogram.values(), manifest.SIZE_BIN_PX, align="edge", color=_LABEL_COLOURS[0]
        )
        axis.set(title=title, xlabel="pixels", ylabel="images")
    _plot_colours(axes[2, 1], exploration)
    if any(exploration.patients.values()):
        _plot_patients(axes[0, 1], exploration.patients)
        _plot_cells_per_patient(axes[2, 0], exploration.patients)
    else:
        for axis, title in ((axes[0, 1], "Patients by split"), (axes[2, 0], "Cells of each patient")):
            _plot_text(axis, title, "no patient is known")
    cells.suptitle(f"{len(exploration.samples)} cells of {split}, as they are stored", fontsize=11)
    grid = cells.subplots(_GRID, _GRID)
    for axis in grid.flat:
        axis.axis("off")
    for axis, cell in zip(grid.flat, exploration.samples, strict=False):
        axis.imshow(cell.image)
        axis.set_title(f"{LABELS[cell.label]}, {cell.patient_id or 'patient unknown'}", fontsize=8)
    return figure


def _plot_text(axis: "Axes", title: str, text: str) -> None:
    axis.set(title=title, xticks=[], yticks=[])
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)


def _plot_stacked(axis: "Axes", x: Sequence[Any], heights: dict[str, Any], width: float | None = None) -> None:
    """Stacks bars of two series, with their numbers where no width is given."""
    bottom = np.zeros(len(x))
    for colour, (label, counts) in zip(_LABEL_COLOURS, heights.items(), strict=True):
        bars = axis.bar(x, counts, width=width or 0.8, bottom=bottom, color=colour, label=label)
        if width is None:
            axis.bar_label(bars, [f"{count:,}" for count in counts], label_type="center", fontsize=8, color="white")
        bottom = bottom + counts
    axis.legend(fontsize=8)


def _plot_patients(axis: "Axes", by_split: dict[str, dict[str, np.ndarray]]) -> None:
    infected = [sum(bool(counts[1]) for counts in patients.values()) for patients in by_split.values()]
    uninfected = [len(patients) - number for patients, number in zip(by_split.values(), infected, strict=True)]
    _plot_stacked(axis, list(by_split), {"no parasitized cell": uninfected, "some parasitized cells": infected})
    num_shared = sum(map(len, by_split.values())) - len(set().union(*by_split.values()))
    axis.set(title=f"Patients by split ({num_shared or 'none'} in more than one)", ylabel="patients")


def _plot_cells_per_patient(axis: "Axes", by_split: dict[str, dict[str, np.ndarray]]) -> None:
    patients = dict.fromkeys(itertools.chain(*by_split.values()))
    counts = np.array([sum(of_split.get(patient, 0) for of_split in by_split.values()) for patient in patients])
    counts = counts[np.argsort(-counts.sum(axis=1), kind="stable")]
    _plot_stacked(axis, range(len(counts)), dict(zip(LABELS, counts.T, strict=True)), width=1)
    axis.set(title=f"Cells of each of {len(counts)} patients", xlabel="patients, most cells first", ylabel="cells")


def _plot_colours(axis: "Axes", exploration: Exploration) -> None:
    for label, marker in enumerate("o^"):
        points = np.array([colour for (_, of_label), colour in exploration.colours.items() if of_label == label])
        if not len(points):
            continue
        axis.scatter(points[:, 0], points[:, 2], c=points / 255, marker=marker, s=40, edgecolor="black", linewidth=0.4)
        red, green, blue = mean = points.mean(axis=0)
        name = f"{LABELS[label]}: mean RGB {red:.0f}, {green:.0f}, {blue:.0f}"
        axis.scatter(red, blue, s=260, color=mean / 255, marker=marker, edgecolor="black", linewidth=1.6, label=name)
    axis.set(title=f"Mean colour of each patient's cells ({exploration.training_split})", xlabel="red", ylabel="blue")
    axis.margins(y=0.3)
    axis.legend(fontsize=8, markerscale=0.5, loc="upper center")


def main() -> None:
    """Writes the figure and prints its path."""
    values = flags.FLAGS
    output = Path(values.output)
    if output.suffix not in _SUFFIXES:
        raise InputError(f"--output={output} is not an image; expected a name that ends in {', '.join(_SUFFIXES)}")
    exploration = explore(*manifest.read_dataset(values.data_dir, values.config))
    figure = plot(exploration)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with storage.open_atomic(output) as file:
            plot_style.save(figure, file, dpi=110, format=output.suffix[1:])
    except OSError as error:
        raise InputError(f"--output={output} cannot be written: {error.strerror}; give another path") from error
    say(output)


if __name__ == "__main__":  # flags are not defined on import: other commands have some of the same names
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", "exploration.png", "Figure to write: .png, .pdf or .svg.")
    flags.DEFINE_enum("config", next(iter(CONFIGS)), list(CONFIGS), "Config of the data set.")
    run(main)
