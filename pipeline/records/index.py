"""The index next to each shard, which tells where its records and images lie; records without images read by it."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pipeline import storage
from pipeline.cells import LABELS
from pipeline.records import example, layout, tfrecord
from pipeline.records.manifest import corrupt_shard

_HEADER_BYTES = 128  # what `np.save` writes before the array
INDEX_COLUMNS = ("record_offset", "image_offset", "image_num_bytes", "label")
"""Columns of a shard's index, int64 [records, 4]: byte offsets in the shard's file, to be read by a memory map."""
_NUM_CHECKED_RECORDS = 16  # per shard


def index_array(rows: Sequence[tuple[int, int, int, int]] | np.ndarray) -> np.ndarray:
    """A shard's index: int64 [records, 4], see `INDEX_COLUMNS`."""
    return np.array(rows, np.int64).reshape(-1, len(INDEX_COLUMNS))


def read_index(shard: str, entry: Mapping[str, Any] | None = None) -> np.ndarray:
    """Reads a shard's index: int64 [records, 4], see `INDEX_COLUMNS`.

    With `entry`, the shard in the manifest, the size of the shard and the digest of the index are compared. Raises
    InputError if there is no index, or it or the shard is not what the manifest says.
    """
    try:
        num_bytes = epath.Path(shard).stat().length
        content = storage.read_file(epath.Path(layout.index_name(shard)), max_bytes=_HEADER_BYTES + num_bytes)
    except (OSError, ValueError) as error:
        raise corrupt_shard(shard, f"it or its index cannot be read ({error})") from error
    if entry and (num_bytes, hashlib.sha256(content).hexdigest()) != (entry["num_bytes"], entry["index_sha256"]):
        raise corrupt_shard(shard, "it or its index is not what the manifest says")
    # Its header is not believed: it may ask for more memory than there is.
    num_rows = max(0, len(content) - _HEADER_BYTES) // (8 * len(INDEX_COLUMNS))
    index = index_array(np.frombuffer(content[-8 * len(INDEX_COLUMNS) * num_rows or len(content) :], np.int64))
    if to_bytes(index) != content:
        raise corrupt_shard(shard, f"its index does not have the int64 columns {', '.join(INDEX_COLUMNS)}")
    starts, images, lengths, labels = index.T
    ends = np.append(starts[1:], num_bytes)
    fits = (starts >= 0) & (starts < images) & (images <= ends) & (lengths >= 0) & (lengths <= ends - images)
    if not (fits & np.isin(labels, range(len(LABELS)))).all():
        raise corrupt_shard(shard, "its index does not point at records")
    return index


def check_shard(shard: str, entry: Mapping[str, Any]) -> None:
    """Compares the lengths of some records with the index: swapped shards of equal size have others.

    Raises InputError if they differ. It reads a few bytes per shard, which in an object store would be requests.
    """
    index = read_index(shard, entry)
    lengths = np.diff(index[:, 0], append=entry["num_bytes"]) - tfrecord.HEADER_BYTES - tfrecord.FOOTER_BYTES
    with storage.open_file(epath.Path(shard)) as file:
        for row in np.linspace(0, len(index) - 1, min(_NUM_CHECKED_RECORDS, len(index)), dtype=int).tolist():
            file.seek(int(index[row, 0]))
            if file.read(tfrecord.LENGTH_BYTES) != int(lengths[row]).to_bytes(tfrecord.LENGTH_BYTES, "little"):
                raise corrupt_shard(shard, f"record {row} has another length than the index says")


def to_bytes(index: np.ndarray) -> bytes:
    """An index as the content of its file."""
    buffer = io.BytesIO()
    np.save(buffer, index)
    return buffer.getvalue()


def read_without_images(shard: str, skip: int, take: int) -> Iterator[example.ParsedExample]:
    """Reads `take` records of a shard from record `skip` on without their images: about two hundred bytes per cell.

    Raises InputError if the shard or its index cannot be read.
    """
    index = read_index(shard)
    try:
        with epath.Path(shard).open("rb") as file:
            ends = np.append(index[1:, 0], file.seek(0, os.SEEK_END)) - tfrecord.FOOTER_BYTES
            rows = np.column_stack([index[:, :3], ends])[skip : skip + take].tolist()
            for offset, image_offset, image_num_bytes, end in rows:
                file.seek(offset + tfrecord.HEADER_BYTES)
                head = file.read(image_offset - offset - tfrecord.HEADER_BYTES)
                file.seek(image_offset + image_num_bytes)
                tail = file.read(end - image_offset - image_num_bytes)
                yield example.parse(head + bytes(image_num_bytes) + tail)._replace(image=b"")
    except (OSError, ValueError) as error:
        raise corrupt_shard(shard, f"it or its index cannot be read ({error})") from error
