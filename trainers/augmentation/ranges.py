"""How far augmentation may go: one name per change, from the flag to the device. Imports nothing heavy, for flags."""

from typing import NamedTuple

FLIPS = ("none", "horizontal", "both")
FILLS = ("black", "nearest")

LIMITS: dict[str, tuple[float, str]] = {
    "rotation_degrees": (180.0, "Rotate each cell by a random angle of up to ± this"),
    "zoom": (0.9, "Stretch each axis by a random factor of 1 ± this"),
    "shift": (1.0, "Shift each axis by a random part, up to ± this, of the image's side"),
    "shear_degrees": (80.0, "Shear each cell by a random angle of up to ± this"),
    "stain_gain": (0.9, "Multiply each colour channel by a random factor of 1 ± this"),
    "stain_offset": (1.0, "Add to each colour channel a random part, up to ± this, of 255"),
    "stain_contrast": (0.9, "Multiply the contrast of each colour channel by a random factor of 1 ± this"),
    "stain_hue_degrees": (180.0, "Rotate the hue by a random angle of up to ± this"),
    "surroundings": (
        1.0,
        "Put this fraction of the cells before a random light colour, most of them with parts of neighbours",
    ),
    "margin": (4.0, "Make cells with --surroundings smaller by a random factor of up to 1 + this"),
    "stain_density": (
        3.0,
        "Multiply the optical density of cells with --surroundings by a random power of e, up to ± this, and that of "
        "each channel by one up to ± half of this",
    ),
    "blur": (1.0, "Blur each cell, by a random part of up to this of a Gaussian of 1.6 % of the image's side"),
}
"""Of each number of `Ranges`: the largest one, and what it does."""


class Ranges(NamedTuple):
    """How far a cell may be changed, see `LIMITS`, at random and uniformly. By default nothing is changed."""

    rotation_degrees: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    shear_degrees: float = 0.0
    flip: str = "none"  # or "horizontal" or "both"; each axis with probability ½
    fill: str = "black"  # beyond the border; or the "nearest" pixel
    stain_gain: float = 0.0
    stain_offset: float = 0.0
    stain_contrast: float = 0.0
    stain_hue_degrees: float = 0.0
    surroundings: float = 0.0
    margin: float = 0.0
    stain_density: float = 0.0
    blur: float = 0.0

    @property
    def is_nothing(self) -> bool:
        return self._replace(fill="black") == Ranges()

    @property
    def num_numbers(self) -> int:  # that `params.sample` makes per cell
        return 35 if self.surroundings or self.blur else 23
