r"""Generates synthetic red blood cells in the NLM archive's layout, for tests and trial runs without the download.

  python -m pipeline.synthetic --output=/tmp/cells.zip [--num_patients=30] [--cells_per_patient=80] [--seed=0]

The output is a folder, or a zip if its name ends in `.zip`. The default, 2,400 cells in 41 MB, takes 8 s on
one core. What a network scores on these cells says nothing about malaria.
"""

import datetime
import itertools
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from absl import flags

from pipeline.cells import DEFAULT_CLASS_FOLDERS
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.progress import progress_bar
from pipeline.terminal import say

_SLIDE_NAMES = ("C{}P{}thinF", "C{}P{}ThinF", "C{}NThinF", "C{}ThinF", "C{}_thinF", "C{}P{}ReThinF")
_SLIDE_RGB = (236, 208, 180), (210, 215, 206), (202, 208, 203), (240, 205, 182), (234, 212, 188), (214, 208, 206)
_CELL_RGB = (206, 153, 147), (180, 170, 183), (158, 152, 178), (184, 112, 149), (194, 164, 152), (168, 140, 176)
_PARASITE_ABSORBANCE = (0.45, 1.7, 0.22), (0.22, 0.65, 0.1)  # RGB of chromatin and cytoplasm
_CHROMATIN, _CYTOPLASM, _CELL = range(3)  # what the layers of a canvas hold
_MASK_STEP = 4  # pixels; the NLM's masks have a quarter of the resolution, which shows in the outlines
_OUTLINE_ANGLES = np.arange(72) * (2 * np.pi / 72)
_OUTLINE_WAVES = np.arange(2, 12)
_PNG_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_MIN_SIDES, _MAX_SIDES = (46, 40), (394, 385)  # width and height of the NLM's cells, pixels


class Patient(NamedTuple):
    """A patient's slide and the look of its stain: light that is dimmed by what it passes (Beer-Lambert)."""

    background: np.ndarray  # float64 [3], RGB of the empty slide, 0 to 255
    absorbance: np.ndarray  # float64 [3, 3], RGB of chromatin, of cytoplasm and of a cell
    diameter: float  # of a typical cell, pixels
    pallor: float  # how much thinner a cell's center can be, 0 to 1
    noise: float  # of the camera, standard deviation in grey levels
    slide: str  # name, as in the NLM's file names
    first_image: datetime.datetime
    parasitized_fraction: float  # 0 for a healthy patient
    num_cells: int


def _patient(seed: int, number: int, cells_per_patient: int) -> Patient:
    rng = np.random.default_rng([seed, number])
    stain = rng.integers(len(_CELL_RGB))
    slide = rng.choice(_SLIDE_NAMES).format(number, rng.integers(1, 190))
    parasite = np.array(_PARASITE_ABSORBANCE) * rng.uniform(0.8, 1.4, (2, 3))
    cell = np.log(np.divide(_SLIDE_RGB[stain], _CELL_RGB[stain])) * rng.lognormal(0, 0.1) + rng.normal(0, 0.015, 3)
    background = np.multiply(_SLIDE_RGB[stain], 1 + rng.normal(0, 0.02, 3))
    look = rng.uniform(115, 141), rng.uniform(0, 0.5), rng.uniform(0.9, 1.6)
    time = datetime.datetime(2015, 4, 1, 9) + datetime.timedelta(int(rng.integers(240)), int(rng.integers(9000)))
    fraction = rng.uniform(0.5, 0.85) * (number % 4 > 0)  # every fourth patient is healthy
    num_cells = max(2, round(cells_per_patient * 2 ** rng.uniform(-1, 1)))  # 2: one of each class
    return Patient(background, np.vstack([parasite, cell]), *look, slide, time, fraction, num_cells)


class _Canvas:
    """A cell's outline and layers to draw into; points are complex numbers x + iy, lengths are in pixels."""

    def __init__(self, rng: np.random.Generator, diameter: float, unit: float) -> None:
        self.rng, self.unit = rng, unit
        amplitudes, phases = rng.normal(0, 0.34 / _OUTLINE_WAVES**2), rng.uniform(0, 2 * np.pi, len(_OUTLINE_WAVES))
        ripples = amplitudes * np.cos(np.outer(_OUTLINE_ANGLES, _OUTLINE_WAVES) + phases)
        # One cell in five has a bump: the remnant or the bite of a neighbour.
        distance = (_OUTLINE_ANGLES - rng.uniform(0, 2 * np.pi)) % (2 * np.pi) - np.pi
        bump = rng.uniform(-0.4, 0.45) * np.exp(-((distance / rng.uniform(0.12, 0.4)) ** 2))
        radius = 1 + ripples.sum(axis=1) + bump * (rng.random() < 0.2)
        points = radius[:, None] * np.stack([np.cos(_OUTLINE_ANGLES), np.sin(_OUTLINE_ANGLES)], axis=1)
        points, extent = points - points.min(axis=0), np.ptp(points, axis=0)
        width, height = np.clip(np.rint(extent * diameter / 2), _MIN_SIDES, _MAX_SIDES).astype(int)
        columns, rows = -(-width // _MASK_STEP), -(-height // _MASK_STEP)
        mask = np.zeros((rows + 2, columns + 2), np.uint8)
        cv2.fillPoly(mask, [np.rint(1 + points / extent * (columns - 1, rows - 1)).astype(np.int32)], 1)
        mask[1 : rows + 1 : rows - 1, 1 : columns + 1 : columns - 1] = 0  # an elongated cell can reach a corner
        self.mask = mask[1:-1, 1:-1].repeat(_MASK_STEP, axis=0).repeat(_MASK_STEP, axis=1)[:height, :width]
        self.layers = np.zeros((3, height, width), np.uint8)  # chromatin, cytoplasm, and where the cell is missing
        steps = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(float)
        # The distance to the edge at the mask's resolution. Squares of steps are integers: rounded, so on every CPU.
        self.depth = np.sqrt(np.rint(steps**2)) * _MASK_STEP - 2
        self._by_depth = np.argsort(self.depth, axis=None, kind="stable")

    def point(self, low: float, high: float) -> complex:
        """A random point whose distance to the edge lies in [low, high], or as near to that as possible."""
        first, end = np.searchsorted(self.depth.ravel(), (low, high), sorter=self._by_depth)
        rank = min(self.rng.integers(first, max(end, first + 1)), self.depth.size - 1)
        row, column = divmod(int(self._by_depth[rank]), self.depth.shape[1])
        return complex(column - self.rng.random(), row - self.rng.random()) * _MASK_STEP  # less the frame

    def ellipse(self, layer: int, at: complex, a: float, b: float, turn: complex, alpha: float, line: int = -1) -> None:
        """Draws an ellipse with half axes a, along `turn`, and b, filled or with a line of some width."""
        x, y, a, b = (round(16 * float(length)) for length in (at.real, at.imag, max(a, 1), max(b, 1)))
        angle, shade = float(np.degrees(np.angle(turn))), round(255 * min(float(alpha), 1))
        cv2.ellipse(self.layers[layer], (x, y), (a, b), angle, 0, 360, shade, line, cv2.LINE_AA, shift=4)

    def grains(self, layer: int, count: int, center: complex, spread: float, largest: float, opacity: float) -> None:
        """Draws ellipses of random size and opacity, normally distributed around a point."""
        for _ in range(count):
            at = center + complex(*self.rng.normal(0, spread, 2))
            a, b = self.rng.uniform(0.4, 1, 2) * largest
            self.ellipse(layer, at, a, b, 1, opacity * self.rng.uniform(0.4, 1))

    def parasite(self) -> None:
        """Draws a ring, a band, a trophozoite or bare dots of chromatin, some hard to see."""
        rng, unit = self.rng, self.unit
        center, turn, form = self.point(4, 0.45 * unit), np.exp(1j * rng.uniform(0, 2 * np.pi)), rng.random()
        opacity = rng.uniform(0.1, 0.4) if rng.random() < 0.12 else rng.uniform(0.6, 1)
        a, dot = unit * rng.uniform(0.09, 0.18), unit * rng.uniform(0.03, 0.07)
        body_opacity, b = opacity * rng.uniform(0.5, 1), a * rng.uniform(0.6, 1)
        if form < 0.45:  # a ring, pale inside
            self.ellipse(_CELL, center, a, b, turn, 0.6 * body_opacity)
            self.ellipse(_CYTOPLASM, center, a, b, turn, body_opacity, line=int(rng.integers(3, 7)))
        elif form < 0.55:  # a band
            self.ellipse(_CYTOPLASM, center, 1.9 * a, 0.7 * b, turn, body_opacity)
        elif form < 0.8:  # a trophozoite
            self.grains(_CYTOPLASM, 4, center, 0.45 * a, a, 1.4 * body_opacity)
        else:  # bare dots
            self.ellipse(_CELL, center, 3 * dot, 2 * dot, turn, 0.5 * body_opacity)
        reach = a if form < 0.55 else 0.5 * a
        for side in (1, -1)[: rng.integers(1, 3)]:
            self.ellipse(_CHROMATIN, center + side * reach * turn, dot, 0.7 * dot, 1j * turn, opacity)
        num_clefts = (rng.random() < 0.2) * int(rng.integers(14))  # Maurer's clefts, in the cell around it
        self.grains(_CYTOPLASM, num_clefts, center, 0.25 * unit, 2.6, 0.5)

    def distractors(self) -> None:
        """Draws what cells of either class have and is no parasite: specks, stain precipitate, a platelet, a glint."""
        rng, unit = self.rng, self.unit
        specks, precipitate, platelet, glint = (rng.random(4) < (0.3, 0.1, 0.1, 0.05)).tolist()
        inside, edge, a = self.point(4, unit), self.point(1, 0.12 * unit), unit * rng.uniform(0.05, 0.1)
        self.grains(_CYTOPLASM, specks * rng.integers(1, 5), inside, 0.2 * unit, 3.2, 0.5)
        self.grains(_CHROMATIN, precipitate * rng.integers(1, 4), edge, 2.5, 3.5, 0.9)
        self.grains(_CELL, glint, inside, 0, 6, 1.2)
        self.grains(_CELL, platelet, edge, 0, 1.7 * a, 0.6)
        self.grains(_CYTOPLASM, platelet, edge, 0, 1.2 * a, 1)
        self.grains(_CHROMATIN, 6 * platelet, edge, 0.35 * a, 1.5, 0.4)


def synthesize_cell(rng: np.random.Generator, patient: Patient, parasitized: bool) -> np.ndarray:
    """Draws one cell, seldom a fragment or a clump, cropped to its outline; all that is random comes from `rng`.

    Returns:
      uint8 [h, w, 3], RGB, 1 to 255 in the cell and 0 outside; h 40 to 385 and w 46 to 394 pixels.
    """
    fragment, clump, chance = rng.uniform(0.4, 0.7), rng.uniform(1.4, 2.6), rng.random()
    scale = 1 if chance <= 0.97 else fragment if chance <= 0.99 else clump
    canvas = _Canvas(rng, patient.diameter * scale * rng.lognormal(0, 0.07), patient.diameter)
    canvas.distractors()
    for _ in range(parasitized * (1 + rng.binomial(2, 0.26))):
        canvas.parasite()
    # At the mask's resolution for speed: a cell is thinner at its pale center and at the edge; some have a dark rim.
    depth, (rows, columns), (height, width) = canvas.depth, canvas.depth.shape, canvas.mask.shape
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)
    (center_x, center_y), spread = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.25, 0.6)
    pallor = patient.pallor * rng.uniform(0.2, 1.2)
    thickness = 1 - pallor * np.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / spread**2)
    thickness -= rng.uniform(0.3, 0.7) * np.exp(depth / -rng.uniform(2.5, 6))
    thickness += (rng.random() < 0.12) * rng.uniform(0.1, 0.3) * np.exp(-(((depth - 12) / 8) ** 2))
    illumination = 1 + rng.normal(0, 0.02) * x + rng.normal(0, 0.02) * y
    cell_absorbance = patient.absorbance[_CELL] * rng.lognormal(0, 0.09)
    white = patient.background * rng.normal(1, 0.015, 3)
    # Chromatin and cytoplasm take light away, a missing part of the cell gives it back.
    absorbances = (*-patient.absorbance[:_CELL], cell_absorbance)
    layers = [(k, cv2.GaussianBlur(layer, (5, 5), 1.0)) for k, layer in zip(absorbances, canvas.layers, strict=True)]
    planes = []
    for channel in range(3):
        small = white[channel] * illumination * np.exp(-cell_absorbance[channel] * thickness)
        # Enlarged by pyrUp: cv2.resize rounds differently from CPU to CPU.
        plane = cv2.pyrUp(cv2.pyrUp(small))[2 : height + 2, 2 : width + 2]
        for absorbance, layer in layers:
            if layer.any():
                plane *= cv2.LUT(layer, np.exp(absorbance[channel] * (np.arange(256) / 255)))
        planes.append(plane)
    dust = cv2.GaussianBlur(rng.integers(0, 256, canvas.mask.shape, np.uint8), (3, 3), 0.7)
    noise = cv2.LUT(dust, (np.arange(256) - 127.5) * (patient.noise / 32) + 0.5)
    return cv2.merge([(plane + noise).clip(1, 255).astype(np.uint8) * canvas.mask for plane in planes])


def cells(num_patients: int, cells_per_patient: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields `<class>/<file name>.png` and the pixels, as from `synthesize_cell`, of patients C1, C2, ...

    Every fourth patient is healthy, the others have both classes. Each has half to twice `cells_per_patient` cells, at
    least 2.
    """
    for number in range(1, num_patients + 1):
        patient = _patient(seed, number, cells_per_patient)
        for cell in range(1, patient.num_cells + 1):  # not from 0: numpy takes [seed, n, 0] for [seed, n]
            rng = np.random.default_rng([seed, number, cell])
            parasitized = cell == 1 and patient.parasitized_fraction > 0  # of the first two, one of each class
            if patient.parasitized_fraction and cell > 2:
                parasitized = bool(rng.random() < patient.parasitized_fraction)
            time = patient.first_image + datetime.timedelta(seconds=97 * (cell // 25))
            name = f"{patient.slide}_IMG_{time:%Y%m%d_%H%M%S}{'' if number % 3 else 'a'}_cell_{cell}.png"
            yield f"{DEFAULT_CLASS_FOLDERS[parasitized]}/{name}", synthesize_cell(rng, patient, parasitized)


def write(output: Path, num_patients: int, cells_per_patient: int, seed: int) -> int:
    """Writes `cells(...)` into a new folder, or a new zip if the name ends in `.zip`; returns their number.

    Equal arguments give equal bytes. The output appears under its name once it is complete. Raises InputError if it
    exists or cannot be written.
    """
    if output.exists():
        raise InputError(f"--output={output} exists; expected a new path: remove it or name another")
    total = sum(_patient(seed, number, cells_per_patient).num_cells for number in range(1, num_patients + 1))
    bar = progress_bar(total, "generating", "cells", iterable=cells(num_patients, cells_per_patient, seed))
    encoded = ((name, cv2.imencode(".png", rgb[..., ::-1], _PNG_FAST)[1].tobytes()) for name, rgb in bar)
    files = itertools.chain(((f"{folder}/Thumbs.db", bytes(512)) for folder in DEFAULT_CLASS_FOLDERS), encoded)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as work_dir:
            partial = Path(work_dir) / output.name
            if output.suffix == ".zip":
                with zipfile.ZipFile(partial, "x") as archive:  # stored, and each entry dated 1980
                    for name, content in files:
                        archive.writestr(zipfile.ZipInfo(f"cell_images/{name}"), content)
            else:
                for name, content in files:
                    path = partial / "cell_images" / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            partial.rename(output)
    except OSError as error:
        raise InputError(f"--output={output}: {error.strerror}; name a new path in a folder with room") from error
    return total


def main() -> None:
    """Runs the command."""
    values = flags.FLAGS
    count = write(Path(values.output), values.num_patients, values.cells_per_patient, values.seed)
    say(f"wrote {count} cells of {values.num_patients} patients to {values.output}")


if __name__ == "__main__":  # flags are not defined on import: other commands have some of the same names
    flags.DEFINE_string("output", None, "New folder, or new zip if it ends in .zip.", required=True)
    flags.DEFINE_integer("num_patients", 30, "Number of patients; every fourth is healthy.", lower_bound=8)
    flags.DEFINE_integer("cells_per_patient", 80, "Typical number of cells per patient.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Another seed gives other cells.", lower_bound=0)
    run(main)
