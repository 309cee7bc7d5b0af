"""Cells cut out by box get black surroundings; cells that have them already stay as they are."""

import cv2
import numpy as np
import pytest

from pipeline import synthetic
from pipeline.source.decode import apply_background


def cut_out_by_box(light=(225, 235, 215), cell=(190, 90, 150)):
    """A cell with a hole, a dark parasite and a neighbour that touches it; and the cell's mask."""
    pixels = np.full((90, 100, 3), light, np.uint8)
    cv2.circle(pixels, (50, 45), 34, cell, cv2.FILLED)
    mask = (pixels != light).any(axis=-1)
    cv2.circle(pixels, (50, 45), 6, light, cv2.FILLED)
    cv2.circle(pixels, (60, 50), 5, (90, 20, 110), cv2.FILLED)
    cv2.circle(pixels, (100, 10), 27, cell, cv2.FILLED)
    return pixels, mask


@pytest.mark.parametrize("cell", [(190, 90, 150), (200, 205, 195)])
def test_what_is_not_the_cell_becomes_black(cell):
    pixels, mask = cut_out_by_box(cell=cell)
    masked = apply_background(pixels, "black")
    is_cell = masked.any(axis=-1)
    assert (is_cell & mask).sum() > 0.98 * mask.sum(), "hole and parasite belong to the cell"
    assert (is_cell & ~mask).sum() < 0.03 * mask.sum(), "the neighbour does not"
    np.testing.assert_array_equal(masked[is_cell], pixels[is_cell])
    np.testing.assert_array_equal(apply_background(pixels, "black"), masked)
    assert apply_background(pixels, "keep") is pixels
    assert apply_background(masked, "black") is masked, "done once, nothing is left to do"


def test_black_surroundings_and_what_is_no_cell_stay():
    for _, pixels in synthetic.cells(4, 1, seed=3):
        assert apply_background(pixels, "black") is pixels
    ring = 255 - cut_out_by_box()[0]  # darker around than within
    for pixels in (ring, np.full((1, 1, 3), 200, np.uint8), np.full((5, 300, 3), 200, np.uint8)):
        np.testing.assert_array_equal(apply_background(pixels, "black"), pixels)
