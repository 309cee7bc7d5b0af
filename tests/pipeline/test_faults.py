"""Kills, rivals, full disks and hostile input: no work is lost, and nothing half-made looks whole."""

import contextlib
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import (
    ROOT,
    assert_one_line_error,
    data_set_digests,
    listing_of,
    prepare,
)

from pipeline import storage
from pipeline.cells import Cell
from pipeline.errors import InputError
from pipeline.job import build_manifest, plan, results, workers
from pipeline.job import prepare as job
from pipeline.records import layout
from pipeline.source.listing import Cells, Listing

SMALL = ("--image_size_px=16", "--cells_per_shard=8")


def kills(source, folder, first, step, *mode):
    """Runs killer.py; returns its lines, the last of which is the job that was not killed."""
    command = [sys.executable, ROOT / "tests/pipeline/killer.py", source, folder, str(first), str(step), *mode]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def assert_every_kill_was_survived(lines):
    *killed, undisturbed = lines
    assert undisturbed[1] == 0
    assert any(num_files for _, _, _, num_files, _, _ in killed), "no kill came after a file was written"
    for at, status, change, _, again, digests in killed:
        assert (status, again) == (-signal.SIGKILL, 0), (at, change)
        assert digests == undisturbed[5], (at, change)


def test_killed_before_some_change_of_the_file_system_it_continues(source, tmp_path):
    lines = kills(source, tmp_path, 6, 12)
    assert len(lines) >= 4
    assert_every_kill_was_survived(lines)


@pytest.mark.slow
def test_killed_during_the_last_writes_it_continues(source, tmp_path):
    lines = kills(source, tmp_path, 43, 2)
    changes = " ".join(change for _, _, change, *_ in lines)
    assert "manifest.json" in changes
    assert "1.0.0" in changes
    assert_every_kill_was_survived(lines)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("overwrite",)])
def test_killed_before_any_change_of_the_file_system_it_continues(source, tmp_path, mode):
    lines = kills(source, tmp_path, 1, 1, *mode)
    assert len(lines) > 40
    assert_every_kill_was_survived(lines)


def start(source, data_dir, *flags):
    command = [sys.executable, "-m", "pipeline.preprocess", f"--source={source}", f"--data_dir={data_dir}", *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, process_group=0)


def wait_for_a_shard(process, tmp_path):
    while not list((tmp_path / "data/tfds_malaria/by_patient/1.0.0.incomplete").glob("*/*.done.json")):
        assert process.poll() is None
        time.sleep(0.01)


def wait_for_a_worker(process, tmp_path):
    while not psutil.Process(process.pid).children():
        assert process.poll() is None
        time.sleep(0.01)


def finish(source, data_dir, cells_per_shard, configs=("by_patient",)):
    """Ends a job, or does all of it, in this process."""
    for config in configs:
        prepare(source, data_dir, config=config, cells_per_shard=cells_per_shard)
    return data_set_digests(data_dir)


def kill_at_random_moments(rng, source, data_dir, times, *flags):
    """Kills jobs that have written a file already; returns how many had not ended by then."""
    num_killed = 0
    for _ in range(times):
        process = start(source, data_dir, *flags)
        while not any(path.is_file() for path in data_dir.rglob("*")) and process.poll() is None:
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0, 1.5))
        num_killed += process.poll() is None
        process.kill()
        process.communicate()
    return num_killed


def test_a_worker_that_was_killed_is_one_line_and_the_same_call_continues(synthetic_zip, tmp_path):
    process = start(synthetic_zip, tmp_path / "data", "--cells_per_shard=1")
    wait_for_a_shard(process, tmp_path)
    for child in psutil.Process(process.pid).children():
        child.kill()
    _, error = process.communicate(timeout=10)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    assert "a worker process was killed, perhaps for memory; fix that, then the same command continues" in error
    assert finish(synthetic_zip, tmp_path / "data", 1) == finish(synthetic_zip, tmp_path / "undisturbed", 1)


def test_a_worker_that_was_killed_before_its_first_shard_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    processes = workers.WorkerProcesses(None, 1)
    try:
        with pytest.raises(
            workers.ShardError, match="a shard could not be filled: a worker process ended with status 1"
        ):
            processes.fill("a shard").result()
    finally:
        processes.close()


def test_workers_end_with_a_main_process_that_was_killed_and_the_same_call_continues(synthetic_zip, tmp_path):
    process = start(synthetic_zip, tmp_path / "data", "--cells_per_shard=1")
    wait_for_a_shard(process, tmp_path)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.communicate()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert finish(synthetic_zip, tmp_path / "data", 1) == finish(synthetic_zip, tmp_path / "undisturbed", 1)


@pytest.mark.slow
def test_a_series_of_kills(synthetic_zip, tmp_path, random_seed):
    rng, configs = random.Random(random_seed), ("by_patient", "folds")
    undisturbed = finish(synthetic_zip, tmp_path / "undisturbed", 2, configs)
    for attempt in range(10):
        data_dir = tmp_path / f"data{attempt}"
        flags = ("--cells_per_shard=2", f"--config={','.join(configs)}")
        assert kill_at_random_moments(rng, synthetic_zip, data_dir, 4, *flags)
        assert finish(synthetic_zip, data_dir, 2, configs) == undisturbed


def test_while_another_job_is_at_work_it_stops(source, tmp_path):
    target = layout.dataset_dir(str(tmp_path / "data"), "by_patient")
    with storage.lock(target):
        with pytest.raises(InputError, match=r"another job is at work on .* wait until it has ended"):
            prepare(source, tmp_path / "data")
        assert not target.exists()
    assert prepare(source, tmp_path / "data").num_filled == 36
    assert [path.name for path in target.parent.iterdir()] == ["1.0.0"]


def test_two_jobs_at_once_leave_one_whole_data_set(synthetic_zip, tmp_path):
    rivals = [start(synthetic_zip, tmp_path / "data", "--cells_per_shard=4") for _ in range(2)]
    outputs = [process.communicate() for process in rivals]
    codes = sorted(process.returncode for process in rivals)
    assert codes in ([0, 0], [0, 1]), outputs
    if codes == [0, 1]:
        assert any("another job is at work" in error for _, error in outputs), outputs
    assert data_set_digests(tmp_path / "data") == finish(synthetic_zip, tmp_path / "alone", 4)


@pytest.mark.parametrize("wait", [wait_for_a_shard, wait_for_a_worker])
def test_interrupted_it_says_so_in_one_line(wait, synthetic_zip, tmp_path):
    process = start(synthetic_zip, tmp_path / "data", "--cells_per_shard=1")
    wait(process, tmp_path)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    lines = [line for line in error.splitlines() if line and not line.startswith(("listing", "filling shards"))]
    assert lines == ["interrupted; the same command continues"], error
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not list(tmp_path.rglob("*.partial"))


def test_what_the_disk_lost_is_filled_again(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build_manifest, "write", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(InputError, match="power cut"):
        prepare(source, tmp_path / "data", cells_per_shard=5)
    monkeypatch.undo()
    incomplete = layout.incomplete_dir(layout.dataset_dir(str(tmp_path / "data"), "by_patient"))
    shards = sorted(incomplete.glob("*.tfrecord-?????-of-?????"))
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    shards[1].unlink()
    (incomplete / f"{shards[2].name}.index.npy").write_bytes(b"")
    result, flipped = (next(iter(incomplete.glob(f"*/{shards[i].name}.done.json"))) for i in (3, 4))
    result.write_text(result.read_text()[:50])
    flipped.write_text(flipped.read_text().replace('"num_bytes"', '"num_bites"'))
    assert prepare(source, tmp_path / "data", cells_per_shard=5).num_filled > 17
    undisturbed = prepare(source, tmp_path / "undisturbed", cells_per_shard=5)
    assert data_set_digests(tmp_path / "data") == data_set_digests(tmp_path / "undisturbed")
    assert undisturbed.num_filled == 36


def test_results_that_the_disk_lost_at_the_end_are_named(source, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "check", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with job.plan(listing_of(source), plan.Settings(), source=str(source), data_dir=str(tmp_path)) as planned:
        with pytest.raises(InputError, match="power cut"):
            job.run(planned)
        first = next(iter(planned.num_cells))
        (planned.shard_job.job_dir / layout.result_name(first)).write_text("{")
        with pytest.raises(InputError, match=f"1 of {len(planned.num_cells)} shards are missing, such as {first}"):
            results.read_results(planned.shard_job.job_dir, planned.num_cells)


def test_filling_holds_no_cell(source, tmp_path):
    cells = listing_of(source)
    with job.plan(cells, plan.Settings(), source=str(source), data_dir=str(tmp_path / "data")) as planned:
        del cells
        gc.collect()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Cell | Cells | Listing)]
        job.run(planned)


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_is_one_line_and_what_was_filled_is_kept(synthetic_zip, tmp_path):
    flags = [f"--source={synthetic_zip}", f"--data_dir={tmp_path / 'data'}", "--cells_per_shard=8"]
    command = [sys.executable, "-m", "pipeline.preprocess", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit_file_size)
    assert_one_line_error(result, "could not be filled", "File too large", "the same command continues")
    incomplete = layout.incomplete_dir(layout.dataset_dir(str(tmp_path / "data"), "by_patient"))
    assert not [name for name in data_set_digests(incomplete) if name.endswith(".partial")]
    assert finish(synthetic_zip, tmp_path / "data", 8) == finish(synthetic_zip, tmp_path / "undisturbed", 8)


def test_a_worker_of_a_job_that_was_given_up_writes_nothing(source, tmp_path, monkeypatch):
    from pipeline.job import fill

    targets = []
    real = fill.fill_shard

    def keeps_the_target(file_name, target, num_threads):
        targets.append((file_name, target))
        return real(file_name, target, num_threads)

    monkeypatch.setattr(fill, "fill_shard", keeps_the_target)
    directory = prepare(source, tmp_path / "data").directory
    before, began = data_set_digests(tmp_path / "data"), time.time()
    with pytest.raises(FileNotFoundError):
        real(*targets[0])
    assert data_set_digests(tmp_path / "data") == before
    assert directory.stat().mtime < began
