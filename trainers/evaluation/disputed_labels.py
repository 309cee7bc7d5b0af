"""Cells whose published label experts dispute, from a list: how they weigh on metrics and label issues."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.cells import LABELS
from pipeline.errors import InputError
from pipeline.label_list import LabelList
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
    shards = ((str(data_set.directory / shard["file"]), shard) for shard in manifest.shards(data_set.manifest))
    published = {
        cell.filename: LABELS[cell.label]
        for path, shard in shards
        for cell in index.read_without_images(path, 0, shard["num_records"])
    }
    published |= data_set.manifest.get("label_overrides", {}).get("published", {})
    disputed.check_known(published)
    for filename, label in disputed.labels.items():
        if label != published[filename]:
            raise InputError(
                f"{disputed.name}: line {disputed.lines[filename]}: published_label is {label}, but {filename!r} of "
                f"{data_set.directory} was published as {published[filename]}; expected a list for the same cells"
            )


def count_found(disputed: LabelList, issues: Sequence[LabelIssue], filenames: np.ndarray) -> list[dict[str, Any]]:
    """How many disputed cells are among the first 50, 100, 200 and all label issues.

    Args:
      disputed: the list.
      issues: the most likely first.
      filenames: str [cells], those that were searched.

    Returns:
      for each length that the issues have: length, num_disputed, precision, and recall among the disputed cells of
      `filenames`; None where that would divide by 0.
    """
    hits = np.cumsum([issue.filename in disputed.labels for issue in issues])
    num_disputed = len(disputed.labels.keys() & set(filenames.tolist()))
    return [
        {
            "length": length,
            "num_disputed": (found := int(hits[length - 1]) if length else 0),
            "precision": found / length if length else None,
            "recall": found / num_disputed if num_disputed else None,
        }
        for length in sorted({*(length for length in _LENGTHS if length < len(issues)), len(issues)})
    ]


def as_lines(contents: Mapping[str, Any]) -> list[str]:
    """What `metrics.json` says of `count_found`, for a terminal; empty without a list."""
    return [
        f"suspected label errors: {item['num_disputed']} of the first {item['length']} are disputed"
        + (f": precision {item['precision']:.3f}, recall {item['recall']:.3f}" if item["num_disputed"] else "")
        for item in contents.get("disputed_labels", {"found": []})["found"]
    ]
