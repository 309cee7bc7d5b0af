import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT, png
from PIL import Image

from pipeline import image
from pipeline.source import UnreadableImage

PIXELS = np.random.default_rng(1).integers(0, 256, (31, 47, 3), np.uint8)


def saved(mode, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(out, kind, **options)
    return out.getvalue()


def test_opencvs_own_limit_holds_whoever_imports_it_first():
    code = "import pipeline.fill, cv2, numpy as np; print(cv2.imdecode(np.frombuffer({}, np.uint8), 1))"
    header = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 16000 +X 16000\n"
    result = subprocess.run([sys.executable, "-c", code.format(header)], cwd=ROOT, capture_output=True, text=True)
    assert "CV_IO_MAX_IMAGE_PIXELS" in result.stderr


def test_damaged_plain_pngs_are_judged_as_opencv_does():
    encoded = png(0)
    for position in [*range(0, len(encoded), 11), *range(len(encoded) - 12, len(encoded))]:
        for damaged in (encoded[:position], encoded[:position] + b"\x55" + encoded[position + 1 :]):
            theirs = cv2.imdecode(np.frombuffer(damaged, np.uint8), cv2.IMREAD_COLOR_RGB) if damaged else None
            if theirs is None:
                with pytest.raises(UnreadableImage):
                    image.decode(damaged, "a.png")
            else:
                np.testing.assert_array_equal(image.decode(damaged, "a.png").pixels, theirs)


def test_a_transparent_colour_is_opencvs_to_decide():
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG", transparency=tuple(PIXELS[3, 4].tolist()))
    theirs = cv2.imdecode(np.frombuffer(out.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(image.decode(out.getvalue(), "a.png").pixels, theirs)


def test_rgb_is_bit_equal():
    decoded = image.decode(saved("RGB"), "a.png")
    np.testing.assert_array_equal(decoded.pixels, PIXELS)
    assert decoded.conversions == ()


@pytest.mark.parametrize("size", [125, 20, 300])
def test_resize_is_opencvs_own(size):
    encoded = png(3, 133, 97)
    bgr = cv2.resize(
        cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), (size, size), interpolation=cv2.INTER_CUBIC
    )
    ours = image.resize(image.decode(encoded, "a.png").pixels, size)
    np.testing.assert_array_equal(ours, bgr[..., ::-1])


@pytest.mark.parametrize(
    ("encoded", "name", "conversions"),
    [
        (saved("L"), "a.png", ("grey",)),
        (saved("1"), "a.png", ("grey",)),
        (saved("P"), "a.png", ("palette",)),
        (saved("RGBA"), "a.png", ("alpha",)),
        (saved("LA"), "a.png", ("grey with alpha",)),
        (png(0, channels=3, dtype=np.uint16), "a.png", ("16-bit colour",)),
        (png(0, channels=1, dtype=np.uint16), "a.png", ("16-bit grey",)),
        (saved("RGB", "JPEG"), "a.jpg", ()),
        (saved("CMYK", "JPEG"), "a.jpeg", ("CMYK",)),
        (saved("RGB", "BMP"), "a.bmp", ()),
        (saved("RGB", "TIFF"), "a.tif", ()),
        (saved("RGB", "JPEG"), "a.png", ("JPEG by another suffix",)),
        (saved("RGB"), "a.JPG", ("PNG by another suffix",)),
    ],
)
def test_what_opencv_can_turn_into_rgb_is_converted_and_named(encoded, name, conversions):
    decoded = image.decode(encoded, name)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape[2] == 3
    assert decoded.conversions == conversions
    expected = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decoded.pixels, expected)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am no image", "cannot decode"),
        (saved("RGB")[:200], "cannot decode"),
        (saved("RGB")[:-20], "cannot decode"),
        (saved("RGB", "JPEG")[:-200], "cannot decode"),
        (saved("RGB")[:8], "cannot decode"),
    ],
)
def test_the_rest_is_rejected_with_a_reason(encoded, reason):
    with pytest.raises(UnreadableImage, match=reason):
        image.decode(encoded, "a.png")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (5000, 5000)])
def test_absurd_sizes_are_refused_by_their_header(width, height):
    header = bytearray(saved("RGB"))
    header[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(UnreadableImage, match=r"claims .* pixels"):
        image.decode(bytes(header), "a.png")


def test_png_encoding_is_lossless():
    np.testing.assert_array_equal(image.decode(image.encode_png(PIXELS), "a.png").pixels, PIXELS)
