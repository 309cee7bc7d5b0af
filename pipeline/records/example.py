"""A record: one cell as a serialised `tf.train.Example`, in TFRecord's framing, and its features as TFDS knows them.

The framing is the record's length (uint64), the masked CRC-32C of the length, the record, and its masked CRC-32C, all
little endian (tensorflow/core/lib/io/record_writer.h). Neither TensorFlow nor TFDS is needed for records: importing
them takes seconds.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import google_crc32c
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
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CRC.size
FOOTER_BYTES = _CRC.size
_MAX_RECORD_BYTES = 1 << 26  # the largest image that can be stored has 3 << 24

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
    """Serialises a cell, see `ParsedExample`, features by name; returns the record and where in it the image begins."""
    example = _Example()
    values = {FILENAME: filename.encode(), IMAGE: image, LABEL: label, PATIENT_ID: patient_id.encode()}
    for name, value in values.items():
        feature = example.features.feature.add(key=name).value
        (feature.int64_list if name == LABEL else feature.bytes_list).value.append(value)
    record = example.SerializeToString()
    num_bytes_behind_image = _Features(feature=example.features.feature[2:]).ByteSize()
    return record, len(record) - num_bytes_behind_image - len(image)


class ParsedExample(NamedTuple):
    """What a record holds."""

    image: bytes  # uint8 RGB in C order [size, size, 3], or a PNG
    label: int  # index into `cells.LABELS`
    filename: str  # path from the class folder on
    patient_id: str  # "" if unknown


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
    """Decodes a stored PNG, uint8 [n], to uint8 RGB [height, width, 3]; ValueError if it is none, or too large."""
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


class CorruptRecord(Exception):
    """A record of a TFRecord file is cut off or does not fit its checksums; the message says which and what."""


def _masked_crc32c(content: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord wants it, since CRCs of CRCs are weak."""
    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(record: bytes) -> tuple[bytes, bytes]:
    """Header and footer of a record."""
    length = _LENGTH.pack(len(record))
    return length + _CRC.pack(_masked_crc32c(length)), _CRC.pack(_masked_crc32c(record))


def read_at(buffer: Any, start: int) -> bytes:
    """The record whose header begins at a byte of a mapped file, as a slice of it; raises CorruptRecord at a fault."""
    name, first = f"record at byte {start}", start + HEADER_BYTES
    end = first + _length(buffer[start:first], name)
    return _checked(buffer[first:end], buffer[end : end + FOOTER_BYTES], end - first, name)


def read_records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields (offset of the record's header, record) of a TFRecord file; raises CorruptRecord at the first fault."""
    offset = 0
    for number in itertools.count():
        header = file.read(HEADER_BYTES)
        if not header:
            return
        name = f"record {number} at byte {offset}"
        length = _length(header, name)
        yield offset, _checked(file.read(length), file.read(FOOTER_BYTES), length, name)
        offset += HEADER_BYTES + length + FOOTER_BYTES


def _length(header: bytes, name: str) -> int:
    if len(header) < HEADER_BYTES:
        raise CorruptRecord(f"{name} is cut off")
    if _masked_crc32c(header[: _LENGTH.size]) != _CRC.unpack_from(header, _LENGTH.size)[0]:
        raise CorruptRecord(f"{name}: the checksum of its length does not fit")
    length = int(_LENGTH.unpack_from(header)[0])
    if length > _MAX_RECORD_BYTES:
        raise CorruptRecord(f"{name} claims {length} bytes; expected at most {_MAX_RECORD_BYTES}")
    return length


def _checked(record: bytes, footer: bytes, length: int, name: str) -> bytes:
    if len(record) < length or len(footer) < FOOTER_BYTES:
        raise CorruptRecord(f"{name} is cut off")
    if _masked_crc32c(record) != _CRC.unpack(footer)[0]:
        raise CorruptRecord(f"{name}: its checksum does not fit")
    return record


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
