"""Measuring processes: time, CPU, memory; and the form of the tables that come out.

In: commands, or functions. Out: the file form that all benchmarks share, with medians of repeated runs and ratios
within one run, since machines are shared and noisy.
"""

import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import psutil

from pipeline.errors import InputError

_ROOT = Path(__file__).parent.parent
_SECONDS_BETWEEN_SAMPLES = 0.05


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One run of a command.

    Attributes:
      seconds: from start to end, start-up included.
      cpu_seconds: user and system time, of the process and its own children.
      peak_rss_bytes: most memory that the process, or its largest child, held at a time.
      sampled_bytes: the most that `sample` gave; 0 if it was never called.
      output: standard output.
    """

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    sampled_bytes: int
    output: str


def measure(
    command: Sequence[str],
    sample: Callable[[psutil.Process], int] = lambda _: 0,
    seconds_between_samples: float = _SECONDS_BETWEEN_SAMPLES,
) -> Measurement:
    """Runs a command in the project's folder and measures it.

    Args:
      command: what to run.
      sample: looks at the running process now and then, and gives bytes.
      seconds_between_samples: how often.

    Raises:
      InputError: if it fails; the message ends with what it said last.
    """
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, cwd=_ROOT, stdout=output, stderr=errors) as process,
    ):
        samples = [0]
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, sample, seconds_between_samples, samples, ended))
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        sampler.join()
        said, complaints = _read(output), _read(errors)
    if process.returncode:
        last = (complaints.strip().splitlines() or [""])[-1]
        raise InputError(f"{' '.join(map(str, command))} ended with status {process.returncode}: {last}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measurement(seconds, usage.ru_utime + usage.ru_stime, peak, max(samples), said)


def _read(file: TextIO) -> str:
    file.seek(0)
    return file.read()


def measure_here(work: Callable[[], float]) -> Measurement:
    """Runs a function in this process, which returns the seconds that count; memory is what the process holds then."""
    before = os.times()
    seconds = work()
    after = os.times()
    cpu_seconds = after.user + after.system - before.user - before.system
    return Measurement(seconds, cpu_seconds, psutil.Process().memory_info().rss, 0, "")


def _sample(
    pid: int,
    sample: Callable[[psutil.Process], int],
    seconds_between_samples: float,
    samples: list[int],
    ended: threading.Event,
) -> None:
    process = psutil.Process(pid)
    while not ended.wait(seconds_between_samples):
        try:
            samples.append(sample(process))
        except psutil.NoSuchProcess:
            return


def tree_bytes(process: psutil.Process) -> int:
    """Memory of a process and all its descendants now; what several of them share counts once, where Linux tells."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            info = member.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total


def case(name: str, num_images: int, runs: Sequence[Measurement], **more: Any) -> dict[str, Any]:
    """A case's row: images per second from whole processes, medians of CPU time and memory.

    Args:
      name: of the case.
      num_images: images a run.
      runs: its measurements.
      **more: further entries.
    """
    rates = [num_images / run.seconds for run in runs]
    return {
        "name": name,
        "num_images": num_images,
        "images_per_second": rates_entry(rates),
        "first_epoch": None,
        "seconds": round(statistics.median(run.seconds for run in runs), 3),
        "cpu_seconds": round(statistics.median(run.cpu_seconds for run in runs), 3),
        "peak_rss_bytes": int(statistics.median(run.peak_rss_bytes for run in runs)),
        **more,
    }


def rates_entry(rates: Sequence[float]) -> dict[str, Any]:
    """The median of some rates, and all of them."""
    return {"median": round(statistics.median(rates), 1), "runs": [round(rate, 1) for rate in rates]}


def write(path: Path, cases: Sequence[Mapping[str, Any]], ratios: Mapping[str, float], **more: Any) -> None:
    """Writes a benchmark's file: machine, commit, cases, ratios."""
    content = {"machine": _machine(), "commit": _commit(), "cases": list(cases), "ratios": dict(ratios), **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def table(cases: Sequence[Mapping[str, Any]], ratios: Mapping[str, float]) -> str:
    """The same for people."""
    width = max(len(str(row["name"])) for row in cases)
    lines = [f"{'':<{width}}  images/s  seconds  CPU s  peak MB"]
    for row in cases:
        values = (row["images_per_second"]["median"], row["seconds"], row["cpu_seconds"], row["peak_rss_bytes"] / 1e6)
        lines.append("{:<{}}  {:>8,.0f}  {:>7,.1f}  {:>5,.1f}  {:>7,.0f}".format(row["name"], width, *values))
    return "\n".join([*lines, *(f"{name}: {ratio:.2f}" for name, ratio in ratios.items())])


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
