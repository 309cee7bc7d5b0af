"""TFRecord framing: records in, a file with checksums out, and back. No TensorFlow needed.

A record is its length (uint64), the masked CRC-32C of the length, the bytes, and the masked CRC-32C of the bytes,
little endian (tensorflow/core/lib/io/record_writer.h).
"""

import itertools
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import google_crc32c

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CRC.size
FOOTER_BYTES = _CRC.size
_MAX_RECORD_BYTES = 1 << 26  # the largest image that can be stored has 3 << 24


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
    """The record whose header begins at a byte of a mapped file (mmap or uint8 [n]: a slice of it).

    Raises CorruptRecord if it is cut off or does not fit its checksums.
    """
    name, first = f"record at byte {start}", start + HEADER_BYTES
    end = first + _length(buffer[start:first], name)
    return _checked(buffer[first:end], buffer[end : end + FOOTER_BYTES], end - first, name)


def read_records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields (offset of the record's header, record) of a TFRecord file.

    Raises CorruptRecord at the first record that is cut off or does not fit its checksums.
    """
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
