"""Measures commands and functions (time, CPU, memory) and writes the file form that all benchmarks share.

A case holds the median of repeated runs, and ratios are within one run, since machines are shared and noisy.
"""

import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from pipeline import storage
from pipeline.errors import InputError
from pipeline.terminal import progress_bar

_ROOT = Path(__file__).parents[2]
_SECONDS_BETWEEN_SAMPLES = 0.25


def spread(rates: Mapping[str, Any]) -> str:
    """Some rates in short: the median, the slowest and the fastest."""
    return f"{rates['median']:,.0f} ({min(rates['runs']):,.0f}–{max(rates['runs']):,.0f})"


_COLUMNS = {  # of the table, as far as a benchmark fills them: key of a case, and how it is shown
    "images/s": ("images_per_second", spread),
    "images/s without start-up": ("images_per_second_without_start_up", spread),
    "first epoch": ("first_epoch", spread),
    "of the ceiling": ("share_of_ceiling", "{:.1%}".format),
    "s per epoch": ("seconds_per_epoch", "{:.2f}".format),
    "waiting": ("waiting_share", "{:.1%}".format),
    "CPU s": ("cpu_seconds", "{:.1f}".format),
    "peak MB": ("peak_rss_bytes", lambda size: f"{size / 1e6:,.0f}"),
    "peak MB of the GPU": ("peak_device_bytes", lambda size: f"{size / 1e6:,.0f}"),
}


class Measurement(NamedTuple):
    """One run of a command or function."""

    seconds: float  # of a command, from start to end; of a function, what it returned
    cpu_seconds: float  # user and system time, of a command with its descendants
    peak_rss_bytes: int  # of a command with its descendants, see `measure`; of a function, what is held after it
    output: str = ""  # on standard output


def measure(name: str, command: Sequence[str]) -> Measurement:
    """Runs a command in the project's folder and measures it; InputError with its name and last line if it fails.

    Peak memory is the sum over all its processes, sampled four times per second: what they share counts in each.
    """
    peak, pause = 0, 0.01  # short at first, for commands that end soon
    cpu_seconds_before, started = sum(os.times()[2:4]), time.perf_counter()  # of children
    with psutil.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=pause)
                break
            except subprocess.TimeoutExpired:
                peak, pause = max(peak, _rss_bytes(process)), min(2 * pause, _SECONDS_BETWEEN_SAMPLES)
    seconds, cpu_seconds = time.perf_counter() - started, sum(os.times()[2:4]) - cpu_seconds_before
    if process.returncode:
        last_line = (errors.strip().splitlines() or [""])[-1]
        raise InputError(f"{name} ended with status {process.returncode}: {last_line}")
    return Measurement(seconds, cpu_seconds, peak, output)


def _rss_bytes(process: psutil.Process) -> int:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def measure_in_turn(
    functions: Mapping[str, Callable[[], float]], num_images: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Runs functions in turn that return the seconds that count; returns their cases by name."""
    runs: dict[str, list[Measurement]] = {name: [] for name in functions}
    with progress_bar(repeats * len(functions), "measuring", "runs") as bar:
        for _ in range(repeats):
            for name, function in functions.items():
                before = time.process_time()
                seconds = function()
                cpu_seconds = time.process_time() - before
                runs[name].append(Measurement(seconds, cpu_seconds, psutil.Process().memory_info().rss))
                bar.update()
    return {name: case(name, num_images, runs[name]) for name in functions}


def ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any], key: str = "images_per_second") -> float:
    """How many times as fast one case is as another: the median of the repeats' ratios."""
    pairs = zip(ours[key]["runs"], theirs[key]["runs"], strict=False)
    return round(statistics.median(our / their for our, their in pairs), 4)


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


def report(path: str, cases: Collection[Mapping[str, Any]], ratios: Mapping[str, float], **more: Any) -> None:
    """Writes a benchmark's file, see `write`, and prints it as Markdown."""
    write(path, cases, ratios, **more)
    print(f"{table(cases)}\n\n{markdown(('ratio', ''), ((name, f'{ratio:,.4g}') for name, ratio in ratios.items()))}")
    print(f"\n{path}")


def write(path: str, cases: Collection[Mapping[str, Any]], ratios: Mapping[str, float], **more: Any) -> None:
    """Writes a benchmark's file: machine, commit, cases, ratios, and more."""
    content = {"machine": _machine(), "commit": _commit(), "cases": list(cases), "ratios": dict(ratios), **more}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with storage.open_atomic(Path(path)) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def table(cases: Collection[Mapping[str, Any]]) -> str:
    """The cases as Markdown, and what was not measured."""
    columns = {name: column for name, column in _COLUMNS.items() if any(row.get(column[0]) for row in cases)}
    rows = [
        (row["name"], f"not measured: {row['error']}")
        if "error" in row
        else (row["name"], *(to_text(row[key]) if row.get(key) else "" for key, to_text in columns.values()))
        for row in cases
    ]
    return markdown(("case", *columns), rows)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def _machine() -> dict[str, Any]:
    models = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": next(iter(models), platform.machine()),
        "num_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
