"""The protocol of Flink and Spark: Beam's own Python job service, and a worker pool in a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_line_error, data_set_digests, free_port, prepare, run_in_process

from pipeline.errors import InputError
from pipeline.job.beam_pipeline import explained_runner_errors

SETTINGS = {"image_size_px": 16, "cells_per_shard": 8}
FLAGS = [f"--{name}={value}" for name, value in SETTINGS.items()]


@contextlib.contextmanager
def service(folder, module, port_flag, **environment):
    """Runs one of Beam's services in the background, in a folder of its own; yields its address."""
    port = free_port()
    folder.mkdir()
    command = [sys.executable, "-m", f"apache_beam.runners.{module}", f"{port_flag}={port}"]
    with (folder / "log").open("w") as log:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the pool starts `python`
        environment = {**os.environ, "PATH": path, **environment}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"localhost:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def job_service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("services") / "jobs"
    with service(folder, "portability.local_job_service_main", "--job_port") as address:
        yield address


@pytest.fixture(scope="module")
def worker_pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("services") / "workers"
    with service(folder, "worker.worker_pool_main", "--service_port", PYTHONPATH=str(ROOT)) as address:
        yield address


def preprocess(source, data_dir, job_service, worker_pool, *more):
    options = ("--runner=PortableRunner", f"--job_endpoint={job_service}", "--environment_type=EXTERNAL")
    options = ",".join([*options, f"--environment_config={worker_pool}", *more])
    flags = (f"--source={source}", f"--data_dir={data_dir}", f"--pipeline_options={options}", *FLAGS)
    return run_in_process("pipeline.preprocess", *flags)


def test_the_bytes_equal_those_of_a_local_job(source, tmp_path, job_service, worker_pool):
    result = preprocess(source, tmp_path / "portable", job_service, worker_pool)
    assert result.returncode == 0, result.stderr
    prepare(source, tmp_path / "local", **SETTINGS)
    assert data_set_digests(tmp_path / "portable") == data_set_digests(tmp_path / "local")


def test_a_path_that_workers_do_not_see_is_named(source, tmp_path, job_service, worker_pool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = preprocess(source, "data", job_service, worker_pool)
    assert_one_line_error(result, "has no data/", "a --data_dir that all workers reach", "continues")
    result = preprocess(source.name, tmp_path / "data", job_service, worker_pool)
    assert_one_line_error(result, "could not be filled", f"--source={source.name} does not exist", "continues")
    assert preprocess(source, tmp_path / "data", job_service, worker_pool).returncode == 0


def test_workers_without_the_projects_code_are_told_so(source, tmp_path, job_service):
    # Where the project is installed in editable form, a finder of imports stands for it.
    keep = "[finder for finder in sys.meta_path if '__editable__' not in getattr(finder, '__module__', '')]"
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.meta_path[:] = {keep}\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with service(tmp_path / "workers", "worker.worker_pool_main", "--service_port", **environment) as worker_pool:
        result = preprocess(source, tmp_path / "data", job_service, worker_pool)
    assert_one_line_error(result, "the workers have no package pipeline", "--extra_packages", "continues")


def test_a_job_service_that_is_not_there_is_named(source, tmp_path):
    result = preprocess(source, tmp_path / "data", "localhost:9", "localhost:9", "--job_server_timeout=1")
    assert_one_line_error(result, "the runner failed", "no answer", "--job_endpoint=localhost:9", "continues")


def test_a_worker_pool_that_is_not_there_is_named(source, tmp_path, job_service):
    result = preprocess(source, tmp_path / "data", job_service, "localhost:9")
    assert_one_line_error(result, "the runner failed", "failed to connect", "--environment_config=localhost:9")


def test_of_a_job_servers_stack_trace_only_the_cause_is_told():
    trace = "RestClientException: [Failed to deserialize JobGraph.\nCaused by: ClassNotFoundException: Mode\n\tat x\n]"
    expected = pytest.raises(InputError, match=r"failed: RuntimeError: Caused by: ClassNotFoundException: Mode; check")
    with expected, explained_runner_errors(["--runner=PortableRunner"]):
        raise RuntimeError(trace)
