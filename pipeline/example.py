"""A record: one cell as a serialised `tf.train.Example`, and the features that readers know it by.

Serialising is done with TFDS's copy of TensorFlow's protocol buffers, since importing TensorFlow takes seconds in
every worker.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_generated_pb2

from pipeline.cells import LABELS

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

IMAGE = "image"
LABEL = "label"
FILENAME = "filename"
PATIENT_ID = "patient_id"

IMAGE_ENCODINGS = ("raw", "png")
_SEARCHED_BYTES = 64


def serialize(image: bytes, label: int, filename: str, patient_id: str) -> bytes:
    """Serialises one cell, deterministically.

    Args:
      image: raw uint8 RGB bytes in C order [size, size, 3], or an encoded PNG.
      label: index into `cells.LABELS`.
      filename: path from the class folder on.
      patient_id: the patient, "" if unknown.
    """
    example = tf_example_generated_pb2.Example()
    feature = example.features.feature
    feature[IMAGE].bytes_list.value.append(image)
    feature[LABEL].int64_list.value.append(label)
    feature[FILENAME].bytes_list.value.append(filename.encode())
    feature[PATIENT_ID].bytes_list.value.append(patient_id.encode())
    return example.SerializeToString(deterministic=True)


class ParsedExample(NamedTuple):
    """What a record holds; see `serialize`."""

    image: bytes
    label: int
    filename: str
    patient_id: str


def parse(record: bytes) -> ParsedExample:
    """Reads what `serialize` made.

    Raises:
      ValueError: if it is no record of a cell.
    """
    try:
        feature = tf_example_generated_pb2.Example.FromString(record).features.feature
        return ParsedExample(
            feature[IMAGE].bytes_list.value[0],
            feature[LABEL].int64_list.value[0],
            feature[FILENAME].bytes_list.value[0].decode(),
            feature[PATIENT_ID].bytes_list.value[0].decode(),
        )
    except (DecodeError, IndexError) as error:
        raise ValueError(f"is no record of a cell: {error}") from error


def find_image(record: bytes, image: bytes) -> int:
    """The offset of an image's bytes in its record; `bytes.find` takes longer for it than resizing the image."""
    offset = record.find(image[:_SEARCHED_BYTES])
    while record[offset : offset + len(image)] != image:
        offset = record.index(image[:_SEARCHED_BYTES], offset + 1)
    return offset


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
