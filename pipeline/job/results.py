"""What the workers of a job leave in its folder: which shards are whole, and their numbers.

In: the job's folder, and how many cells each shard was planned with. Out: results, and a progress bar that needs no
word from the workers, whichever runner they belong to.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from etils import epath

from pipeline.errors import InputError
from pipeline.job.shard import ShardResult
from pipeline.progress import progress_bar
from pipeline.records import layout
from pipeline.storage import is_remote

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_REMOTE_LOOKS = 5.0


def done(job_dir: epath.Path) -> set[str]:
    """File names of the shards that are whole."""
    suffix = layout.result_name("")
    return {path.name.removesuffix(suffix) for path in job_dir.iterdir() if path.name.endswith(suffix)}


def read_result(job_dir: epath.Path, file_name: str) -> ShardResult | None:
    """A whole shard's numbers; None if what tells them is damaged."""
    try:
        return ShardResult.from_json((job_dir / layout.result_name(file_name)).read_text())
    except (ValueError, TypeError, KeyError):
        return None


def read_results(job_dir: epath.Path, num_cells: Mapping[str, int]) -> list[ShardResult]:
    """The numbers of all shards, in the order of the plan.

    Raises:
      InputError: if some are missing, or what tells them is damaged.
    """
    whole = done(job_dir)
    found = {name: read_result(job_dir, name) if name in whole else None for name in num_cells}
    if missing := sorted(name for name, result in found.items() if result is None):
        raise InputError(
            f"the runner has ended, but {len(missing)} of {len(num_cells)} shards are missing, such as "
            f"{missing[0]}; look into its log, then the same command continues"
        )
    return [result for result in found.values() if result is not None]


@contextmanager
def watch(job_dir: epath.Path, num_cells: Mapping[str, int]) -> Iterator[None]:
    """Shows how many cells are in whole shards while the block runs."""
    finished = threading.Event()
    seen = done(job_dir)
    interval = _SECONDS_BETWEEN_REMOTE_LOOKS if is_remote(job_dir) else _SECONDS_BETWEEN_LOOKS
    num_done = sum(num_cells[name] for name in seen)
    with progress_bar(sum(num_cells.values()), "filling shards", "cells", initial=num_done) as bar:

        def look() -> None:
            for name in done(job_dir) - seen:
                seen.add(name)
                bar.update(num_cells[name])

        def keep_looking() -> None:
            while not finished.wait(interval):
                with suppress(OSError):  # the job itself will meet it too, and say so
                    look()

        watcher = threading.Thread(target=keep_looking, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
            look()
