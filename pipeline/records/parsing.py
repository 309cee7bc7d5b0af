"""What `example` has made, read again: a serialised record in, the cell out.

Read with TFDS's copy of TensorFlow's protocol buffers, since importing TensorFlow takes seconds. Whoever only writes
records leaves this module alone: importing TFDS takes its time, too. It is imported here, not where it is used, because
threads that begin to import TFDS together can wait for each other for ever (etils/epy/lazy_imports_utils.py replaces
`import` for all threads meanwhile).
"""

from typing import NamedTuple

from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_generated_pb2

from pipeline.records.example import FILENAME, IMAGE, LABEL, PATIENT_ID

_SEARCHED_BYTES = 64


class ParsedExample(NamedTuple):
    """What a record holds; see `example.encode`."""

    image: bytes
    label: int
    filename: str
    patient_id: str


def parse(record: bytes) -> ParsedExample:
    """Reads a serialised record.

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


def parse_behind_image(tail: bytes) -> tuple[int, str] | None:
    """Label and patient from the bytes of a record behind its image, see `example.encode`; None if they are damaged."""
    try:
        features = tf_example_generated_pb2.Example().features
        features.ParseFromString(tail)  # whole entries of the map
        feature = features.feature
        return feature[LABEL].int64_list.value[0], feature[PATIENT_ID].bytes_list.value[0].decode()
    except (DecodeError, IndexError, UnicodeDecodeError):
        return None


def find_image(record: bytes, image: bytes) -> int:
    """The offset of an image's bytes in its record; `bytes.find` takes longer for it than resizing the image."""
    offset = record.find(image[:_SEARCHED_BYTES])
    while record[offset : offset + len(image)] != image:
        offset = record.index(image[:_SEARCHED_BYTES], offset + 1)
    return offset
