"""Cells that occur more than once: image files of the same content under several names.

A copy in another split is seen in training and again in the test; a copy with the other label makes one of the two
wrong. Neither is removed silently: they are counted and named in the manifest, and people decide.

In: the shards' results, and on demand the names of a shard's records. Out: the manifest's `duplicates`. Some twenty
bytes a cell are held.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.job.shard import ShardResult

_MAX_EXAMPLES = 100
_MAX_NAMES = 10


def find_duplicates(results: Sequence[ShardResult], read_names: Callable[[ShardResult], list[str]]) -> dict[str, Any]:
    """Finds records whose image files have the same content.

    Args:
      results: one a shard.
      read_names: a shard's result -> file name of each record; called once for each shard in which examples lie.

    Returns:
      num_cells: cells in excess of one a content; num_label_conflicts, num_across_splits: contents with both labels,
      or in several splits; examples: up to 100 contents, these first, each with its `splits`, whether it is a
      `label_conflict`, and up to 10 `filenames`.
    """
    hashes = np.concatenate([np.frombuffer(bytes.fromhex(result.contents), np.uint64) for result in results])
    labels = np.concatenate([np.frombuffer(result.labels.encode(), np.uint8) for result in results])
    shards = np.repeat(np.arange(len(results)), [result.num_records for result in results])
    names_of_splits = sorted({result.split for result in results})
    splits = np.array([names_of_splits.index(result.split) for result in results])[shards]

    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], hashes[order][1:] != hashes[order][:-1]]))
    sizes = np.diff(starts, append=len(order))
    is_conflict, is_across = (
        np.minimum.reduceat(values[order], starts) != np.maximum.reduceat(values[order], starts)
        for values in (labels, splits)
    )
    repeated = np.flatnonzero(sizes > 1)
    first_records = order[starts[repeated]]
    ranked = repeated[np.lexsort((first_records, ~is_across[repeated], ~is_conflict[repeated]))]

    examples = [order[starts[group] : starts[group] + sizes[group]] for group in ranked[:_MAX_EXAMPLES]]
    names = _read_some_names([record for members in examples for record in members[:_MAX_NAMES]], results, read_names)
    return {
        "num_cells": len(hashes) - len(starts),
        "num_label_conflicts": int(is_conflict.sum()),
        "num_across_splits": int(is_across.sum()),
        "examples": [
            {
                "label_conflict": bool(np.ptp(labels[members])),
                "splits": [names_of_splits[split] for split in np.unique(splits[members])],
                "filenames": sorted(names[record] for record in members[:_MAX_NAMES]),
            }
            for members in examples
        ],
    }


def _read_some_names(
    records: Sequence[int], results: Sequence[ShardResult], read_names: Callable[[ShardResult], list[str]]
) -> dict[int, str]:
    """The file names of records by their number among all, one shard's at a time."""
    names: dict[int, str] = {}
    first = 0
    for result in results:
        if here := [record for record in records if first <= record < first + result.num_records]:
            its_names = read_names(result)
            names.update({record: its_names[record - first] for record in here})
        first += result.num_records
    return names
