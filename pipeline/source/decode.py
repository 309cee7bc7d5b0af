"""Image files to pixels: decoded to 8-bit RGB, cut free from what surrounds the cell, resized as the original does.

The pixels equal OpenCV's `cv2.resize(cv2.imdecode(…), …, INTER_CUBIC)` bit for bit. (One kind of file is accepted that
OpenCV rejects: a PNG whose CRC-32s fit, but not the Adler-32 at the end of its compressed data.) The size is read from
the header first, so that an image that claims too many pixels is rejected before memory is taken for it.
"""

import functools
import io
import struct
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from kornia_rs import io as kornia_io
from PIL import ExifTags, Image

from pipeline.source.files import UnreadableImage

MAX_PIXELS = 1 << 24  # larger images are rejected: a cell crop has about 20,000 pixels
_CONVERSIONS = {"1": "grey", "L": "grey", "LA": "grey with alpha", "I": "16-bit grey", "F": "float grey"}
_CONVERSIONS |= {"P": "palette", "PA": "palette", "RGBA": "alpha", "RGBX": "alpha"}
_SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}  # else as the format

_MAX_BLACK = 16  # JPEG leaves some noise in what was black
_NEIGHBOUR_BRIDGE = 0.3  # of the shorter side: narrower bridges to neighbouring cells are cut

_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_HEADER = struct.Struct(">16xII5s4x")  # width, height, kind
_PNG_CHUNK = struct.Struct(">I4s")
_PLAIN_PNG_KIND = b"\x08\x02\0\0\0"  # 8 bits, RGB, not interlaced
_PLAIN_PNG_CHUNKS = {b"IDAT", b"pHYs", b"tEXt", b"tIME"}  # these leave the pixels alone, as tRNS and others do not


class DecodedImage(NamedTuple):
    """Pixels as OpenCV decodes them."""

    pixels: np.ndarray  # uint8 RGB [height, width, 3]
    conversions: tuple[str, ...]  # such as ("palette",); empty for an 8-bit RGB file whose suffix fits


def decode(encoded: bytes, filename: str) -> DecodedImage:
    """Decodes an image file's bytes to 8-bit RGB; by its name it notices a suffix that does not fit.

    Raises UnreadableImage if OpenCV cannot decode it (truncated, damaged, not an image), if it has more than
    `MAX_PIXELS` pixels, or if its header does not tell how many.
    """
    if not encoded:
        raise UnreadableImage("empty file")
    if filename.lower().endswith(".png") and (size := _plain_png_size(encoded)):
        # Nearly all cells are plain PNGs. They are lossless, so kornia gives OpenCV's pixels in half the time.
        try:
            return DecodedImage(np.asarray(kornia_io.decode_image_png_u8(encoded, size, "rgb")), ())
        except Exception:  # kornia raises nothing more specific; OpenCV decides
            pass
    _silence_libraries()
    conversions = _read_header(encoded, filename)
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise UnreadableImage(f"OpenCV cannot decode it: {error.err or error}") from error
    if pixels is None:
        raise UnreadableImage("OpenCV cannot decode it: not an image, damaged or truncated")
    return DecodedImage(pixels, conversions)


def resize(pixels: np.ndarray, image_size_px: int) -> np.ndarray:
    """Resizes uint8 [height, width, 3] pixels to a square of this side, as the original does: by `INTER_CUBIC`."""
    return cv2.resize(pixels, (image_size_px, image_size_px), interpolation=cv2.INTER_CUBIC)


def has_background(pixels: np.ndarray) -> bool:
    """Whether less than half of the border of a uint8 [height, width, 3] image is black, as masked cells' borders are.

    Of the NLM's cells at least 59 % of the border is; of cells that were cut out by box at most 23 %.
    """
    green = pixels[..., 1]  # one channel suffices and takes 7 instead of 50 µs
    edges = (green[0], green[-1], green[:, 0], green[:, -1])
    return 2 * sum(int((edge > _MAX_BLACK).sum()) for edge in edges) > sum(map(len, edges))


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


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 RGB [height, width, 3] pixels as PNG, losslessly."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def _plain_png_size(encoded: bytes) -> tuple[int, int] | None:
    """Height and width of a plain RGB PNG with all of its chunks, and of bounded size; None for any other file."""
    if not (encoded.startswith(_PNG_START) and encoded.endswith(_PNG_END)):
        return None
    width, height, kind = _PNG_HEADER.unpack_from(encoded)
    if kind != _PLAIN_PNG_KIND or not 0 < width * height <= MAX_PIXELS:
        return None
    offset, end = _PNG_HEADER.size, len(encoded) - len(_PNG_END)
    while offset < end:
        num_bytes, name = _PNG_CHUNK.unpack_from(encoded, offset)
        if name not in _PLAIN_PNG_CHUNKS:
            return None
        offset += 12 + num_bytes  # length, name, content, CRC-32
    return (height, width) if offset == end else None


@functools.cache
def _silence_libraries() -> None:
    """Silences the libraries' own logs, once per process: the reason for a rejection says it already."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    warnings.filterwarnings("ignore", module="PIL")


def _read_header(encoded: bytes, filename: str) -> tuple[str, ...]:
    """Checks the size that the header claims, before OpenCV takes memory for it; returns the conversions.

    OpenCV makes them without a word: it turns by EXIF, and leaves out transparency, profiles and further frames.
    """
    is_png = encoded.startswith(_PNG_START) and len(encoded) >= _PNG_HEADER.size
    if is_png:  # what OpenCV reads, even where Pillow stops at a damaged byte or takes a second header
        _check_size(*_PNG_HEADER.unpack_from(encoded)[:2])
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image_format, mode, size = image.format or "", image.mode, image.size
            exif, bits = Image.Exif() if is_png else image.getexif(), 8
            if is_png:
                bits = encoded[24]
                exif.load(encoded.partition(b"eXIf")[2])  # may lie behind the pixels, where Pillow would decode them
            elif image_format == "TIFF":
                bits = np.max(exif.get(ExifTags.Base.BitsPerSample, bits))
            suffixes = _SUFFIXES.get(image_format, f".{image_format.lower()}")
            conversions = {
                "turned by EXIF": exif.get(ExifTags.Base.Orientation, 1) in range(2, 9),
                "first of several frames": image_format != "MPO" and getattr(image, "n_frames", 1) > 1,
                "transparency ignored": "transparency" in image.info,
                "colour profile ignored": "icc_profile" in image.info,
                "16-bit colour": bits == 16 and mode in ("RGB", "RGBA"),  # Pillow has no mode for it
                _CONVERSIONS.get(mode.partition(";")[0], mode): mode != "RGB",
                f"{image_format} by another suffix": not filename.lower().endswith(suffixes),
            }
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"{error}; expected at most {MAX_PIXELS} pixels in all") from error
    except Exception as error:  # Pillow's readers raise many kinds for damaged headers
        if is_png:  # its size is known and OpenCV decides
            return ("read without a header check",)
        raise UnreadableImage("cannot decode its header: not an image, damaged or of an unknown format") from error
    _check_size(*size)
    return tuple(name for name, applies in conversions.items() if applies)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"claims {width} × {height} pixels; expected at most {MAX_PIXELS} in all")
