"""Cells whose published label experts dispute, from a list: that they fit a data set, and which label issues find."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.cells import LABELS
from pipeline.label_list import LabelList, fault
from pipeline.records import index, manifest
from trainers.data import DataSet
from trainers.evaluation.metrics.label_issues import LabelIssue

_LENGTHS = (50, 100, 200)


def check(disputed: LabelList | None, data_set: DataSet) -> None:
    """Raises InputError, with a line of the list, if a data set has not such a cell or published it otherwise.

    It reads the file names of all cells, since a list may be longer than a split. Cells that `--label_overrides` has
    left out or corrected count as published.
    """
    if disputed is None:
        return
    published = {
        cell.filename: LABELS[cell.label]
        for shard in manifest.shards(data_set.manifest)
        for cell in index.read_without_images(str(data_set.directory / shard["file"]), 0, shard["num_records"])
    }
    published |= data_set.manifest.get("label_overrides", {}).get("published", {})
    disputed.check_known(published)
    for filename, label in disputed.labels.items():
        if label != published[filename]:
            reason = f"published_label is {label}, but {filename!r} was published as {published[filename]}"
            raise fault(disputed.name, disputed.lines[filename], f"{reason}; expected a list for the same cells")


def count_found(disputed: LabelList, issues: Sequence[LabelIssue], filenames: np.ndarray) -> list[dict[str, Any]]:
    """How many disputed cells are among the first 50, 100, 200 and all label issues, the most likely first.

    Returns for each length that the issues have: length, num_disputed, precision, and recall among the disputed cells
    of `filenames`, str [cells], those that were searched; None where that would divide by 0.
    """
    hits = np.cumsum([0, *(issue.filename in disputed.labels for issue in issues)]).tolist()
    num_disputed = len(disputed.labels.keys() & set(filenames.tolist()))
    return [
        {
            "length": length,
            "num_disputed": hits[length],
            "precision": hits[length] / length if length else None,
            "recall": hits[length] / num_disputed if num_disputed else None,
        }
        for length in sorted({*(length for length in _LENGTHS if length < len(issues)), len(issues)})
    ]
