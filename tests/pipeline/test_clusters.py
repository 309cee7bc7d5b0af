"""The same bytes from a real Dask cluster: a scheduler and two worker processes, by Dask's own commands."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, assert_one_line_error, data_set_digests, run_command

FLAGS = ("--cells_per_shard=4", "--image_size_px=64")


@contextlib.contextmanager
def dask(folder, *arguments):
    """Runs one of Dask's commands in the background."""
    log = (folder / f"{arguments[0]}{time.monotonic_ns()}.log").open("w")
    command = [
        sys.executable,
        "-m",
        "dask",
        *arguments,
        "--no-dashboard",
        "--scheduler-file",
        folder / "scheduler.json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log, subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def cluster(tmp_path):
    """The options that reach a cluster of two workers, and the workers' processes."""
    worker = ("worker", "--no-nanny", "--nthreads", "1", "--local-directory", tmp_path)
    scheduler = dask(tmp_path, "scheduler", "--host", "127.0.0.1", "--port", "0")
    with scheduler, dask(tmp_path, *worker) as one, dask(tmp_path, *worker) as two:
        options = f"--runner=DaskRunner,--dask_scheduler_file={tmp_path / 'scheduler.json'}"
        client = [
            "import distributed",
            f"client = distributed.Client(scheduler_file={str(tmp_path / 'scheduler.json')!r})",
        ]

        def ask(*code):
            script = "\n".join([*client, *code])
            return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

        ask("client.wait_for_workers(2, timeout=60)")
        yield options, (one, two), ask


def preprocess(source, data_dir, *flags):
    return run_command("pipeline.preprocess", f"--source={source}", f"--data_dir={data_dir}", *FLAGS, *flags)


def test_two_dask_workers_make_the_same_bytes(synthetic_zip, tmp_path, cluster):
    options, _, ask = cluster
    assert preprocess(synthetic_zip, tmp_path / "local").returncode == 0
    result = preprocess(synthetic_zip, tmp_path / "dask", f"--pipeline_options={options}")
    assert result.returncode == 0, result.stderr
    assert data_set_digests(tmp_path / "dask") == data_set_digests(tmp_path / "local")
    took_part = ask("print(list(client.run(lambda: 'pipeline.job.fill' in __import__('sys').modules).values()))")
    assert took_part.strip() == "[True, True]"


def test_with_one_worker_killed_the_job_ends_whole_or_continues(synthetic_zip, tmp_path, cluster):
    options, (worker, _), _ = cluster
    flags = [f"--source={synthetic_zip}", f"--data_dir={tmp_path / 'dask'}", *FLAGS, f"--pipeline_options={options}"]
    job = [sys.executable, "-m", "pipeline.preprocess", *flags]
    with subprocess.Popen(job, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        folder = tmp_path / "dask" / "tfds_malaria" / "by_patient" / "1.0.0.incomplete"
        while len(list(folder.glob("*/*.done.json"))) < 5:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        worker.send_signal(signal.SIGKILL)
        error = process.communicate(timeout=120)[1]
    if process.returncode:
        assert "Traceback" not in error
        assert "the same command continues" in error
        assert preprocess(synthetic_zip, tmp_path / "dask", f"--pipeline_options={options}").returncode == 0
    assert preprocess(synthetic_zip, tmp_path / "local").returncode == 0
    assert data_set_digests(tmp_path / "dask") == data_set_digests(tmp_path / "local")


def test_a_scheduler_that_is_not_there(synthetic_zip, tmp_path):
    options = "--runner=DaskRunner,--dask_client_address=tcp://127.0.0.1:9,--dask_connection_timeout=1"
    result = preprocess(synthetic_zip, tmp_path / "data", f"--pipeline_options={options}")
    assert_one_line_error(result, "the runner failed", "--dask_client_address", "the same command continues")
    assert preprocess(synthetic_zip, tmp_path / "data").returncode == 0
