"""Filling one shard: its part of the plan in; a TFRecord file, its index and its numbers out.

This is what a worker runs. A shard appears under its name only when it is whole, and its result after it, so a job
that was killed knows which shards it still has to fill. The bytes depend on the shard's cells alone.
"""

import hashlib
import io
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from etils import epath

from pipeline.cells import LABELS, Cell, Rejected
from pipeline.job.plan import Shard
from pipeline.job.shard import ShardJob, ShardResult
from pipeline.job.workers import num_processors
from pipeline.records import example, layout, tfrecord
from pipeline.source import decode
from pipeline.source.archive import MAX_ENCODED_BYTES, Source, UnreadableImage, open_source
from pipeline.storage import open_atomic, write_atomic

INDEX_COLUMNS = ("record_offset", "image_offset", "image_num_bytes", "label")
"""Columns of a shard's index, int64 [records, 4]: byte offsets in the shard's file, to be read by a memory map."""

_CONTENT_DIGITS = 16
_CELLS_A_TASK = 16
_PIXEL_BYTES_A_TASK = 1 << 20


class _Record(NamedTuple):
    """A cell on its way into the file: its record, framed, or the reason why there is none."""

    cell: Cell
    parts: tuple[bytes, ...] = ()
    image_offset: int = 0
    image_num_bytes: int = 0
    height: int = 0
    width: int = 0
    conversions: tuple[str, ...] = ()
    content: str = ""
    reason: str | None = None


def fill_shard(file_name: str, target: ShardJob, num_threads: int | None = None) -> ShardResult:
    """Fills one shard: reads, decodes and resizes its cells, writes records, index and result.

    Args:
      file_name: which one.
      target: see `ShardJob`.
      num_threads: how many decode; by default one a processor.

    Raises:
      OSError: if the plan or the source cannot be read or the target cannot be written; nothing appears under a
        final name.
    """
    cv2.setNumThreads(1)  # cells are decoded side by side; OpenCV's own threads would only get in the way
    job_dir, shards_dir = epath.Path(target.job_dir), epath.Path(target.shards_dir)
    plan = job_dir / layout.plan_name(file_name)
    shard = Shard.from_json(plan.read_text())
    result = ShardResult(shard.split, file_name, 0, 0, "", "", {}, [], {}, {}, {}, "", "")
    index: list[tuple[int, int, int, int]] = []
    contents: list[str] = []
    heights: Counter[int] = Counter()
    widths: Counter[int] = Counter()
    converted: Counter[str] = Counter()
    digest = hashlib.sha256()
    with open_source(target.source) as source, open_atomic(shards_dir / file_name) as file:
        for made in _make_records(shard.cells, source, target, num_threads or num_processors()):
            cell = made.cell
            if made.reason is not None:
                result.rejected.append(Rejected(cell.filename, made.reason))
                continue
            image_offset = result.num_bytes + made.image_offset
            index.append((result.num_bytes, image_offset, made.image_num_bytes, cell.label))
            for part in made.parts:
                file.write(part)
                digest.update(part)
                result.num_bytes += len(part)
            result.patients.setdefault(cell.patient_id, [0] * len(LABELS))[cell.label] += 1
            heights[made.height] += 1
            widths[made.width] += 1
            converted.update(made.conversions)
            contents.append(made.content)
        if not plan.exists():
            # The job was given up and another may have begun: its shards must not be mixed with this one.
            raise FileNotFoundError(f"{plan} is gone, so this shard belongs to a job that no longer exists")
    result.num_records = len(index)
    result.sha256 = digest.hexdigest()
    result.heights, result.widths, result.converted = dict(heights), dict(widths), dict(converted)
    result.contents = "".join(contents)
    result.labels = "".join(str(label) for *_, label in index)

    buffer = io.BytesIO()
    np.save(buffer, index_array(index))
    result.index_sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    write_atomic(shards_dir / layout.index_name(file_name), buffer.getvalue())
    write_atomic(job_dir / layout.result_name(file_name), result.to_json().encode())
    return result


def index_array(rows: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """A shard's index: int64 [records, 4], see `INDEX_COLUMNS`."""
    return np.array(rows, np.int64).reshape(-1, len(INDEX_COLUMNS))


def _make_records(cells: Sequence[Cell], source: Source, target: ShardJob, num_threads: int) -> Iterator[_Record]:
    """Makes records in several threads, yields them in order, and holds only a few at a time."""
    if num_threads == 1:
        yield from (_make_record(cell, source, target) for cell in cells)
        return
    cells_a_task = max(1, min(_CELLS_A_TASK, _PIXEL_BYTES_A_TASK // (3 * target.image_size_px**2)))
    pending: deque[Future[list[_Record]]] = deque()

    def make(some: Sequence[Cell]) -> list[_Record]:
        return [_make_record(cell, source, target) for cell in some]

    with ThreadPoolExecutor(num_threads) as pool:
        for first in range(0, len(cells), cells_a_task):
            pending.append(pool.submit(make, cells[first : first + cells_a_task]))
            if len(pending) > 2 * num_threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _make_record(cell: Cell, source: Source, target: ShardJob) -> _Record:
    try:
        if cell.num_bytes > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"{cell.num_bytes} bytes; expected at most {MAX_ENCODED_BYTES}")
        encoded = source.read(target.root + cell.filename, cell.zip_entry)
        decoded = decode.decode(encoded, cell.filename)
    except UnreadableImage as error:
        return _Record(cell, reason=str(error))
    height, width, _ = decoded.pixels.shape
    pixels = decode.resize(decoded.pixels, target.image_size_px)
    stored = pixels.tobytes() if target.image_encoding == "raw" else decode.encode_png(pixels)
    head, stored, tail = example.encode(stored, cell.label, cell.filename, cell.patient_id)
    header, footer = tfrecord.frame(head, stored, tail)
    parts = (header + head, stored, tail + footer)
    content = hashlib.sha256(encoded).hexdigest()[:_CONTENT_DIGITS]
    return _Record(cell, parts, len(parts[0]), len(stored), height, width, decoded.conversions, content)
