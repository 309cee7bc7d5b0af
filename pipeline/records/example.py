"""A record: one cell as a serialised `tf.train.Example`, written and parsed, and its features as TFDS knows them.

Neither TensorFlow nor TFDS is needed for records: importing them takes seconds.
"""

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from kornia_rs import io as kornia_io

from pipeline.cells import LABELS

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

IMAGE, LABEL, FILENAME, PATIENT_ID = "image", "label", "filename", "patient_id"
IMAGE_ENCODINGS = ("raw", "png")
MAX_SIZE_PX = 4096  # largest side of a stored image
_PNG_SIZE = struct.Struct(">16xII")  # in its header: width, height

# Of tensorflow/core/example/{example,feature}.proto what a cell needs, with the map as the entries that encode it.
_PROTO = """
name: "cell_example.proto" package: "cells" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
message_type { name: "Int64List" field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".cells.BytesList" label: LABEL_OPTIONAL }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".cells.Int64List" label: LABEL_OPTIONAL }
}
message_type {
  name: "Entry"
  field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".cells.Feature" label: LABEL_OPTIONAL }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 type: TYPE_MESSAGE type_name: ".cells.Entry" label: LABEL_REPEATED }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".cells.Features" label: LABEL_OPTIONAL }
}
"""
_pool = descriptor_pool.DescriptorPool()
_pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
_Example, _Features = (
    message_factory.GetMessageClass(_pool.FindMessageTypeByName(name)) for name in ("cells.Example", "cells.Features")
)


def encode(image: bytes, label: int, filename: str, patient_id: str) -> tuple[bytes, int]:
    """Serialises one cell as a `tf.train.Example`, deterministically: features by name.

    Args:
      image: raw uint8 RGB bytes in C order [size, size, 3], or an encoded PNG.
      label: index into `cells.LABELS`.
      filename: path from the class folder on.
      patient_id: the patient, "" if unknown.

    Returns the record, and the byte offset of the image in it.
    """
    example = _Example()
    values = {FILENAME: filename.encode(), IMAGE: image, LABEL: label, PATIENT_ID: patient_id.encode()}
    for name, value in values.items():
        feature = example.features.feature.add(key=name).value
        (feature.int64_list if name == LABEL else feature.bytes_list).value.append(value)
    record = example.SerializeToString()
    num_bytes_behind_image = _Features(feature=example.features.feature[2:]).ByteSize()
    return record, len(record) - num_bytes_behind_image - len(image)


class ParsedExample(NamedTuple):
    """What a record holds; see `encode`."""

    image: bytes
    label: int
    filename: str
    patient_id: str


def parse(record: bytes) -> ParsedExample:
    """Parses a serialised record; raises ValueError if it is no record of a cell."""
    try:
        feature = {entry.key: entry.value for entry in _Example.FromString(record).features.feature}
        return ParsedExample(
            feature[IMAGE].bytes_list.value[0],
            feature[LABEL].int64_list.value[0],
            feature[FILENAME].bytes_list.value[0].decode(),
            feature[PATIENT_ID].bytes_list.value[0].decode(),
        )
    except (DecodeError, LookupError) as error:
        raise ValueError(f"is no record of a cell: {error}") from error


def decode_png(stored: np.ndarray) -> np.ndarray:
    """Decodes a stored PNG, uint8 [n], to uint8 RGB [height, width, 3]; lossless, so as any other decoder does.

    Raises ValueError if it is no 8-bit RGB PNG of at most `MAX_SIZE_PX` pixels a side.
    """
    encoded = bytes(stored)
    try:
        width, height = _PNG_SIZE.unpack_from(encoded)
        if max(width, height) > MAX_SIZE_PX:
            raise ValueError(f"it is {width} pixels wide and {height} high")
        return np.asarray(kornia_io.decode_image_png_u8(encoded, (height, width), "rgb"))
    except Exception as error:  # kornia_rs has no exception of its own
        raise ValueError(f"a record's image is no PNG ({error}), though its checksum fits") from error


def decode_image(stored: bytes, size_px: int, is_png: bool) -> np.ndarray:
    """A record's image, uint8 RGB [size, size, 3]; raises ValueError if it is none of this size."""
    image = np.frombuffer(stored, np.uint8)
    return (decode_png(image) if is_png else image).reshape(size_px, size_px, 3)


def tfds_features(image_size_px: int, image_encoding: str) -> "tfds.features.FeaturesDict":
    """The features as TFDS knows them: image, uint8 RGB [size, size, 3] in 0…255; label, int64; and two strings."""
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
