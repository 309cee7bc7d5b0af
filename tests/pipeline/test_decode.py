import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from conftest import png
from PIL import ExifTags, Image

from pipeline.source import decode
from pipeline.source.files import UnreadableImage

PIXELS = np.random.default_rng(1).integers(0, 256, (31, 47, 3), np.uint8)
PAGE = Image.new("RGB", (47, 31))
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


def saved(mode, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(out, kind, **options)
    return out.getvalue()


def opencv(encoded):
    """OpenCV's RGB pixels, None if it rejects the file."""
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB) if encoded else None
    except cv2.error:
        return None


def assert_decoded_as_opencv_does(encoded):
    expected = opencv(encoded)
    if expected is None:
        with pytest.raises(UnreadableImage):
            decode.decode(encoded, "a.png")
    else:
        np.testing.assert_array_equal(decode.decode(encoded, "a.png").pixels, expected)


def test_damaged_plain_pngs():
    encoded = png(0)
    for position in [*range(0, len(encoded), 11), *range(len(encoded) - 12, len(encoded))]:
        assert_decoded_as_opencv_does(encoded[:position])
        assert_decoded_as_opencv_does(encoded[:position] + b"\x55" + encoded[position + 1 :])


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*given) for given in chunks) + chunk(b"IEND", b"")


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
def test_odd_pngs(chunks):
    assert_decoded_as_opencv_does(png_of(*chunks))


def test_a_png_whose_crcs_fit_is_taken():
    with_wrong_adler = DATA[:-1] + bytes([DATA[-1] ^ 1])
    encoded = png_of(header(), (b"IDAT", with_wrong_adler))
    np.testing.assert_array_equal(decode.decode(encoded, "a.png").pixels, PIXELS)


@pytest.mark.parametrize("size", [125, 20, 300])
def test_resize_is_opencvs_own(size):
    encoded = png(3, 133, 97)
    expected = cv2.resize(opencv(encoded), (size, size), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(decode.resize(decode.decode(encoded, "a.png").pixels, size), expected)


@pytest.mark.parametrize(
    ("encoded", "name", "conversions"),
    [
        (decode.encode_png(PIXELS), "a.png", ()),
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
        (saved("RGB", "WEBP", lossless=True), "a.webp", ()),
        (saved("RGB", "JPEG"), "a.png", ("JPEG by another suffix",)),
        (saved("RGB"), "a.JPG", ("PNG by another suffix",)),
        (saved("RGB", exif=TURNED), "a.png", ("turned by EXIF",)),
        (saved("RGB")[:-12] + chunk(b"eXIf", TURNED.tobytes()[6:]) + saved("RGB")[-12:], "a.png", ("turned by EXIF",)),
        (saved("RGB", "WEBP", lossless=True, exif=TURNED), "a.webp", ("turned by EXIF",)),
        (saved("RGB", "JPEG", exif=TURNED), "a.jpg", ("turned by EXIF",)),
        (saved("RGB", "TIFF", save_all=True, append_images=[PAGE]), "a.tif", ("first of several frames",)),
        (saved("RGB", save_all=True, append_images=[PAGE]), "a.png", ("first of several frames",)),
        (saved("RGB", transparency=(1, 2, 3)), "a.png", ("transparency ignored",)),
        (saved("RGB", "JPEG", icc_profile=b"profile"), "a.jpg", ("colour profile ignored",)),
        (cv2.imencode(".tif", PIXELS.astype(np.uint16))[1].tobytes(), "a.tif", ("16-bit colour",)),
        (saved("L", "TIFF"), "a.tif", ("grey",)),
    ],
)
def test_what_opencv_can_turn_into_rgb_is_converted_and_named(encoded, name, conversions):
    decoded = decode.decode(encoded, name)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.conversions == conversions
    np.testing.assert_array_equal(decoded.pixels, opencv(encoded))


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("a.png", "PNG", {}),
        ("a.bmp", "BMP", {}),
        ("a.jpg", "JPEG", {}),
        ("a.jpg", "JPEG", {"progressive": True}),
        ("a.tif", "TIFF", {}),
        ("a.tif", "TIFF", {"compression": "tiff_lzw"}),
        ("a.tif", "TIFF", {"compression": "jpeg"}),
        ("a.webp", "WEBP", {}),
        ("a.webp", "WEBP", {"lossless": True}),
    ],
)
def test_truncated_files_are_rejected_wherever_they_end(name, kind, options):
    encoded = saved("RGB", kind, **options)
    for end in np.linspace(1, len(encoded) - 3, 50, dtype=int):
        with pytest.raises(UnreadableImage):
            decode.decode(encoded[:end], name)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "cannot decode"),
        (saved("RGB", "JPEG")[:-200], "cannot decode"),
    ],
)
def test_the_rest_is_rejected_with_a_reason(encoded, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode.decode(encoded, "a.png")


def with_size(encoded, at, form, width, height):
    """A file whose header claims another size."""
    return encoded[:at] + struct.pack(form, width, height) + encoded[at + struct.calcsize(form) :]


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (png_of(header(100_000, 100_000), (b"IDAT", DATA)), "claims 100000 × 100000 pixels; expected at most 16777216"),
        (png_of(header(5000, 5000), header(), (b"IDAT", DATA)), "claims 5000 × 5000 pixels"),
        (png_of(header(5000, 5000, b"\x08\x06\0\0\0"), (b"IDAT", DATA)), "claims 5000 × 5000 pixels"),
        (with_size(png(0), 16, ">II", 5000, 5000), "claims 5000 × 5000 pixels"),  # though its CRC-32 is wrong
        (with_size(saved("RGB", "BMP"), 18, "<ii", 5000, 5000), "claims 5000 × 5000 pixels"),
        (with_size(saved("RGB", "BMP"), 18, "<ii", 10_000, 10_000), r"100000000 pixels.* at most 16777216"),
        (with_size(saved("RGB", "BMP"), 18, "<ii", 20_000, 20_000), r"400000000 pixels.* at most 16777216"),
        (saved("RGB", "GIF")[:6] + struct.pack("<HH", 5000, 5000) + saved("RGB", "GIF")[10:], "claims 5000 × 5000"),
        (b"P6 5000 5000 255\n" + bytes(99), "claims 5000 × 5000 pixels"),
        (b"P7\nWIDTH 5000\nHEIGHT 5000\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(99), "cannot decode its header"),
        (b"PF\n5000 5000\n-1.0\n" + bytes(99), "cannot decode its header"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 16000 +X 16000\n", "cannot decode its header"),
    ],
)
def test_absurd_sizes_are_rejected_before_opencv_sees_them(encoded, reason, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(UnreadableImage, match=reason):
        decode.decode(encoded, "a.png")
