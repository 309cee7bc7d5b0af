"""The index next to each shard, which tells where its records and images lie; labels and patients read by it."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pipeline.records import example, layout, tfrecord
from pipeline.records.manifest import corrupt_shard

INDEX_COLUMNS = ("record_offset", "image_offset", "image_num_bytes", "label")
"""Columns of a shard's index, int64 [records, 4]: byte offsets in the shard's file, to be read by a memory map."""


def index_array(rows: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """A shard's index: int64 [records, 4], see `INDEX_COLUMNS`."""
    return np.array(rows, np.int64).reshape(-1, len(INDEX_COLUMNS))


def read_index(shard: str, entry: Mapping[str, Any] | None = None) -> np.ndarray:
    """Reads a shard's index: int64 [records, 4], see `INDEX_COLUMNS`.

    With `entry`, the shard in the manifest, the size of the shard and the digest of the index are compared. Raises
    InputError if there is no index, or it or the shard is not what the manifest says.
    """
    try:
        content = epath.Path(layout.index_name(shard)).read_bytes()
        num_bytes = epath.Path(shard).stat().length
        index = np.load(io.BytesIO(content))
    except (OSError, ValueError, EOFError) as error:
        raise corrupt_shard(shard, f"it or its index cannot be read ({error})") from error
    if entry and (num_bytes, hashlib.sha256(content).hexdigest()) != (entry["num_bytes"], entry["index_sha256"]):
        raise corrupt_shard(shard, "it or its index is not what the manifest says")
    if index.ndim != 2 or index.shape[1] != len(INDEX_COLUMNS) or index.dtype != np.int64:
        raise corrupt_shard(shard, f"its index does not have the int64 columns {', '.join(INDEX_COLUMNS)}")
    return index


def labels_and_patients(shard: str, skip: int, take: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and patients of `take` records of a shard from record `skip` on; about a hundred bytes per cell are read.

    Returns:
      int64 [records], the labels, and str [records], the patients, "" where unknown.

    Raises:
      InputError: if the shard or its index cannot be read.
    """
    index = read_index(shard)
    starts = index[skip : skip + take, 1] + index[skip : skip + take, 2]
    labels: list[int] = []
    patient_ids: list[str] = []
    try:
        with epath.Path(shard).open("rb") as file:
            ends = np.append(index[1:, 0], file.seek(0, os.SEEK_END))[skip : skip + take] - tfrecord.FOOTER_BYTES
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                file.seek(start)
                label, patient_id = example.parse_behind_image(file.read(end - start))
                labels.append(label)
                patient_ids.append(patient_id)
    except (OSError, ValueError) as error:
        raise corrupt_shard(shard, f"it or its index cannot be read ({error})") from error
    return np.array(labels, np.int64), np.array(patient_ids, np.str_)
