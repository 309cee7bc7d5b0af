"""The memory that this process may still take, limits of containers included."""

from pathlib import Path

import psutil

_CGROUP_2 = Path("/sys/fs/cgroup")
_CGROUP_1 = Path("/sys/fs/cgroup/memory")


def free_bytes(cgroup_2: Path = _CGROUP_2, cgroup_1: Path = _CGROUP_1) -> int:
    """The free memory of the machine, or of the container if its limit is lower.

    Args:
      cgroup_2, cgroup_1: where Linux keeps the memory limits of this process's container.

    Returns:
      bytes; page cache counts as free.
    """
    free = psutil.virtual_memory().available
    for folder, limit, usage, cache in (
        (cgroup_2, "memory.max", "memory.current", "file"),
        (cgroup_1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ):
        try:
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / usage).read_text()) - int(statistics.get(cache, 0))
            free = min(free, int((folder / limit).read_text()) - used)
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return max(free, 0)
