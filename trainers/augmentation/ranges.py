"""How far augmentation may go: one name for each change, from flag to device. Light, for flags."""

from typing import NamedTuple

FLIPS = ("none", "horizontal", "both")
FILLS = ("black", "nearest")


class Ranges(NamedTuple):
    """How far a cell may be changed; everything at its default means not at all.

    Attributes:
      rotation_degrees: uniform in ± this.
      zoom: each axis by a factor uniform in 1 ± this.
      shift: each axis by a share of the image's side uniform in ± this.
      shear_degrees: uniform in ± this.
      flip: "none", "horizontal" or "both" axes, each with probability ½.
      fill: what comes in from beyond the border, "black" or the "nearest" pixel.
      stain_gain: factor of each channel, uniform in 1 ± this.
      stain_offset: added to each channel, uniform in ± this share of 255.
      stain_contrast: factor of each channel about the cell's mean, uniform in 1 ± this.
      stain_hue_degrees: turn about the grey axis, uniform in ± this.
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
