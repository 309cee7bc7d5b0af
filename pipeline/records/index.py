"""Labels and patients of records without their images: some hundred bytes a cell are read where there is an index."""

import os
from typing import NamedTuple

import numpy as np
from etils import epath

from pipeline.errors import InputError
from pipeline.records import layout, parsing, tfrecord


class Keys(NamedTuple):
    """What some records of a shard are of.

    Attributes:
      labels: int64 [records].
      patient_ids: str [records], "" where unknown.
    """

    labels: np.ndarray
    patient_ids: np.ndarray


def read(shard: str, skip: int, take: int) -> Keys:
    """Reads the keys of some records of a shard; those of damaged records are left out.

    Args:
      shard: its file.
      skip: first record.
      take: number of records.

    Raises:
      InputError: if the shard cannot be read.
    """
    path = epath.Path(shard)
    index = epath.Path(layout.index_name(shard))
    found: list[tuple[int, str]] = []
    try:
        with path.open("rb") as file:
            if index.exists():
                with index.open("rb") as opened:
                    rows = np.load(opened)
                ends = np.append(rows[1:, 0], file.seek(0, os.SEEK_END))[skip : skip + take] - tfrecord.FOOTER_BYTES
                images = rows[skip : skip + take]
                starts = images[:, 1] + images[:, 2]
                for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                    file.seek(start)
                    if keys := parsing.parse_behind_image(file.read(end - start)):
                        found.append(keys)
            else:
                for number, record in enumerate(tfrecord.scan_records(file)):
                    if record is not None and skip <= number < skip + take:
                        found.append(_keys_of(record))
    except (OSError, ValueError, tfrecord.DamagedRecord) as error:
        raise InputError(
            f"{shard} or its index cannot be read ({error}); check the data set with python -m pipeline.verify"
        ) from error
    return Keys(np.array([label for label, _ in found], np.int64), np.array([patient for _, patient in found], np.str_))


def _keys_of(record: bytes) -> tuple[int, str]:
    parsed = parsing.parse(record)
    return parsed.label, parsed.patient_id
