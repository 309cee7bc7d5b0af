"""Fills one shard: its part of the plan in; a TFRecord file, its index and its result out. This is what a worker runs.

A shard appears under its name only once it is complete, and its result after it, so a job that was killed knows which
shards it still has to fill. The bytes depend on the shard's cells alone.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import cv2

from pipeline.cells import Cell, Rejected
from pipeline.command import num_processors
from pipeline.job.plan import Shard, ShardJob
from pipeline.job.results import RecordFacts, ShardCounts
from pipeline.records import example, index, layout
from pipeline.source import decode
from pipeline.source.archive import Source, open_source
from pipeline.source.files import UnreadableImage
from pipeline.storage import MAX_CONNECTIONS, open_atomic, write_atomic

_CELLS_PER_TASK = 16
_PIXEL_BYTES_PER_TASK = 1 << 20


_Record = tuple[bytes, int, int, RecordFacts]
"""A cell's framed record, the image's offset and number of bytes in it, and its facts."""


def fill_shard(file_name: str, job: ShardJob, num_threads: int | None = None) -> ShardCounts:
    """Decodes a shard's cells in threads, by default one per CPU; writes records, index, result; or raises OSError."""
    cv2.setNumThreads(1)  # cells are decoded in parallel; OpenCV's own threads would only get in the way
    plan = job.job_dir / layout.plan_name(file_name)
    shard = Shard.from_json(plan.read_text())
    rejected: list[Rejected] = []
    facts: list[RecordFacts] = []
    rows: list[tuple[int, int, int, int]] = []
    digest, num_bytes = hashlib.sha256(), 0
    source = open_source(job.source)
    with open_atomic(job.shards_dir / file_name) as file:
        for record in _make_records(shard.cells, source, job, num_threads or num_processors()):
            if isinstance(record, Rejected):
                rejected.append(record)
                continue
            framed, image_offset, image_num_bytes, of_record = record
            facts.append(of_record)
            rows.append((num_bytes, num_bytes + image_offset, image_num_bytes, of_record.label))
            file.write(framed)
            digest.update(framed)
            num_bytes += len(framed)
        if not plan.exists():
            raise FileNotFoundError(f"{plan} is gone, so this shard belongs to a job that no longer exists")
    index_file = index.to_bytes(index.index_array(rows))
    entry = {
        "file": file_name,
        "num_records": len(rows),
        "num_bytes": num_bytes,
        "sha256": digest.hexdigest(),
        "index_file": layout.index_name(file_name),
        "index_sha256": hashlib.sha256(index_file).hexdigest(),
    }
    result = json.dumps((shard.split, entry, rejected, facts))  # see `results.read_result`
    content = f"{hashlib.sha256(result.encode()).hexdigest()}\n{result}".encode()
    write_atomic(job.shards_dir / layout.index_name(file_name), index_file)
    write_atomic(job.job_dir / layout.result_name(file_name), content)
    return ShardCounts(len(rows), num_bytes, len(rejected), sum(len(of_record.conversions) for of_record in facts))


def _make_records(
    cells: Sequence[Cell], source: Source, job: ShardJob, num_threads: int
) -> Iterator[_Record | Rejected]:
    """Makes records, in threads if there are several, yields them in order, and holds only a few at a time."""
    cells_per_task = max(1, min(_CELLS_PER_TASK, _PIXEL_BYTES_PER_TASK // (3 * job.settings.image_size_px**2)))
    if source.is_remote:  # each read waits for the network
        num_threads, cells_per_task = MAX_CONNECTIONS, 1
    if num_threads == 1:
        yield from (_make_record(cell, source, job) for cell in cells)
        return
    pending: deque[Future[list[_Record | Rejected]]] = deque()

    def make(task: Sequence[Cell]) -> list[_Record | Rejected]:
        return [_make_record(cell, source, job) for cell in task]

    with ThreadPoolExecutor(num_threads) as pool:
        for first in range(0, len(cells), cells_per_task):
            pending.append(pool.submit(make, cells[first : first + cells_per_task]))
            if len(pending) > 2 * num_threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _make_record(cell: Cell, source: Source, job: ShardJob) -> _Record | Rejected:
    try:
        encoded = source.read(job.root, cell)
        decoded = decode.decode(encoded, cell.filename)
    except UnreadableImage as error:
        return Rejected(cell.filename, str(error))
    height, width, _ = decoded.pixels.shape
    settings = job.settings
    pixels = decode.resize(decode.apply_background(decoded.pixels, settings.background), settings.image_size_px)
    stored = pixels.tobytes() if settings.image_encoding == "raw" else decode.encode_png(pixels)
    record, offset = example.encode(stored, cell.label, cell.filename, cell.patient_id)
    header, footer = example.frame(record)
    content = int.from_bytes(hashlib.sha256(encoded).digest()[:8], "little")
    about_image = (height, width, content, decoded.conversions, decode.has_background(decoded.pixels))
    facts = RecordFacts(cell.filename, cell.label, cell.patient_id, *about_image)
    return header + record + footer, len(header) + offset, len(stored), facts
