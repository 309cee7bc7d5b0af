"""A shard's index, which lies next to it and tells where its records and images lie; its records without images."""

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from pipeline import storage
from pipeline.cells import LABELS
from pipeline.records import example, layout
from pipeline.records.manifest import corrupt_shard

_HEADER_BYTES = 128  # what `np.save` writes before the array
INDEX_COLUMNS = ("record_offset", "image_offset", "image_num_bytes", "label")  # offsets in bytes of the shard's file

Decoded = TypeVar("Decoded")


def index_array(rows: Sequence[tuple[int, int, int, int]] | np.ndarray) -> np.ndarray:
    """A shard's index: int64 [records, 4], see `INDEX_COLUMNS`."""
    return np.array(rows, np.int64).reshape(-1, len(INDEX_COLUMNS))


def read_index(shard: str, entry: Mapping[str, Any] | None = None) -> np.ndarray:
    """Reads a shard's index: int64 [records, 4], see `INDEX_COLUMNS`.

    With `entry`, the shard in the manifest, the size of the shard, the digest of the index and four records are
    compared, since shards of one size may be swapped. Raises InputError if there is no index, or something differs.
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
    with storage.open_file(epath.Path(shard)) as file:
        for row in np.linspace(0, len(index) - 1, min(4, len(index)) if entry else 0, dtype=int):
            file.seek(starts[row] + example.HEADER_BYTES)
            record = file.read(ends[row] - example.FOOTER_BYTES - file.tell())
            try:
                fits_record = example.parse(record).label == labels[row]
            except ValueError:
                fits_record = False
            if not fits_record:
                raise corrupt_shard(shard, f"record {row} is not the one that its index describes")
    return index


def to_bytes(index: np.ndarray) -> bytes:
    """An index as the content of its file."""
    buffer = io.BytesIO()
    np.save(buffer, index)
    return buffer.getvalue()


def read_cells(
    shard: str, skip: int, take: int, size_px: int, is_png: bool
) -> Iterator[tuple[example.ParsedExample, np.ndarray]]:
    """Yields `take` records of a shard from record `skip` on, with their images, uint8 RGB [size, size, 3].

    Raises InputError at the first fault of record or shard.
    """
    return _read(shard, skip, take, lambda cell: (cell, example.decode_image(cell.image, size_px, is_png)))


def read_without_images(shard: str, skip: int, take: int) -> Iterator[example.ParsedExample]:
    """Yields records of a shard without their images, see `read_cells`."""
    return _read(shard, skip, take, lambda cell: cell._replace(image=b""))


def _read(shard: str, skip: int, take: int, decode: Callable[[example.ParsedExample], Decoded]) -> Iterator[Decoded]:
    number = -1
    try:
        with storage.open_file(epath.Path(shard)) as file:
            for number, (_, record) in enumerate(itertools.islice(example.read_records(file), skip + take)):
                if number >= skip:
                    yield decode(example.parse(record))
    except example.CorruptRecord as error:
        raise corrupt_shard(shard, f"record {number + 1} is corrupt ({error})") from error
    except ValueError as error:  # the record is what was written, but no cell
        raise corrupt_shard(shard, f"record {number} is corrupt ({error})") from error
    except OSError as error:
        raise corrupt_shard(shard, f"cannot be read ({error})") from error
    if number + 1 < skip + take:
        raise corrupt_shard(shard, f"has {number + 1} records, expected {skip + take}")
