r"""Generates synthetic red blood cells in the NLM archive's layout, for tests and trial runs without the download.

  python -m pipeline.synthetic --output=/tmp/cells.zip [--num_patients=30] [--cells_per_patient=80] [--seed=0]

The default, 2,400 cells in 41 MB, takes 8 s on one core. Metrics on these cells say nothing about malaria.
"""

import datetime
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from absl import flags

from pipeline import storage
from pipeline.cells import DEFAULT_CLASS_FOLDERS
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.terminal import progress_bar, say

_SLIDE_NAMES = ("C{}P{}thinF", "C{}P{}ThinF", "C{}NThinF", "C{}ThinF", "C{}_thinF", "C{}P{}ReThinF")
_SLIDE_RGB = (236, 208, 180), (210, 215, 206), (202, 208, 203), (240, 205, 182), (234, 212, 188), (214, 208, 206)
_CELL_RGB = (206, 153, 147), (180, 170, 183), (158, 152, 178), (184, 112, 149), (194, 164, 152), (168, 140, 176)
_PARASITE_ABSORBANCE = (0.45, 1.7, 0.22), (0.22, 0.65, 0.1)  # RGB of its chromatin and its cytoplasm
_CHROMATIN, _CYTOPLASM = range(2)
_MASK_STEP = 4  # pixels; the NLM's masks have a quarter of the resolution, which shows in the outlines
_OUTLINE_ANGLES = np.arange(72) * (2 * np.pi / 72)
_OUTLINE_WAVES = np.arange(2, 12)
_PNG_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_MIN_SIDES, _MAX_SIDES = (46, 40), (394, 385)  # width and height of the NLM's cells, pixels


class Patient(NamedTuple):
    """A patient's slide and the look of its stain: light that is dimmed by what it passes (Beer-Lambert)."""

    background: np.ndarray  # float64 [3], RGB of the empty slide, 0 to 255
    cell_absorbance: np.ndarray  # float64 [3], RGB
    parasite_absorbance: np.ndarray  # float64 [2, 3], RGB of chromatin and cytoplasm
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
    return Patient(background, cell, parasite, *look, slide, time, fraction, num_cells)


def _mask(rng: np.random.Generator, diameter: float) -> np.ndarray:
    """uint8 [height, width], 1 in the cell, which touches all four sides."""
    amplitudes, phases = rng.normal(0, 0.34 / _OUTLINE_WAVES**2), rng.uniform(0, 2 * np.pi, len(_OUTLINE_WAVES))
    radius = 1 + (amplitudes * np.cos(np.outer(_OUTLINE_ANGLES, _OUTLINE_WAVES) + phases)).sum(axis=1)
    points = radius[:, None] * np.stack([np.cos(_OUTLINE_ANGLES), np.sin(_OUTLINE_ANGLES)], axis=1)
    points, extent = points - points.min(axis=0), np.ptp(points, axis=0)
    width, height = np.clip(np.rint(extent * diameter / 2), _MIN_SIDES, _MAX_SIDES).astype(int)
    columns, rows = -(-width // _MASK_STEP), -(-height // _MASK_STEP)
    mask = np.zeros((rows, columns), np.uint8)
    cv2.fillPoly(mask, [np.rint(points / extent * (columns - 1, rows - 1)).astype(np.int32)], 1)
    mask[:: rows - 1, :: columns - 1] = 0  # an elongated cell can reach a corner
    return mask.repeat(_MASK_STEP, axis=0).repeat(_MASK_STEP, axis=1)[:height, :width]


def _draw_stain(rng: np.random.Generator, shape: tuple[int, int], diameter: float, parasitized: bool) -> np.ndarray:
    """float64 [height, width, 2] in 0…1, chromatin and cytoplasm: specks, and rings with a dot if parasitized."""
    layers = np.zeros((2, *shape), np.uint8)

    def ellipse(layer: int, at: np.ndarray, radius: float, strength: float, line: int = -1) -> None:
        (x, y), axes = np.rint(16 * at).astype(int).tolist(), np.rint(16 * radius * rng.uniform(0.7, 1, 2)).astype(int)
        angle = rng.uniform(0, 180)
        shade = round(255 * strength)
        cv2.ellipse(layers[layer], (x, y), axes.tolist(), angle, 0, 360, shade, line, cv2.LINE_AA, shift=4)

    def place() -> np.ndarray:
        return rng.uniform(0.3, 0.7, 2) * shape[::-1]

    for _ in range(rng.integers(3)):  # of either class
        ellipse(_CHROMATIN, place(), rng.uniform(1, 3), rng.uniform(0.1, 0.5))
    for _ in range(parasitized * (1 + rng.binomial(2, 0.26))):
        at, radius, strength = place(), diameter * rng.uniform(0.09, 0.18), rng.uniform(0.3, 1)
        ellipse(_CYTOPLASM, at, radius, strength, line=int(rng.integers(3, 7)))
        ellipse(_CHROMATIN, at + radius * rng.uniform(-0.7, 0.7, 2), diameter * rng.uniform(0.03, 0.07), strength)
    return np.stack([cv2.GaussianBlur(layer, (5, 5), 1.0) for layer in layers], axis=2) / 255


def synthesize_cell(rng: np.random.Generator, patient: Patient, parasitized: bool) -> np.ndarray:
    """Draws one cell, seldom a fragment or a clump, cropped to its outline.

    Returns uint8 RGB [h, w, 3], 1 to 255 in the cell and 0 outside; h 40 to 385 and w 46 to 394 pixels.
    """
    scale = rng.choice((1, rng.uniform(0.4, 0.7), rng.uniform(1.4, 2.6)), p=(0.97, 0.02, 0.01))
    mask = _mask(rng, patient.diameter * scale * rng.lognormal(0, 0.07))
    height, width = mask.shape
    stain = _draw_stain(rng, (height, width), patient.diameter, parasitized)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    (center_x, center_y), spread = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.25, 0.6)
    pallor = patient.pallor * rng.uniform(0.2, 1.2)
    thickness = 1 - pallor * np.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / spread**2)
    illumination = 1 + rng.normal(0, 0.02) * x + rng.normal(0, 0.02) * y
    cell_absorbance = patient.cell_absorbance * rng.lognormal(0, 0.09)
    absorbed = thickness[..., None] * cell_absorbance + stain @ patient.parasite_absorbance
    white = illumination[..., None] * patient.background * rng.normal(1, 0.015, 3)
    noise = rng.normal(0, patient.noise, (height, width, 1))
    return (white * np.exp(-absorbed) + noise).clip(1, 255).astype(np.uint8) * mask[..., None]


def cells(num_patients: int, cells_per_patient: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields `<class>/<file name>.png` and the pixels, as from `synthesize_cell`, of patients C1, C2, ...

    Every fourth patient is healthy. Each has half to twice `cells_per_patient` cells, at least 2.
    """
    for number in range(1, num_patients + 1):
        patient = _patient(seed, number, cells_per_patient)
        for cell in range(1, patient.num_cells + 1):  # not from 0: numpy takes [seed, n, 0] for [seed, n]
            rng = np.random.default_rng([seed, number, cell])
            fraction = patient.parasitized_fraction
            parasitized = bool(fraction and (cell == 1 or (cell > 2 and rng.random() < fraction)))  # 1, 2: one of each
            time = patient.first_image + datetime.timedelta(seconds=97 * (cell // 25))
            name = f"{patient.slide}_IMG_{time:%Y%m%d_%H%M%S}{'' if number % 3 else 'a'}_cell_{cell}.png"
            yield f"{DEFAULT_CLASS_FOLDERS[parasitized]}/{name}", synthesize_cell(rng, patient, parasitized)


def write(output: Path, num_patients: int, cells_per_patient: int, seed: int) -> int:
    """Writes `cells(...)` into a new zip and returns their number; InputError if it exists."""
    if output.exists():
        raise InputError(f"--output={output} exists; expected a new path: remove it or name another")
    total = sum(_patient(seed, number, cells_per_patient).num_cells for number in range(1, num_patients + 1))
    bar = progress_bar(total, "generating", "cells", iterable=cells(num_patients, cells_per_patient, seed))
    with storage.open_atomic(output) as file, zipfile.ZipFile(file, "w") as archive:
        for folder in DEFAULT_CLASS_FOLDERS:
            archive.writestr(zipfile.ZipInfo(f"cell_images/{folder}/Thumbs.db"), bytes(512))
        for name, rgb in bar:
            png = cv2.imencode(".png", rgb[..., ::-1], _PNG_FAST)[1].tobytes()
            archive.writestr(zipfile.ZipInfo(f"cell_images/{name}"), png)  # stored, and dated 1980
    return total


def main() -> None:
    """Runs the command."""
    values = flags.FLAGS
    count = write(Path(values.output), values.num_patients, values.cells_per_patient, values.seed)
    say(f"wrote {count} cells of {values.num_patients} patients to {values.output}")


if __name__ == "__main__":  # flags are not defined on import: other commands have some of the same names
    flags.DEFINE_string("output", None, "New zip archive.", required=True)
    flags.DEFINE_integer("num_patients", 30, "Number of patients; every fourth is healthy.", lower_bound=8)
    flags.DEFINE_integer("cells_per_patient", 80, "Typical number of cells per patient.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Another seed gives other cells.", lower_bound=0)
    run(main)
