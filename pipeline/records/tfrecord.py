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


class Sliceable(Protocol):
    """What a record is cut out of, such as an mmap."""

    def __getitem__(self, part: slice, /) -> bytes:
        """Some bytes; fewer at the end."""
        ...


class DamagedRecord(Exception):
    """A TFRecord file does not hold what its checksums say."""


def masked_crc32c(*parts: bytes) -> int:
    """CRC-32C of some bytes in parts, rotated and shifted as TFRecord wants it, since CRCs of CRCs are weak."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(*parts: bytes) -> tuple[bytes, bytes]:
    """What stands before and behind a record, given in parts, in the file: its header and its footer."""
    length = _LENGTH.pack(sum(map(len, parts)))
    return length + _CRC.pack(masked_crc32c(length)), _CRC.pack(masked_crc32c(*parts))


def read_at(buffer: Sliceable, start: int) -> bytes:
    """The record whose header begins at a byte of a mapped file, checksums checked.

    Raises:
      DamagedRecord: if it is cut off or does not fit its checksums.
    """
    first = start + HEADER_BYTES
    header = buffer[start:first]
    if len(header) < HEADER_BYTES or masked_crc32c(header[: _LENGTH.size]) != _CRC.unpack_from(header, _LENGTH.size)[0]:
        raise DamagedRecord(f"record at byte {start}: its header is cut off or does not fit its checksum")
    end = first + _LENGTH.unpack_from(header)[0]
    record, footer = buffer[first:end], buffer[end : end + FOOTER_BYTES]
    if len(footer) < FOOTER_BYTES or masked_crc32c(record) != _CRC.unpack(footer)[0]:
        raise DamagedRecord(f"record at byte {start} is cut off or does not fit its checksum")
    return record


def read_records(file: Readable) -> Iterator[tuple[int, bytes]]:
    """Yields (offset of the record's header, record) of a TFRecord file, checksums checked.

    Raises:
      DamagedRecord: at the first record whose length or content does not fit its checksum, or that is cut off.
    """
    offset = 0
    for record in scan_records(file):
        if record is None:
            raise DamagedRecord(f"record at byte {offset}: its checksum does not fit")
        yield offset, record
        offset += HEADER_BYTES + len(record) + FOOTER_BYTES


def scan_records(file: Readable) -> Iterator[bytes | None]:
    """Yields every record of a TFRecord file; None for one whose content does not fit its checksum.

    Raises:
      DamagedRecord: where the next record cannot be found: its length does not fit its checksum, or it is cut off.
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
        yield record if masked_crc32c(record) == _CRC.unpack(footer)[0] else None
        offset += HEADER_BYTES + length + FOOTER_BYTES
