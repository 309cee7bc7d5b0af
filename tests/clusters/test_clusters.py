"""The same bytes from real engines on loopback, also when a worker is killed, and one line for what can go wrong.

`make clusters` installs the engines; an engine that is missing is skipped.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import time

import engines
import pytest
from conftest import ROOT, assert_one_line_error, data_set_digests, run_command, run_in_process

pytestmark = pytest.mark.clusters
FLAGS = ("--cells_per_shard=4", "--image_size_px=64")
NEEDS = {"newer_flink": "flink-1.20", "spark": "spark-job-server", "flink": "flink-job-server", "prism": "bin/prism"}


@contextlib.contextmanager
def started(engine, folder):
    needed = engines.HOME / NEEDS.get(engine, "")
    if engine in NEEDS and not needed.exists():
        pytest.skip(f"{needed} is missing: make clusters")
    if engine not in ("dask", "prism") and not shutil.which("java"):
        pytest.skip("java is missing")
    with getattr(engines, engine)(folder) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["flink", "spark", "dask", "prism"])
def cluster(request, tmp_path_factory):
    with started(request.param, tmp_path_factory.mktemp(request.param)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def local_digests(synthetic_zip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    assert preprocess(synthetic_zip, folder).returncode == 0
    return data_set_digests(folder)


def command_line(source, data_dir, options):
    given = [f"--pipeline_options={','.join(options)}"] if options else []
    return [f"--source={source}", f"--data_dir={data_dir}", *FLAGS, *given]


def preprocess(source, data_dir, options=()):
    return run_command("pipeline.preprocess", *command_line(source, data_dir, options))


def test_the_bytes_are_those_of_a_local_run(cluster, synthetic_zip, tmp_path, local_digests):
    result = preprocess(synthetic_zip, tmp_path, cluster.options)
    assert result.returncode == 0, result.stderr
    assert data_set_digests(tmp_path) == local_digests
    assert len(cluster.took_part()) == len(cluster.workers)  # every one


def test_workers_without_the_project(cluster, synthetic_zip, tmp_path):
    if "--environment_type=PROCESS" not in cluster.options:
        pytest.skip("its workers are Python processes of their own")
    (tmp_path / "pipeline").mkdir()  # before the one that this environment may have installed
    (tmp_path / "pipeline/__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'pipeline'\")")
    options = [*cluster.options, f"--environment_option=process_variables=PYTHONPATH={tmp_path}"]
    result = preprocess(synthetic_zip, tmp_path, options)
    assert_one_line_error(result, "the workers have no package pipeline", "continues")


def test_a_path_that_workers_do_not_see(cluster, synthetic_zip, tmp_path, monkeypatch):
    if not cluster.workers:
        pytest.skip("it works in the job's own process")
    monkeypatch.chdir(tmp_path)  # the workers are in another folder
    result = run_in_process("pipeline.preprocess", *command_line(synthetic_zip, "data", cluster.options))
    assert_one_line_error(result, "has no data/", "a --data_dir that all workers reach", "continues")


def test_with_one_worker_killed_the_job_ends_whole_or_continues(cluster, synthetic_zip, tmp_path, local_digests):
    if not cluster.workers:
        pytest.skip("it works in the job's own process")
    job = [sys.executable, "-m", "pipeline.preprocess", *command_line(synthetic_zip, tmp_path, cluster.options)]
    with subprocess.Popen(job, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        folder = tmp_path / "tfds_malaria" / "by_patient" / "1.0.0.incomplete"
        while not any(folder.glob("*/*.done.json")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        cluster.workers[0].send_signal(signal.SIGKILL)
        error = process.communicate(timeout=120)[1]
    print(error)
    if process.returncode:
        assert "Traceback" not in error
        assert "the same command continues" in error
        again = preprocess(synthetic_zip, tmp_path, cluster.options)
        assert again.returncode == 0, again.stderr
    assert data_set_digests(tmp_path) == local_digests


@pytest.mark.parametrize(
    "options",
    [
        ["--dask_client_address=tcp://127.0.0.1:9", "--dask_connection_timeout=1", "--runner=DaskRunner"],
        ["--job_endpoint=127.0.0.1:9", "--job_server_timeout=1", "--runner=PortableRunner"],
    ],
)
def test_an_engine_that_is_not_there(options, synthetic_zip, tmp_path):
    result = preprocess(synthetic_zip, tmp_path, options)
    assert_one_line_error(result, "the runner failed", options[0], "the same command continues")


def test_a_job_server_of_another_version_than_its_cluster(synthetic_zip, tmp_path, tmp_path_factory):
    with started("newer_flink", tmp_path_factory.mktemp("newer_flink")) as cluster:
        result = preprocess(synthetic_zip, tmp_path, cluster.options)
    assert_one_line_error(result, "the runner failed", "Caused by: ", "--job_endpoint", "the same command continues")
    assert "\tat " not in result.stderr
