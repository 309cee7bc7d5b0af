"""Measures commands and functions (time, CPU, memory) and writes the file form that all benchmarks share.

A case holds the median of repeated runs, and ratios are within one run, since machines are shared and noisy.
"""

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from pipeline import storage
from pipeline.errors import InputError
from pipeline.terminal import progress_bar

_ROOT = Path(__file__).parents[2]
_SECONDS_BETWEEN_SAMPLES = 0.25  # looking at a process's memory stops it for some milliseconds


class Measurement(NamedTuple):
    """One run of a command or function."""

    seconds: float  # of a command, from start to end; of a function, what it returned
    cpu_seconds: float  # user and system time, of a command with its own children
    peak_rss_bytes: int  # most that a command's process, or its largest child, held; of a function, what is held after
    output: str = ""  # on standard output


def measure(name: str, command: Sequence[str], with_descendants: bool = False) -> Measurement:
    """Runs a command in the project's folder and measures it; InputError with its name and last line if it fails.

    With its descendants, peak memory is that of all its processes together, sampled four times per second; on Linux,
    memory that several of them share counts once.
    """
    samples: list[int] = []
    ended = threading.Event()
    if not with_descendants:
        ended.set()

    def take_samples(pid: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            while not ended.wait(_SECONDS_BETWEEN_SAMPLES):
                samples.append(_tree_bytes(process))

    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        with subprocess.Popen(command, cwd=_ROOT, stdout=output, stderr=errors) as process:
            sampler = threading.Thread(target=take_samples, args=(process.pid,))
            sampler.start()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            ended.set()
            sampler.join()
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            last_line = (errors.read().strip().splitlines() or [""])[-1]
            raise InputError(f"{name} ended with status {process.returncode}: {last_line}")
        peak = max(samples, default=peak_rss_bytes(usage))
        return Measurement(seconds, usage.ru_utime + usage.ru_stime, peak, output.read())


def peak_rss_bytes(usage: resource.struct_rusage) -> int:
    """The most memory that a process held, in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _tree_bytes(process: psutil.Process) -> int:
    total = 0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            info = member.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total


def measure_in_turn(
    functions: Mapping[str, Callable[[], float]], num_images: int, repeats: int
) -> tuple[list[dict[str, Any]], dict[str, list[Measurement]]]:
    """Runs functions in turn that return the seconds that count; returns their cases, and the runs by name."""
    runs: dict[str, list[Measurement]] = {name: [] for name in functions}
    with progress_bar(repeats * len(functions), "measuring", "runs") as bar:
        for _ in range(repeats):
            for name, function in functions.items():
                before = time.process_time()
                seconds = function()
                cpu_seconds = time.process_time() - before
                runs[name].append(Measurement(seconds, cpu_seconds, psutil.Process().memory_info().rss))
                bar.update()
    return [case(name, num_images, runs[name]) for name in functions], runs


def ratio(runs: Mapping[str, Sequence[Measurement]], name: str, other: str) -> float:
    """How many times as fast one function is as another: the median of the repeats' ratios."""
    pairs = zip(runs[name], runs[other], strict=True)
    return round(statistics.median(theirs.seconds / ours.seconds for ours, theirs in pairs), 4)


def case(name: str, num_images: int, runs: Sequence[Measurement], **more: Any) -> dict[str, Any]:
    """A case of the file, with further entries: images per second, medians of CPU time and memory."""
    return {
        "name": name,
        "num_images": num_images,
        "images_per_second": rates_entry([num_images / run.seconds for run in runs]),
        "first_epoch": None,
        "seconds": round(statistics.median(run.seconds for run in runs), 3),
        "cpu_seconds": round(statistics.median(run.cpu_seconds for run in runs), 3),
        "peak_rss_bytes": int(statistics.median(run.peak_rss_bytes for run in runs)),
        **more,
    }


def rates_entry(rates: Sequence[float]) -> dict[str, Any]:
    """The median of some rates, and all of them; the median of none is None."""
    return {"median": round(statistics.median(rates), 1) if rates else None, "runs": [round(rate, 1) for rate in rates]}


def report(path: str, cases: Sequence[Mapping[str, Any]], ratios: Mapping[str, float], **more: Any) -> None:
    """Writes a benchmark's file, see `write`, and prints its table."""
    write(path, cases, ratios, **more)
    print(f"{table(cases, ratios)}\n{path}")


def write(path: str, cases: Sequence[Mapping[str, Any]], ratios: Mapping[str, float], **more: Any) -> None:
    """Writes a benchmark's file: machine, commit, cases, ratios, and more."""
    content = {"machine": _machine(), "commit": _commit(), "cases": list(cases), "ratios": dict(ratios), **more}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with storage.open_atomic(Path(path)) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def table(cases: Sequence[Mapping[str, Any]], ratios: Mapping[str, float]) -> str:
    """The measured cases and the ratios as text, and what was not measured."""
    width = max(len(str(row["name"])) for row in cases)
    lines = [f"{'':<{width}}  images/s  first epoch  CPU s  peak MB"]
    for row in cases:
        if row["images_per_second"]["median"] is None:
            lines.append(f"{row['name']:<{width}}  not measured: {row['error']}")
            continue
        first = f"{row['first_epoch']['median']:,.0f}" if row["first_epoch"] else ""
        values = (row["images_per_second"]["median"], first, row["cpu_seconds"], row["peak_rss_bytes"] / 1e6)
        lines.append("{:<{}}  {:>8,.0f}  {:>11}  {:>5,.1f}  {:>7,.0f}".format(row["name"], width, *values))
    return "\n".join([*lines, *(f"{name}: {ratio:.2f}" for name, ratio in ratios.items())])


def positive_numbers(flag: str, values: Sequence[str]) -> list[int]:
    """The sorted numbers of a list flag; raises InputError if one is not a positive number."""
    try:
        numbers = sorted({int(number) for number in values})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise InputError(f"--{flag}={','.join(values)} is not a list of positive numbers, such as 9000,27000")
    return numbers


def check_work_dir(work_dir: str | None) -> None:
    """Raises InputError if `--work_dir` is given and is not a folder."""
    if work_dir and not Path(work_dir).is_dir():
        raise InputError(f"--work_dir={work_dir} is not a folder; create it first or name another")


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": next(models, platform.processor() or platform.machine()),
        "num_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
