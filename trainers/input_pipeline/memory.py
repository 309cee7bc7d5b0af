"""The memory that this process may still take, limits of containers included."""

from pathlib import Path

import psutil

_CGROUP_2 = Path("/sys/fs/cgroup")
_CGROUP_1 = Path("/sys/fs/cgroup/memory")


def free_bytes(cgroup_2: Path = _CGROUP_2, cgroup_1: Path = _CGROUP_1) -> int:
    """What the machine has to give, or less where a container's limit is nearer.

    Args:
      cgroup_2, cgroup_1: where the limits of this process's container are told.

    Returns:
      bytes; page cache counts as free.
    """
    free = psutil.virtual_memory().available
    for limit, usage, statistics, cache in (
        (cgroup_2 / "memory.max", cgroup_2 / "memory.current", cgroup_2 / "memory.stat", "file"),
        (
            cgroup_1 / "memory.limit_in_bytes",
            cgroup_1 / "memory.usage_in_bytes",
            cgroup_1 / "memory.stat",
            "total_cache",
        ),
    ):
        try:
            cached = dict(line.split() for line in statistics.read_text().splitlines()).get(cache, 0)
            free = min(free, int(limit.read_text()) - int(usage.read_text()) + int(cached))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return max(free, 0)
