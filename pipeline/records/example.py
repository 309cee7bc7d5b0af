"""A record: one cell as a serialised `tf.train.Example`, written and parsed, and its features as TFDS knows them.

Neither TensorFlow nor TFDS is needed for records: importing them takes seconds.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from pipeline.cells import LABELS

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

IMAGE = "image"
LABEL = "label"
FILENAME = "filename"
PATIENT_ID = "patient_id"

IMAGE_ENCODINGS = ("raw", "png")


# Of tensorflow/core/example/{example,feature}.proto what a cell needs.
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
  name: "Features"
  field { name: "feature" number: 1 type: TYPE_MESSAGE type_name: ".cells.Features.FeatureEntry" label: LABEL_REPEATED }
  nested_type {
    name: "FeatureEntry"
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".cells.Feature" label: LABEL_OPTIONAL }
    options { map_entry: true }
  }
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

    Returns:
      the record, and the byte offset of the image in it.
    """
    example = _Example()
    feature = example.features.feature
    feature[IMAGE].bytes_list.value.append(image)
    feature[LABEL].int64_list.value.append(label)
    feature[FILENAME].bytes_list.value.append(filename.encode())
    feature[PATIENT_ID].bytes_list.value.append(patient_id.encode())
    record = example.SerializeToString(deterministic=True)
    return record, len(record) - _num_bytes_behind_image(label, patient_id) - len(image)


@functools.lru_cache
def _num_bytes_behind_image(label: int, patient_id: str) -> int:
    features = _Features()
    features.feature[LABEL].int64_list.value.append(label)
    features.feature[PATIENT_ID].bytes_list.value.append(patient_id.encode())
    return features.ByteSize()


class ParsedExample(NamedTuple):
    """What a record holds; see `encode`."""

    image: bytes
    label: int
    filename: str
    patient_id: str


def parse(record: bytes) -> ParsedExample:
    """Parses a serialised record; raises ValueError if it is no record of a cell."""
    try:
        feature = _Example.FromString(record).features.feature
        return ParsedExample(
            feature[IMAGE].bytes_list.value[0],
            feature[LABEL].int64_list.value[0],
            feature[FILENAME].bytes_list.value[0].decode(),
            feature[PATIENT_ID].bytes_list.value[0].decode(),
        )
    except (DecodeError, IndexError) as error:
        raise ValueError(f"is no record of a cell: {error}") from error


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
