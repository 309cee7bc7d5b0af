"""One image file's bytes into pixels: 8-bit RGB, resized as the original work does it.

The pixels equal OpenCV's `cv2.resize(cv2.imdecode(…), …, INTER_CUBIC)` bit for bit. (One kind of file is judged more
kindly: a PNG whose CRC-32s fit, but not the Adler-32 that its compressed data ends with.) A header is read
before pixels are, so that a picture of absurd size is refused before memory is taken for it.
"""

import io
import struct
import warnings
from pathlib import PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
from kornia_rs import io as kornia_io
from PIL import ExifTags, Image

from pipeline import MAX_PIXELS
from pipeline.source.archive import UnreadableImage

Image.MAX_IMAGE_PIXELS = None  # sizes are checked here; Pillow would print warnings about them
warnings.filterwarnings("ignore", module="PIL")  # of truncated files: these are rejected

_CONVERTED_MODES = {
    "1": "grey",
    "L": "grey",
    "I": "16-bit grey",
    "I;16": "16-bit grey",
    "I;16B": "16-bit grey",
    "F": "float grey",
    "LA": "grey with alpha",
    "P": "palette",
    "PA": "palette",
    "RGBA": "alpha",
    "RGBX": "alpha",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "LAB",
    "HSV": "HSV",
}
_SUFFIXES_OF_FORMAT = {
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg"},
    "MPO": {".jpg", ".jpeg"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
}


_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_HEADER = struct.Struct(">16sII5s4x")
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_CHUNK_FRAME_BYTES = 12  # length, name, checksum
_PLAIN_PNG_KIND = b"\x08\x02\0\0\0"  # 8 bits, RGB, not interlaced
_PLAIN_PNG_CHUNKS = {b"IDAT", b"pHYs", b"tEXt", b"tIME"}  # none that changes how it looks, such as a transparent colour


class DecodedImage(NamedTuple):
    """Pixels as OpenCV decodes them.

    Attributes:
      pixels: uint8 RGB [height, width, 3].
      conversions: what had to be changed to get there, such as `("palette",)`; empty for an 8-bit RGB file
        whose name fits its content.
    """

    pixels: np.ndarray
    conversions: tuple[str, ...]


def decode(encoded: bytes, filename: str) -> DecodedImage:
    """Decodes an image file to 8-bit RGB.

    Args:
      encoded: the file's bytes.
      filename: its name, to notice a suffix that does not fit.

    Raises:
      UnreadableImage: if OpenCV cannot make a picture of it (truncated, damaged, no image at all), or if it has
        more than `MAX_PIXELS` pixels.
    """
    if not encoded:
        raise UnreadableImage("empty file")
    if filename.lower().endswith(".png") and (size := _plain_png_size(encoded)):
        # As nearly all cells are: lossless, so that every decoder gives OpenCV's pixels; this one takes half the time.
        try:
            return DecodedImage(np.asarray(kornia_io.decode_image_png_u8(encoded, size, "rgb")), ())
        except Exception:  # it knows no other; OpenCV has the last word
            pass
    conversions = _conversions(encoded, filename)
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise UnreadableImage(f"OpenCV cannot decode it: {error.err or error}") from error
    if pixels is None:
        raise UnreadableImage("OpenCV cannot decode it: no image, damaged or truncated")
    return DecodedImage(pixels, conversions)


def decode_png(stored: np.ndarray) -> np.ndarray:
    """Decodes what a record holds as a PNG.

    Args:
      stored: uint8 [n], the PNG's bytes.

    Returns:
      uint8 RGB [height, width, 3].

    Raises:
      ValueError: if it is none.
    """
    pixels = cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise ValueError("a record's image is no PNG, though its checksum fits")
    return pixels


def _plain_png_size(encoded: bytes) -> tuple[int, int] | None:
    """Height and width of a plain RGB PNG with all of its chunks, and of bounded size; None for any other file."""
    if not (encoded.startswith(_PNG_START) and encoded.endswith(_PNG_END)):
        return None
    _, width, height, kind = _PNG_HEADER.unpack_from(encoded)
    if kind != _PLAIN_PNG_KIND or not 0 < width * height <= MAX_PIXELS:
        return None
    offset, end = _PNG_HEADER.size, len(encoded) - len(_PNG_END)
    while offset < end:
        num_bytes, name = _PNG_CHUNK.unpack_from(encoded, offset)
        if name not in _PLAIN_PNG_CHUNKS:
            return None
        offset += _PNG_CHUNK_FRAME_BYTES + num_bytes
    return (height, width) if offset == end else None


def _conversions(encoded: bytes, filename: str) -> tuple[str, ...]:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            kind, mode, (width, height) = image.format, image.mode, image.size
            found = _left_out(image)
    except Exception:  # Pillow's readers raise many kinds for damaged headers; OpenCV has the last word
        return ("read without a header check",)
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"claims {width} × {height} pixels; expected at most {MAX_PIXELS} in all")
    if kind == "PNG" and encoded[24] == 16 and mode in ("RGB", "RGBA"):
        found.append("16-bit colour")  # Pillow has no mode of its own for it; byte 24 is IHDR's bit depth
    if mode in _CONVERTED_MODES:
        found.append(_CONVERTED_MODES[mode])
    if PurePosixPath(filename).suffix.lower() not in _SUFFIXES_OF_FORMAT.get(kind or "", set()):
        found.append(f"{kind} by another suffix")
    return tuple(found)


def _left_out(image: Image.Image) -> list[str]:
    """What OpenCV makes of a picture's orientation and frames."""
    found = []
    if image.format in ("JPEG", "MPO", "TIFF") and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        found.append("turned by EXIF")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        found.append("first of several frames")
    return found


def resize(pixels: np.ndarray, image_size_px: int) -> np.ndarray:
    """Resizes to a square as the original does: `cv2.resize` with `INTER_CUBIC`, aspect not kept.

    Args:
      pixels: uint8 [height, width, 3].
      image_size_px: side of the result in pixels.

    Returns:
      uint8 [image_size_px, image_size_px, 3], same channel order.
    """
    return cv2.resize(pixels, (image_size_px, image_size_px), interpolation=cv2.INTER_CUBIC)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 RGB [h, w, 3] pixels as PNG, losslessly."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
