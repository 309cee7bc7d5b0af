r"""Draws made-up red blood cells in the NLM archive's layout, for tests and trial runs without the download.

  python -m pipeline.synthetic --output=/tmp/cells.zip [--num_patients=30] [--cells_per_patient=80] [--seed=0]

The output is a folder, or a zip if its name ends in `.zip`. The default, 2,400 cells in 41 MB, takes 8 s on
one core. What a network scores on these cells says nothing about malaria.
"""

import datetime
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from absl import flags

from pipeline.cells import DEFAULT_CLASS_FOLDERS
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.progress import progress_bar

_SLIDES = ("C{}P{}thinF", "C{}P{}ThinF", "C{}NThinF", "C{}ThinF", "C{}_thinF", "C{}P{}ReThinF")
_SLIDE_RGB = (236, 208, 180), (210, 215, 206), (202, 208, 203), (240, 205, 182), (234, 212, 188), (214, 208, 206)
_CELL_RGB = (206, 153, 147), (180, 170, 183), (158, 152, 178), (184, 112, 149), (194, 164, 152), (168, 140, 176)
_CHROMATIN, _CYTOPLASM, _CELL = range(3)  # inks and layers; drawn into _CELL is what it lacks
_MASK_STEP = 4  # pixels; the NLM's masks were made at a quarter of the resolution, which shows in the outlines


@dataclass(frozen=True)
class Stain:
    """The look of one patient's slide, taken as light that is dimmed by what it passes (Beer-Lambert)."""

    background: np.ndarray  # float64 [3], RGB of the empty slide, 0 to 255
    inks: np.ndarray  # float64 [3, 3], absorbance in RGB of chromatin, cytoplasm and a whole cell
    diameter: float  # of a typical cell, pixels
    pallor: float  # how much thinner a cell's centre can be, 0 to 1
    noise: float  # of the camera, standard deviation in grey levels


def _patient(seed: int, number: int, cells_per_patient: int) -> tuple[Stain, str, datetime.datetime, float, int]:
    """A patient's stain, slide, time of the first image, fraction of parasitized cells and number of cells."""
    rng = np.random.default_rng([seed, number])
    kind, slide = rng.integers(len(_CELL_RGB)), rng.choice(_SLIDES).format(number, rng.integers(1, 190))
    parasite = np.array([(0.45, 1.7, 0.22), (0.22, 0.65, 0.1)]) * rng.uniform(0.8, 1.4, (2, 3))
    cell = np.log(np.divide(_SLIDE_RGB[kind], _CELL_RGB[kind])) * rng.lognormal(0, 0.1) + rng.normal(0, 0.015, 3)
    background = np.multiply(_SLIDE_RGB[kind], 1 + rng.normal(0, 0.02, 3))
    stain = Stain(background, np.vstack([parasite, cell]), *rng.uniform((115, 0, 0.9), (141, 0.5, 1.6)))
    start = datetime.datetime(2015, 4, 1, 9) + datetime.timedelta(int(rng.integers(240)), int(rng.integers(9000)))
    parasitized, size = rng.uniform((0.5, -1), (0.85, 1)) * (number % 4 > 0, 1)
    return stain, slide, start, parasitized, max(2, round(cells_per_patient * 2**size))  # 2: one of each class


class _Canvas:
    """A cell's outline and what is drawn into it; points are complex numbers x + iy, lengths are in pixels."""

    def __init__(self, rng: np.random.Generator, diameter: float, unit: float) -> None:
        self.rng, self.unit = rng, unit
        angles, waves = np.arange(72) * (2 * np.pi / 72), np.arange(2, 12)
        ripples = rng.normal(0, 0.34 / waves**2) * np.cos(np.outer(angles, waves) + rng.uniform(0, 2 * np.pi, 10))
        offset = (angles - rng.uniform(0, 2 * np.pi)) % (2 * np.pi) - np.pi
        bump = rng.uniform(-0.4, 0.45) * np.exp(-((offset / rng.uniform(0.12, 0.4)) ** 2))
        radius = 1 + ripples.sum(axis=1) + bump * (rng.random() < 0.2)  # a bump is a remnant or bite of a neighbour
        points = radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        outline, extent = points - points.min(axis=0), np.ptp(points, axis=0)
        width, height = np.clip(np.rint(extent * diameter / 2), (46, 40), (394, 385)).astype(int)
        columns, rows = -(-width // _MASK_STEP), -(-height // _MASK_STEP)
        mask = np.zeros((rows + 2, columns + 2), np.uint8)
        cv2.fillPoly(mask, [np.rint(1 + outline / extent * (columns - 1, rows - 1)).astype(np.int32)], 1)
        mask[1 : rows + 1 : rows - 1, 1 : columns + 1 : columns - 1] = 0  # an elongated cell can reach a corner
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(float)
        self.depth = np.sqrt(np.rint(depth**2)) * _MASK_STEP - 2  # distance to the edge, alike on all processors
        self.order = np.argsort(self.depth, axis=None, kind="stable")
        self.mask = mask[1:-1, 1:-1].repeat(_MASK_STEP, axis=0).repeat(_MASK_STEP, axis=1)[:height, :width]
        self.layers = np.zeros((3, height, width), np.uint8)

    def spot(self, low: float, high: float) -> complex:
        """A random point whose distance to the edge lies in [low, high], or as near to that as there is."""
        first, end = np.searchsorted(self.depth.ravel(), (low, high), sorter=self.order)
        place = self.order[min(self.rng.integers(first, max(end, first + 1)), self.depth.size - 1)]
        y, x = divmod(int(place), self.depth.shape[1])
        return complex(x - self.rng.random(), y - self.rng.random()) * _MASK_STEP  # the depth has a frame

    def blob(self, layer: int, at: complex, a: float, b: float, turn: complex, seen: float, line: int = -1) -> None:
        """Draws an ellipse with the half axes a, along `turn`, and b; `seen` is 0 to 1, line -1 fills it."""
        x, y, a, b = (round(16 * float(length)) for length in (at.real, at.imag, max(a, 1), max(b, 1)))
        angle, shade = float(np.degrees(np.angle(turn))), round(255 * min(float(seen), 1))
        cv2.ellipse(self.layers[layer], (x, y), (a, b), angle, 0, 360, shade, line, cv2.LINE_AA, 4)

    def grains(self, layer: int, count: int, around: complex, spread: float, largest: float, seen: float) -> None:
        """Draws ellipses of random size and strength, normally distributed."""
        for _ in range(count):
            at = around + complex(*self.rng.normal(0, spread, 2))
            a, b = self.rng.uniform(0.4, 1, 2) * largest
            self.blob(layer, at, a, b, 1, seen * self.rng.uniform(0.4, 1))

    def parasite(self) -> None:
        """Draws a ring, a trophozoite, a band or bare dots, some hard to see."""
        rng, blob, unit = self.rng, self.blob, self.unit
        centre, turn, kind = self.spot(4, 0.45 * unit), np.exp(1j * rng.uniform(0, 2 * np.pi)), rng.random()
        seen = rng.uniform(0.1, 0.4) if rng.random() < 0.12 else rng.uniform(0.6, 1)
        a, dot, weak = unit * rng.uniform(0.09, 0.18), unit * rng.uniform(0.03, 0.07), seen * rng.uniform(0.5, 1)
        b, reach = a * rng.uniform(0.6, 1), a if kind < 0.55 else 0.5 * a
        if kind < 0.45:
            blob(_CELL, centre, a, b, turn, 0.6 * weak)
            blob(_CYTOPLASM, centre, a, b, turn, weak, int(rng.integers(3, 7)))
        elif kind < 0.55:
            blob(_CYTOPLASM, centre, 1.9 * a, 0.7 * b, turn, weak)
        elif kind < 0.8:
            self.grains(_CYTOPLASM, 4, centre, 0.45 * a, a, 1.4 * weak)
        else:
            blob(_CELL, centre, 3 * dot, 2 * dot, turn, 0.5 * weak)
        for side in (1, -1)[: rng.integers(1, 3)]:
            blob(_CHROMATIN, centre + side * reach * turn, dot, 0.7 * dot, 1j * turn, seen)
        self.grains(_CYTOPLASM, (rng.random() < 0.2) * int(rng.integers(14)), centre, 0.25 * unit, 2.6, 0.5)  # clefts

    def distractors(self) -> None:
        """Draws what is found on cells of either class and is no parasite."""
        rng, unit = self.rng, self.unit
        specks, precipitate, platelet, glint = (rng.random(4) < (0.3, 0.1, 0.1, 0.05)).tolist()
        inside, edge, a = self.spot(4, unit), self.spot(1, 0.12 * unit), unit * rng.uniform(0.05, 0.1)
        self.grains(_CYTOPLASM, specks * rng.integers(1, 5), inside, 0.2 * unit, 3.2, 0.5)
        self.grains(_CHROMATIN, precipitate * rng.integers(1, 4), edge, 2.5, 3.5, 0.9)
        self.grains(_CELL, glint, inside, 0, 6, 1.2)
        self.grains(_CELL, platelet, edge, 0, 1.7 * a, 0.6)
        self.grains(_CYTOPLASM, platelet, edge, 0, 1.2 * a, 1)
        self.grains(_CHROMATIN, 6 * platelet, edge, 0.35 * a, 1.5, 0.4)


def synthesize_cell(rng: np.random.Generator, stain: Stain, parasitized: bool) -> np.ndarray:
    """Draws one cell, seldom a fragment or a clump, cropped to its outline, with all chance taken from `rng`.

    Returns:
      uint8 [h, w, 3], RGB, 1 to 255 in the cell and 0 outside; h 40 to 385 and w 46 to 394 pixels.
    """
    scale = (1, rng.uniform(0.4, 0.7), rng.uniform(1.4, 2.6))[np.searchsorted((0.97, 0.99), rng.random())]
    canvas = _Canvas(rng, stain.diameter * scale * rng.lognormal(0, 0.07), stain.diameter)
    canvas.distractors()
    for _ in range(parasitized * (1 + rng.binomial(2, 0.26))):
        canvas.parasite()
    # Computed at the mask's resolution for speed, enlarged by pyrUp: cv2.resize rounds differently by processor.
    depth, (rows, columns), (height, width) = canvas.depth, canvas.depth.shape, canvas.mask.shape
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)
    (dx, dy), spread, pallor = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.25, 0.6), stain.pallor * rng.uniform(0.2, 1.2)
    thickness = 1 - pallor * np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / spread**2)
    thickness -= rng.uniform(0.3, 0.7) * np.exp(depth / -rng.uniform(2.5, 6))
    thickness += (rng.random() < 0.12) * rng.uniform(0.1, 0.3) * np.exp(-(((depth - 12) / 8) ** 2))  # dark rim
    light = 1 + rng.normal(0, 0.02) * x + rng.normal(0, 0.02) * y
    inks = stain.inks * ((-1,), (-1,), (rng.lognormal(0, 0.09),))
    whites = stain.background * rng.normal(1, 0.015, 3)
    planes = [w * light * np.exp(-k * thickness) for w, k in np.c_[whites, inks[_CELL]]]
    planes = [cv2.pyrUp(cv2.pyrUp(plane))[2 : height + 2, 2 : width + 2] for plane in planes]
    for ink, layer in zip(inks, canvas.layers, strict=True):
        if layer.any():
            soft = cv2.GaussianBlur(layer, (5, 5), 1.0)
            for plane, table in zip(planes, np.exp(np.outer(ink, np.arange(256) / 255)), strict=True):
                plane *= cv2.LUT(soft, table)
    dust = cv2.GaussianBlur(rng.integers(0, 256, canvas.mask.shape, np.uint8), (3, 3), 0.7)
    grain = cv2.LUT(dust, (np.arange(256) - 127.5) * (stain.noise / 32) + 0.5)
    return cv2.merge([(plane + grain).clip(1, 255).astype(np.uint8) * canvas.mask for plane in planes])


def cells(num_patients: int, cells_per_patient: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields `<class>/<file name>.png` and the pixels, as from `synthesize_cell`, of patients C1, C2, ...

    Every fourth patient is healthy, the others have both classes. Each has half to twice `cells_per_patient`
    cells, at least 2. A cell's pixels and name depend on the seed, its patient and its number alone.
    """
    for number in range(1, num_patients + 1):
        stain, slide, start, fraction, num_cells = _patient(seed, number, cells_per_patient)
        for cell in range(1, num_cells + 1):  # not from 0: numpy takes [seed, n, 0] for [seed, n]
            rng = np.random.default_rng([seed, number, cell])
            parasitized = bool(fraction and (rng.random() < fraction if cell > 2 else cell == 1))
            taken = start + datetime.timedelta(seconds=97 * (cell // 25))
            name = f"{slide}_IMG_{taken:%Y%m%d_%H%M%S}{'a' * (number % 3 == 0)}_cell_{cell}.png"
            yield f"{DEFAULT_CLASS_FOLDERS[parasitized]}/{name}", synthesize_cell(rng, stain, parasitized)


def _files(drawn: Iterator[tuple[str, np.ndarray]], total: int) -> Iterator[tuple[str, bytes]]:
    for folder in DEFAULT_CLASS_FOLDERS:
        yield f"cell_images/{folder}/Thumbs.db", bytes(512)
    for name, pixels in progress_bar(total, "drawing", "cells", iterable=drawn):
        _, png = cv2.imencode(".png", pixels[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 1))
        yield f"cell_images/{name}", png.tobytes()


def write(output: Path, num_patients: int, cells_per_patient: int, seed: int) -> int:
    """Writes `cells(...)` into a new folder, or a new zip if the name ends in `.zip`; returns their number.

    Equal arguments give equal bytes. The output appears under its name once it is whole.

    Raises:
      InputError: the output exists or cannot be written.
    """
    if output.exists():
        raise InputError(f"--output={output} exists, but a new path was expected: remove it or name another")
    total = sum(_patient(seed, n, cells_per_patient)[-1] for n in range(1, num_patients + 1))
    files = _files(cells(num_patients, cells_per_patient, seed), total)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as work:
            made = Path(work) / output.name
            if output.suffix == ".zip":
                with zipfile.ZipFile(made, "x") as archive:  # stored, and each entry dated 1980
                    for name, content in files:
                        archive.writestr(zipfile.ZipInfo(name), content)
            else:
                for name, content in files:
                    (made / name).parent.mkdir(parents=True, exist_ok=True)
                    (made / name).write_bytes(content)
            made.rename(output)
    except OSError as error:
        raise InputError(f"--output={output}: {error.strerror}; name a new path in a folder with room") from error
    return total


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    reject_arguments(arguments)
    values = flags.FLAGS
    count = write(Path(values.output), values.num_patients, values.cells_per_patient, values.seed)
    print(f"wrote {count} cells of {values.num_patients} patients to {values.output}")


if __name__ == "__main__":  # flags are not defined on import: other commands have some of the same names
    flags.DEFINE_string("output", None, "New folder, or new zip if it ends in .zip.", required=True)
    flags.DEFINE_integer("num_patients", 30, "Patients; every fourth is healthy.", lower_bound=8)
    flags.DEFINE_integer("cells_per_patient", 80, "Typical number of cells of a patient.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Other seeds give other cells.", lower_bound=0)
    run(main)
