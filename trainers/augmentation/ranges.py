"""How far augmentation may go: one name per change, from the flag to the device. Imports nothing heavy, for flags."""

from typing import NamedTuple

FLIPS = ("none", "horizontal", "both")
FILLS = ("black", "nearest")


class Ranges(NamedTuple):
    """How far a cell may be changed: uniform in ± the number. By default nothing is changed."""

    rotation_degrees: float = 0.0
    zoom: float = 0.0  # each axis by a factor of 1 ± this
    shift: float = 0.0  # each axis, as a fraction of the image's side
    shear_degrees: float = 0.0
    flip: str = "none"  # or "horizontal" or "both"; each axis with probability ½
    fill: str = "black"  # beyond the border; or the "nearest" pixel
    stain_gain: float = 0.0  # each channel by a factor of 1 ± this
    stain_offset: float = 0.0  # added to each channel, as a fraction of 255
    stain_contrast: float = 0.0  # each channel about the cell's mean, by a factor of 1 ± this
    stain_hue_degrees: float = 0.0  # rotation about the grey axis
    surroundings: float = 0.0  # fraction of cells that get light surroundings, most of them with neighbours
    margin: float = 0.0  # cells with light surroundings are smaller by a factor of up to 1 + this
    stain_density: float = 0.0  # their optical density by a factor of e to ± this, of each channel to ± half of this
    blur: float = 0.0  # every cell, by a part of up to this of a Gaussian of about 1.6 % of the image's side

    @property
    def is_nothing(self) -> bool:
        """Whether no cell is changed."""
        return self._replace(fill="black") == Ranges()

    @property
    def num_numbers(self) -> int:
        """How many numbers `params.sample` makes per cell: those of `surroundings` and `blur` only if they are used."""
        return 35 if self.surroundings or self.blur else 23
