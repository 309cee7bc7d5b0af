"""The index beside each shard: where its records and images lie; and labels and patients read by it."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pipeline.records import example, layout, tfrecord
from pipeline.records.manifest import corrupt_shard

INDEX_COLUMNS = ("record_offset", "image_offset", "image_num_bytes", "label")
"""Columns of a shard's index, int64 [records, 4]: byte offsets in the shard's file, to be read by a memory map."""


class LabelsAndPatients(NamedTuple):
    """Labels and patients of records.

    Attributes:
      labels: int64 [records].
      patient_ids: str [records], "" where unknown.
    """

    labels: np.ndarray
    patient_ids: np.ndarray


def index_array(rows: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """A shard's index: int64 [records, 4], see `INDEX_COLUMNS`."""
    return np.array(rows, np.int64).reshape(-1, len(INDEX_COLUMNS))


def read_index(shard: str, entry: Mapping[str, Any] | None = None) -> np.ndarray:
    """Reads a shard's index.

    Args:
      shard: the shard's file.
      entry: the shard in the manifest; with it, the size of the shard and the digest of the index are compared.

    Returns:
      int64 [records, 4], see `INDEX_COLUMNS`.

    Raises:
      InputError: if there is no index, or it or the shard is not what the manifest says.
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


def labels_and_patients(shard: str, skip: int, take: int) -> LabelsAndPatients:
    """Reads labels and patients of some records of a shard; with an index about a hundred bytes per cell are read.

    Args:
      shard: its file.
      skip: first record.
      take: number of records.

    Raises:
      InputError: if the shard cannot be read.
    """
    path = epath.Path(shard)
    try:
        with path.open("rb") as file:
            if not epath.Path(layout.index_name(shard)).exists():
                records = islice(tfrecord.read_records(file), skip, skip + take)
                pairs = [(cell.label, cell.patient_id) for cell in (example.parse(record) for _, record in records)]
            else:
                index = read_index(shard)
                ends = np.append(index[1:, 0], file.seek(0, os.SEEK_END)) - tfrecord.FOOTER_BYTES
                starts = index[:, 1] + index[:, 2]
                pairs = []
                for start, end in np.stack([starts, ends], 1)[skip : skip + take].tolist():
                    file.seek(start)
                    pairs.append(example.parse_behind_image(file.read(end - start)))
    except (OSError, ValueError, tfrecord.CorruptRecord) as error:
        raise corrupt_shard(shard, f"it or its index cannot be read ({error})") from error
    return LabelsAndPatients(
        np.array([label for label, _ in pairs], np.int64), np.array([patient for _, patient in pairs], np.str_)
    )
