"""A record: one cell as a serialised `tf.train.Example`, and the features that readers know it by."""

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.cells import LABELS

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

IMAGE = "image"
LABEL = "label"
FILENAME = "filename"
PATIENT_ID = "patient_id"

IMAGE_ENCODINGS = ("raw", "png")


class EncodedExample(NamedTuple):
    """A serialised record in three parts, so that the image need not be copied into it.

    Attributes:
      head: what stands before the image's bytes.
      image: these.
      tail: what stands behind them.
    """

    head: bytes
    image: bytes
    tail: bytes


def encode(image: bytes, label: int, filename: str, patient_id: str) -> EncodedExample:
    """Serialises one cell as a `tf.train.Example`, deterministically: features by name.

    Written by hand, since protocol buffers copy the image three times, which takes as long as a fifth of the resizing;
    the tests compare the bytes with theirs (tensorflow/core/example/{example,feature}.proto).

    Args:
      image: raw uint8 RGB bytes in C order [size, size, 3], or an encoded PNG.
      label: index into `cells.LABELS`.
      filename: path from the class folder on.
      patient_id: the patient, "" if unknown.
    """
    before, tail = _entry(FILENAME, _bytes_feature(filename.encode())), _tail(label, patient_id)
    start = _image_start(len(image))
    head = _field_start(1, len(before) + len(start) + len(image) + len(tail)) + before + start
    return EncodedExample(head, image, tail)


@functools.lru_cache
def _image_start(num_bytes: int) -> bytes:
    """What stands before an image's bytes in its entry of the map: the same for all raw images of a data set."""
    value = b""
    for number in (1, 1, 2):  # a value of a bytes list of a feature of the entry
        value = _field_start(number, len(value) + num_bytes) + value
    entry = _field(1, IMAGE.encode()) + value
    return _field_start(1, len(entry) + num_bytes) + entry


@functools.lru_cache
def _tail(label: int, patient_id: str) -> bytes:
    """What stands behind an image's bytes: the same for all cells of a patient and label."""
    patient = _entry(PATIENT_ID, _bytes_feature(patient_id.encode()))
    return _entry(LABEL, _field(3, _field(1, _varint(label)))) + patient


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _field(number: int, content: bytes) -> bytes:
    """A field of a message: length-delimited, as strings, messages and packed integers are."""
    return _field_start(number, len(content)) + content


def _field_start(number: int, num_bytes: int) -> bytes:
    return bytes([number << 3 | 2]) + _varint(num_bytes)


def _entry(name: str, feature: bytes) -> bytes:
    """An entry of the map `Features.feature`."""
    return _field(1, _field(1, name.encode()) + _field(2, feature))


def _bytes_feature(value: bytes) -> bytes:
    return _field(1, _field(1, value))


def tfds_features(image_size_px: int, image_encoding: str) -> "tfds.features.FeaturesDict":
    """The features as TFDS knows them.

    Returns:
      image: uint8 RGB [image_size_px, image_size_px, 3] in 0…255; label: int64, see `cells.LABELS`;
      filename, patient_id: strings.
    """
    import tensorflow_datasets as tfds

    shape = (image_size_px, image_size_px, 3)
    raw = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict(
        {
            IMAGE: raw if image_encoding == "raw" else tfds.features.Image(shape=shape, encoding_format="png"),
            LABEL: tfds.features.ClassLabel(names=list(LABELS)),
            FILENAME: tfds.features.Text(),
            PATIENT_ID: tfds.features.Text(),
        }
    )
