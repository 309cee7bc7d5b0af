"""Reads the cells of a shard: many at a time from an object store, where each read waits for the network."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline.cells import Cell
from pipeline.source.archive import Source
from pipeline.storage import MAX_CONNECTIONS

_MAX_BATCH_CELLS = 2 * MAX_CONNECTIONS
_MAX_BATCH_BYTES = 1 << 25

CellRead = tuple[Cell, Callable[[], bytes]]
"""A cell, and a call that gives its bytes or raises as `Source.read` does."""


def read_ahead(source: Source, root: str, cells: Sequence[Cell]) -> Iterator[list[CellRead]]:
    """Yields all cells in order, in batches; the call of a local cell reads it, that of a remote one waits for it.

    Of a remote source the next batch is read while one is in use. A batch has at most 32 MiB by the listing, or one
    cell. Use up a batch before you ask for the next one, and the memory stays bounded.
    """
    if not source.is_remote:
        yield [(cell, partial(source.read, root, cell)) for cell in cells]
        return
    pool = ThreadPoolExecutor(MAX_CONNECTIONS)
    try:
        ahead: list[CellRead] = []
        for batch in _batches(cells):
            in_use, ahead = ahead, [(cell, pool.submit(source.read, root, cell).result) for cell in batch]
            if in_use:
                yield in_use
        yield ahead
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    batch: list[Cell] = []
    num_bytes = 0
    for cell in cells:
        if batch and (len(batch) == _MAX_BATCH_CELLS or num_bytes + cell.num_bytes > _MAX_BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(cell)
        num_bytes += cell.num_bytes
    yield batch
