"""The memory that this process may still take, limits of control groups (containers, Slurm) included, and the GPUs'."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

# Of control groups: files of the limit and the usage, entries of the page cache.
_VERSION_2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))


def free_bytes(root: Path = Path("/")) -> int:
    """The free memory of the machine, or of this process's control group or one above it if that is less, in bytes.

    Page cache counts as free; `root` is where `/proc` and `/sys` are.
    """
    free = psutil.virtual_memory().available
    for group, (limit, usage, cache) in _groups(root):
        with suppress(OSError, ValueError):  # no such file, or "max": no limit
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used = int((group / usage).read_text()) - sum(int(statistics.get(name, 0)) for name in cache)
            free = min(free, int((group / limit).read_text()) - used)
    return max(free, 0)


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, tuple[str, str]]]]:
    """The folders of this process's control groups and of all above them, of both versions, whether there or not: a
    container may see its own group as the topmost one under the path that the host knows.
    """
    cgroup = root / "proc/self/cgroup"
    for line in cgroup.read_text().splitlines() if cgroup.exists() else ():  # only Linux has it
        _, controllers, path = line.split(":", 2)
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        if not controllers or "memory" in controllers.split(","):
            own = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
            for group in (own, *own.parents):
                yield top / group, _VERSION_1 if controllers else _VERSION_2


def free_gpu_bytes(gpus: Sequence[Any]) -> int | None:
    """The free bytes of that one of JAX's or TensorFlow's GPUs that has least; None without one, or if nobody tells."""
    if not gpus:
        return None
    if hasattr(gpus[0], "memory_stats"):  # JAX's
        statistics = [gpu.memory_stats() for gpu in gpus]
        return min(stats["bytes_limit"] - stats["bytes_in_use"] for stats in statistics) if all(statistics) else None
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]  # TensorFlow does not tell
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        return min(int(mebibytes) for mebibytes in listed) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
