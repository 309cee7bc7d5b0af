"""How far augmentation may go: one name per change, from the flag to the device. Imports nothing heavy, for flags."""

from typing import NamedTuple

FLIPS = ("none", "horizontal", "both")
FILLS = ("black", "nearest")


class Ranges(NamedTuple):
    """How far a cell may be changed. By default nothing is changed.

    Attributes:
      rotation_degrees: angle uniform in ± this.
      zoom: each axis by a factor uniform in 1 ± this.
      shift: each axis by a fraction of the image's side uniform in ± this.
      shear_degrees: angle uniform in ± this.
      flip: "none", "horizontal" or "both"; each axis with probability ½.
      fill: what lies beyond the border: "black" or the "nearest" pixel.
      stain_gain: factor of each channel, uniform in 1 ± this.
      stain_offset: added to each channel, uniform in ± this fraction of 255.
      stain_contrast: factor of each channel about the cell's mean, uniform in 1 ± this.
      stain_hue_degrees: rotation about the grey axis, uniform in ± this.
    """

    rotation_degrees: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    shear_degrees: float = 0.0
    flip: str = "none"
    fill: str = "black"
    stain_gain: float = 0.0
    stain_offset: float = 0.0
    stain_contrast: float = 0.0
    stain_hue_degrees: float = 0.0

    @property
    def is_nothing(self) -> bool:
        """Whether no cell is changed."""
        return self._replace(fill="black") == Ranges()
