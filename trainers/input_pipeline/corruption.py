"""Damaged records that are met while reading: how many a run bears, and which they were."""

import threading

from pipeline.errors import InputError


class DamagedRecords:
    """Counts damaged records and stops the run when there are too many.

    Args:
      at_most: how many may be skipped; 0 stops at the first.
    """

    def __init__(self, at_most: int = 0) -> None:
        self.at_most = at_most
        self._found: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def add(self, file: str, record: int) -> None:
        """Notes a damaged record of a shard, counted from 0; the same again counts once.

        Raises:
          InputError: if there are more than the run bears.
        """
        with self._lock:
            self._found.add((file, record))
            if len(self._found) > self.at_most:
                raise InputError(
                    f"{file}: record {record} is damaged; check the data set with python -m pipeline.verify and make "
                    f"it again, or give --max_corrupt_records={len(self._found)} or more to skip such records"
                )

    @property
    def found(self) -> list[tuple[str, int]]:
        """(shard, record) of what was skipped so far, sorted."""
        with self._lock:
            return sorted(self._found)
