"""TFRecord framing: records in, a file with checksums out, and back. No TensorFlow needed.

A record is its length (uint64), the masked CRC-32C of the length, the bytes, and the masked CRC-32C of the bytes,
little endian (tensorflow/core/lib/io/record_writer.h).
"""

import struct
from collections.abc import Iterator
from typing import Protocol

import google_crc32c

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CRC.size
FOOTER_BYTES = _CRC.size


class Readable(Protocol):
    """What records are read from."""

    def read(self, num_bytes: int, /) -> bytes:
        """Up to that many bytes; fewer at the end."""
        ...


class DamagedRecord(Exception):
    """A TFRecord file does not hold what its checksums say."""


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord wants it, since CRCs of CRCs are weak."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(record: bytes) -> tuple[bytes, bytes, bytes]:
    """A record as it stands in the file: header, record, footer."""
    length = _LENGTH.pack(len(record))
    return length + _CRC.pack(masked_crc32c(length)), record, _CRC.pack(masked_crc32c(record))


def read_records(file: Readable) -> Iterator[tuple[int, bytes]]:
    """Yields (offset of the record's header, record) of a TFRecord file, checksums checked.

    Raises:
      DamagedRecord: at the first record whose length or content does not fit its checksum, or that is cut off.
    """
    offset = 0
    while header := file.read(HEADER_BYTES):
        number = f"record at byte {offset}"
        if len(header) < HEADER_BYTES:
            raise DamagedRecord(f"{number} is cut off")
        if masked_crc32c(header[: _LENGTH.size]) != _CRC.unpack_from(header, _LENGTH.size)[0]:
            raise DamagedRecord(f"{number}: the checksum of its length does not fit")
        (length,) = _LENGTH.unpack_from(header)
        record = file.read(length)
        footer = file.read(FOOTER_BYTES)
        if len(record) < length or len(footer) < FOOTER_BYTES:
            raise DamagedRecord(f"{number} is cut off")
        if masked_crc32c(record) != _CRC.unpack(footer)[0]:
            raise DamagedRecord(f"{number}: its checksum does not fit")
        yield offset, record
        offset += HEADER_BYTES + length + FOOTER_BYTES
