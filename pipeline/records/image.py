"""Stored PNGs into pixels. (`job.fill` encodes them by OpenCV, which a reader does not need.)"""

import struct

import numpy as np
from kornia_rs import io as kornia_io

MAX_SIZE_PX = 4096
"""Largest side of a stored image."""

_SIZE = struct.Struct(">16xII")  # of a PNG's header: width, height


def decode_png(stored: np.ndarray) -> np.ndarray:
    """Decodes a stored PNG, uint8 [n], to uint8 RGB [height, width, 3]; lossless, so as any other decoder does.

    Raises ValueError if it is no 8-bit RGB PNG of at most `MAX_SIZE_PX` pixels a side.
    """
    encoded = bytes(stored)
    try:
        width, height = _SIZE.unpack_from(encoded)
        if max(width, height) > MAX_SIZE_PX:
            raise ValueError(f"it is {width} pixels wide and {height} high")
        return np.asarray(kornia_io.decode_image_png_u8(encoded, (height, width), "rgb"))
    except Exception as error:  # kornia_rs has no exception of its own
        raise ValueError(f"a record's image is no PNG ({error}), though its checksum fits") from error
