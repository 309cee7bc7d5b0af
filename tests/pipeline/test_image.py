import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from conftest import ROOT, png
from PIL import Image

from pipeline.source import decode
from pipeline.source.archive import UnreadableImage

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
                    decode.decode(damaged, "a.png")
            else:
                np.testing.assert_array_equal(decode.decode(damaged, "a.png").pixels, theirs)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks) + chunk(b"IEND", b"")


def header(width=47, height=31, kind=b"\x08\x02\0\0\0"):
    return b"IHDR", struct.pack(">II", width, height) + kind


DATA = zlib.compress(np.insert(PIXELS.reshape(31, -1), 0, 0, axis=1).tobytes())


@pytest.mark.parametrize(
    "chunks",
    [
        [header(), (b"IDAT", DATA)],
        [header(), (b"tIME", bytes(7)), (b"IDAT", DATA[:50]), (b"IDAT", DATA[50:])],
        [header(), (b"IDAT", DATA), (b"tEXt", b"a\0b")],
        [header(), (b"tRNS", struct.pack(">3H", *PIXELS[3, 4])), (b"IDAT", DATA)],
        [header(), (b"IDAT", DATA[:50]), (b"tEXt", b"a\0b"), (b"IDAT", DATA[50:])],
        [header(), (b"IDAT", DATA), (b"i!ME", b"no name")],
        [header(), (b"IDAT", DATA + b"more")],
        [header(height=32), (b"IDAT", DATA)],
        [header(height=30), (b"IDAT", DATA)],
        [header(width=0), (b"IDAT", DATA)],
        [header(width=48), (b"IDAT", DATA)],
        [header(kind=b"\x08\x02\0\0\x01"), (b"IDAT", DATA)],
        [header(kind=b"\x08\x06\0\0\0"), (b"IDAT", DATA)],
        [header()],
    ],
)
def test_odd_pngs_are_judged_as_opencv_does(chunks):
    encoded = png_of(*chunks)
    try:
        theirs = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        theirs = None
    if theirs is None:
        with pytest.raises(UnreadableImage):
            decode.decode(encoded, "a.png")
    else:
        np.testing.assert_array_equal(decode.decode(encoded, "a.png").pixels, theirs)


def test_a_png_whose_crcs_fit_is_taken():
    with_wrong_adler = DATA[:-1] + bytes([DATA[-1] ^ 1])
    encoded = png_of(header(), (b"IDAT", with_wrong_adler))
    np.testing.assert_array_equal(decode.decode(encoded, "a.png").pixels, PIXELS)


def test_a_transparent_colour_is_opencvs_to_decide():
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG", transparency=tuple(PIXELS[3, 4].tolist()))
    theirs = cv2.imdecode(np.frombuffer(out.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decode.decode(out.getvalue(), "a.png").pixels, theirs)


def test_rgb_is_bit_equal():
    decoded = decode.decode(saved("RGB"), "a.png")
    np.testing.assert_array_equal(decoded.pixels, PIXELS)
    assert decoded.conversions == ()


@pytest.mark.parametrize("size", [125, 20, 300])
def test_resize_is_opencvs_own(size):
    encoded = png(3, 133, 97)
    bgr = cv2.resize(
        cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), (size, size), interpolation=cv2.INTER_CUBIC
    )
    ours = decode.resize(decode.decode(encoded, "a.png").pixels, size)
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
    decoded = decode.decode(encoded, name)
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
        decode.decode(encoded, "a.png")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (5000, 5000)])
def test_absurd_sizes_are_refused_by_their_header(width, height):
    header = bytearray(saved("RGB"))
    header[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(UnreadableImage, match=r"claims .* pixels"):
        decode.decode(bytes(header), "a.png")


def test_png_encoding_is_lossless():
    np.testing.assert_array_equal(decode.decode(decode.encode_png(PIXELS), "a.png").pixels, PIXELS)
