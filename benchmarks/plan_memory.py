"""Measures the time and memory of planning made-up cells, which have names but no pixels.

    python -m benchmarks.plan_memory --num_cells=2000000 --output=plan.json

A process of its own writes a zip of their names; this one lists it, plans `by_patient`, and builds the manifest from
made-up results. The rate is that of listing and planning together; memory is noted after the plan and at the end.
"""

import itertools
import json
import resource
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from absl import flags

from benchmarks.harness import measurement
from pipeline.cells import DEFAULT_CLASS_FOLDERS, DEFAULT_PATIENT_REGEX, compile_patient_regex
from pipeline.command import run
from pipeline.job import build_manifest, plan, prepare, results
from pipeline.records import layout
from pipeline.source.archive import open_source
from pipeline.source.listing import list_cells

_CELLS_PER_PATIENT = 138  # as in the NLM's archive


def write_zip(archive: Path, num_cells: int) -> None:
    """Writes a zip of cells whose files are no images."""
    with zipfile.ZipFile(archive, "w") as out:
        for i in range(num_cells):
            patient = i // _CELLS_PER_PATIENT
            label = i % 2 if patient % 4 else 0  # a quarter of the patients is healthy
            name = f"C{patient}P{patient % 90}thinF_IMG_20150619_{i:07d}a_cell_{i % 200}.png"
            out.writestr(zipfile.ZipInfo(f"{DEFAULT_CLASS_FOLDERS[label]}/{name}"), name)


def plan_and_describe(source: str, data_dir: str) -> dict[str, tuple[float, int]]:
    """Lists, plans and builds a manifest; (seconds, peak RSS in bytes) up to the end of each step."""
    steps, started = {}, time.perf_counter()

    def note(step: str) -> None:
        peak = measurement.peak_rss_bytes(resource.getrusage(resource.RUSAGE_SELF))
        steps[step] = (time.perf_counter() - started, peak)

    with open_source(source) as opened:
        cells = list_cells(opened, source, DEFAULT_CLASS_FOLDERS, compile_patient_regex(DEFAULT_PATIENT_REGEX))
    note("listed")
    with prepare.plan(cells, plan.Settings(), source=source, data_dir=data_dir) as job:
        del cells
        note("planned")
        if isinstance(job, plan.Job):  # it is new
            job_dir, contents = job.shard_job.job_dir, itertools.count()
            for name in job.num_cells:
                shard = plan.Shard.from_json((job_dir / layout.plan_name(name)).read_text())
                facts = [(*cell[:3], 125, 125, next(contents), ()) for cell in shard.cells]
                (job_dir / layout.result_name(name)).write_text(json.dumps((shard.split, {"file": name}, [], facts)))
            build_manifest.build(job, results.read_results(job_dir, job.num_cells))
            note("described")
    return steps


def main() -> None:
    """Writes the zip, measures, writes the file, prints the table."""
    values = flags.FLAGS
    measurement.check_work_dir(values.work_dir)
    with tempfile.TemporaryDirectory(dir=values.work_dir) as work_dir:
        archive = Path(work_dir) / "cells.zip"
        with ProcessPoolExecutor(1) as process:  # whose memory is not this one's peak
            process.submit(write_zip, archive, values.num_cells).result()
        steps = plan_and_describe(str(archive), f"{archive}.data")
    seconds, peak = steps["planned"]
    planned = measurement.Measurement(seconds, time.process_time(), peak)
    measurement.report(values.output, [measurement.case(archive.name, values.num_cells, [planned], steps=steps)], {})


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_integer("num_cells", 2_000_000, "Number of made-up cells.", lower_bound=1000)
    flags.DEFINE_string("work_dir", None, "Folder for a temporary folder: 1 GB by default.")
    run(main)
