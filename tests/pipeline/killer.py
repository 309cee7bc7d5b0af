"""Kills a job at its n-th change of the file system, lets the same job run again, and tells what is left.

    python tests/pipeline/killer.py <source> <work folder> <first> <step> [overwrite]

Each job runs in a forked child. For n = first, first + step, … until a job ends before its n-th change, one JSON line
is printed: n, the exit status, the change that was not made, how many files the killed job left, the exit status of the
second run, and the digests of all files that this one left. With `overwrite` the jobs replace a data set of other
settings.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

sys.path.extend(str(Path(__file__).parents[level]) for level in (2, 1))

from conftest import data_set_digests, prepare

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
SETTINGS = {"image_size_px": 16, "cells_per_shard": 16}


def count_changes(data_dir, kill_at, report):
    """Kills this process when it is about to change the data folder for the n-th time."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        is_written = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        if (event in CHANGES or is_written) and str(arguments[0]).startswith(data_dir):
            seen += 1
            if seen == kill_at:
                report.write_text(f"{event} {Path(arguments[0]).name}")
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def in_child(source, data_dir, overwrite, kill_at=None, report=None):
    """Runs the job in a forked process; returns its exit status, negative if it was killed."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        if kill_at:
            count_changes(data_dir, kill_at, report)
        try:
            prepare(source, data_dir, overwrite=overwrite, **SETTINGS)
        except Exception as error:
            print(error)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(source, work, first, step, overwrite=""):
    report, other = Path(work) / "report", Path(work) / "other"
    if overwrite:
        pid = os.fork()  # Beam's threads must not be in this process when it forks
        if pid == 0:
            prepare(source, str(other), **{**SETTINGS, "image_size_px": 8})
            os._exit(0)
        os.waitpid(pid, 0)
    for kill_at in range(int(first), 10_000, int(step)):
        data_dir = str(Path(work) / "data")
        shutil.rmtree(data_dir, ignore_errors=True)
        if overwrite:
            shutil.copytree(other, data_dir)
        killed = in_child(source, data_dir, bool(overwrite), kill_at, report)
        num_files = len(data_set_digests(data_dir))
        again = 0 if killed == 0 else in_child(source, data_dir, bool(overwrite))
        change = report.read_text() if killed else ""
        print(json.dumps([kill_at, killed, change, num_files, again, data_set_digests(data_dir)]), flush=True)
        if killed == 0:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
