"""What surrounds a cell that was cut out by box: kept, or made black as around the NLM's cells."""

import cv2
import numpy as np

from pipeline.source.decode import has_background

_NEIGHBOUR_BRIDGE = 0.3  # of the shorter side: narrower bridges to neighbouring cells are cut


def apply_background(pixels: np.ndarray, background: str) -> np.ndarray:
    """Makes black what is not the cell, uint8 RGB [height, width, 3] in 0…255, of any size, if `background` is "black".

    The cell is the largest region that is darker in the green channel than Otsu's threshold, which stain and blood
    absorb. The image comes back as it is with "keep", if most of its border is black already, or if that region lies
    beside the image's centre, so that it is no cell cut out by box.
    """
    if background == "keep" or not has_background(pixels):
        return pixels
    green = cv2.GaussianBlur(pixels[..., 1], (0, 0), 1)
    green = np.maximum(green, np.percentile(green, 25).astype(np.uint8))  # else a dark parasite may set the threshold
    mask = cv2.threshold(green, 0, 255, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)[1]
    mask = _filled(mask, _contours(mask))
    side = int(_NEIGHBOUR_BRIDGE * min(mask.shape)) | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    contours = _contours(cv2.erode(mask, disc))
    mask = cv2.dilate(_filled(mask, [max(contours, key=cv2.contourArea)] if contours else []), disc)
    height, width = mask.shape
    return pixels * (mask[..., None] > 0) if mask[height // 2, width // 2] else pixels


def _contours(mask: np.ndarray) -> list[np.ndarray]:
    return list(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])


def _filled(mask: np.ndarray, contours: list[np.ndarray]) -> np.ndarray:
    return cv2.drawContours(np.zeros_like(mask), contours, -1, 255, cv2.FILLED)
