"""Filling one shard: cells in; a TFRecord file, its index and its numbers out.

This is what a worker runs. A shard appears under its name only when it is whole, and its result after it, so a job
that was killed knows which shards it still has to fill. The bytes depend on the shard's cells alone.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from etils import epath

from pipeline import example, image, layout, tfrecord
from pipeline.cells import LABELS, Cell, Rejected
from pipeline.plan import Shard
from pipeline.source import MAX_ENCODED_BYTES, Source, UnreadableImage, open_source

INDEX_COLUMNS = ("record_offset", "image_offset", "image_num_bytes", "label")
"""Columns of a shard's index, int64 [records, 4]: byte offsets in the shard's file, to be read by a memory map."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a worker finds the cells and puts the shards.

    Attributes:
      source: path of the folder or archive.
      root: path of the class folders' folder within the source, "" or ending with `/`.
      directory: folder to fill.
      image_size_px: side of the stored image.
      image_encoding: "raw" or "png".
    """

    source: str
    root: str
    directory: str
    image_size_px: int
    image_encoding: str


@dataclasses.dataclass
class ShardResult:
    """The numbers of a filled shard, kept beside it until the manifest is written.

    Attributes:
      split, file_name, num_records, num_bytes, sha256: of the TFRecord file.
      index_sha256: of the index file.
      patients: patient -> number of cells of each label.
      rejected: cells that are not in it, and why.
      converted: kind of conversion -> number of cells.
      heights, widths: size in pixels -> number of cells, of the source's images.
    """

    split: str
    file_name: str
    num_records: int
    num_bytes: int
    sha256: str
    index_sha256: str
    patients: dict[str, list[int]]
    rejected: list[Rejected]
    converted: dict[str, int]
    heights: dict[int, int]
    widths: dict[int, int]

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ShardResult":
        """Reads what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["rejected"] = [Rejected(*item) for item in fields["rejected"]]
        for name in ("heights", "widths"):
            fields[name] = {int(size): count for size, count in fields[name].items()}
        return cls(**fields)


class _Prepared(NamedTuple):
    cell: Cell
    image: bytes | None
    height: int
    width: int
    conversions: tuple[str, ...]
    reason: str | None


def fill_shard(shard: Shard, target: Target) -> ShardResult:
    """Fills one shard: reads, decodes and resizes its cells, writes records, index and result.

    Raises:
      OSError: if the source cannot be read or the target cannot be written; nothing appears under a final name.
    """
    cv2.setNumThreads(1)  # cells are decoded side by side; OpenCV's own threads would only get in the way
    directory = epath.Path(target.directory)
    result = ShardResult(shard.split, shard.file_name, 0, 0, "", "", {}, [], {}, {}, {})
    digest = hashlib.sha256()
    index: list[tuple[int, int, int, int]] = []
    heights, widths, converted = Counter(), Counter(), Counter()
    path = directory / shard.file_name
    partial = _partial(path)
    with open_source(target.source) as source, partial.open("wb") as file:
        for prepared in _prepare_all(shard.cells, source, target):
            cell = prepared.cell
            if prepared.image is None:
                result.rejected.append(Rejected(cell.filename, prepared.reason or ""))
                continue
            record = example.serialize(prepared.image, cell.label, cell.filename, cell.patient_id)
            image_offset = result.num_bytes + tfrecord.HEADER_BYTES + record.index(prepared.image)
            index.append((result.num_bytes, image_offset, len(prepared.image), cell.label))
            framed = tfrecord.frame(record)
            file.write(framed)
            digest.update(framed)
            result.num_bytes += len(framed)
            result.patients.setdefault(cell.patient_id, [0] * len(LABELS))[cell.label] += 1
            heights[prepared.height] += 1
            widths[prepared.width] += 1
            converted.update(prepared.conversions)
    result.num_records = len(index)
    result.sha256 = digest.hexdigest()
    result.heights, result.widths, result.converted = dict(heights), dict(widths), dict(converted)
    partial.rename(path)

    buffer = io.BytesIO()
    np.save(buffer, np.array(index, np.int64).reshape(-1, len(INDEX_COLUMNS)))
    result.index_sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    write_atomically(directory / layout.index_name(shard.file_name), buffer.getvalue())
    write_atomically(directory / layout.result_name(shard.file_name), result.to_json().encode())
    return result


def write_atomically(path: epath.Path, content: bytes) -> None:
    """Writes a file that appears under its name only when it is whole."""
    partial = _partial(path)
    partial.write_bytes(content)
    partial.replace(path)


def _partial(path: epath.Path) -> epath.Path:
    return path.parent / f"{path.name}.partial"


def _prepare_all(cells: Sequence[Cell], source: Source, target: Target) -> Iterator[_Prepared]:
    """Prepares cells on all processors, yields them in order, and holds only a few at a time."""
    num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pending: deque = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for cell in cells:
            pending.append(pool.submit(_prepare, cell, source, target))
            if len(pending) >= 8 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _prepare(cell: Cell, source: Source, target: Target) -> _Prepared:
    try:
        if cell.num_bytes > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"{cell.num_bytes} bytes; expected at most {MAX_ENCODED_BYTES}")
        decoded = image.decode(source.read(target.root + cell.filename, cell.place), cell.filename)
    except UnreadableImage as error:
        return _Prepared(cell, None, 0, 0, (), str(error))
    height, width, _ = decoded.pixels.shape
    pixels = image.resize(decoded.pixels, target.image_size_px)
    stored = pixels.tobytes() if target.image_encoding == "raw" else image.encode_png(pixels)
    return _Prepared(cell, stored, height, width, decoded.conversions, None)
