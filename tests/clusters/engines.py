"""Starts engines on loopback, each with two workers that note in `<folder>/workers.log` who fills shards."""

import contextlib
import functools
import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import distributed
from conftest import ROOT

HOME = ROOT / ".venv-clusters"  # made by `make clusters`
PACKAGES = HOME / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
BEAM_WORKER = Path(__file__).with_name("beam_worker.py")

_PACKAGES = ["lang", "lang.invoke", "io", "net", "nio", "text", "time", "util", "util.concurrent"]
_OPENED = [
    *(f"java.base/java.{package}" for package in _PACKAGES),
    "java.base/java.lang.reflect",
    "java.base/java.util.concurrent.atomic",
    "java.base/sun.nio.ch",
    "java.base/sun.security.action",
]
JAVA = [
    "java",
    "-XX:+IgnoreUnrecognizedVMOptions",
    "-XX:TieredStopAtLevel=1",  # these processes are short
    *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENED),
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
]


class Cluster(NamedTuple):
    """A cluster that runs: Beam's options that reach it, and the processes of its workers."""

    options: list[str]
    workers: list[subprocess.Popen]
    folder: Path

    def took_part(self):
        """Names of the workers that filled shards."""
        log = self.folder / "workers.log"
        return set(log.read_text().split()) if log.exists() else set()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(is_ready, log):
    deadline = time.monotonic() + 90
    while True:
        with contextlib.suppress(OSError):
            if is_ready():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after 90 seconds: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def wait_for_port(port, log):
    wait_for(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, log)


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


class Processes(contextlib.ExitStack):
    """Processes of one cluster, killed at the end."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def start(self, name, *command, **environment):
        log = self.folder / f"{name}.log"
        names = {"WORKER": name, "WORKER_LOG": str(self.folder / "workers.log"), "PYTHONPATH": str(ROOT)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with log.open("w") as output:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                env={**os.environ, "PATH": path, **names, **environment},
                stdout=output,
                stderr=output,
            )
        self.callback(process.wait)
        self.callback(process.kill)
        return process, log


def job_server(processes, engine, driver, *flags, class_path=(), java=JAVA):
    """Starts Beam's job server for an engine; returns the options that reach it."""
    port = free_port()
    path = os.pathsep.join(f"{folder}/*" for folder in [HOME / f"{engine}-job-server", *class_path])
    _, log = processes.start(
        "job-server",
        *(*java, "-cp", path, driver, "--job-host=127.0.0.1", f"--job-port={port}", "--artifact-port=0"),
        *("--expansion-port=0", f"--artifacts-dir={processes.folder / 'artifacts'}", *flags),
    )
    wait_for_port(port, log)
    environment = ["--environment_type=PROCESS", f"--environment_option=process_command={BEAM_WORKER}"]
    return ["--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}", *environment]


@contextlib.contextmanager
def flink(folder):
    """A session cluster of Flink: a JobManager, two TaskManagers, Beam's job server."""
    rest, rpc = free_port(), free_port()
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").touch()
    config = {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc,
        "rest.address": "127.0.0.1",
        "rest.port": rest,
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 5000,
        "io.tmp.dirs": folder,
        "cluster.evenly-spread-out-slots": "true",
        "taskmanager.numberOfTaskSlots": 2,  # so that the other has room for the job of a killed one
        "taskmanager.host": "127.0.0.1",
        "taskmanager.cpu.cores": 1,
        "taskmanager.memory.framework.heap.size": "64m",
        "taskmanager.memory.framework.off-heap.size": "64m",
        "taskmanager.memory.task.heap.size": "128m",
        "taskmanager.memory.task.off-heap.size": "64m",
        "taskmanager.memory.network.min": "32m",
        "taskmanager.memory.network.max": "32m",
        "taskmanager.memory.managed.size": "64m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "64m",
        "taskmanager.memory.jvm-overhead.max": "64m",
    }
    settings = [word for key, value in config.items() for word in ("-D", f"{key}={value}")]
    java = [*JAVA, "-Xmx384m", "-cp", f"{PACKAGES / 'pyflink' / 'lib'}/*"]
    entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    runner = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
    with Processes(folder) as processes:
        _, log = processes.start("jobmanager", *java, entry, "--configDir", folder / "conf", *settings)
        manager = [*java, runner, "--configDir", folder / "conf", *settings]
        workers = [processes.start(f"taskmanager-{number}", *manager)[0] for number in (1, 2)]
        driver = "org.apache.beam.runners.flink.FlinkJobServerDriver"
        options = job_server(processes, "flink", driver, f"--flink-master=127.0.0.1:{rest}", java=[*JAVA, "-Xmx384m"])
        wait_for(lambda: len(get(f"http://127.0.0.1:{rest}/taskmanagers")["taskmanagers"]) == 2, log)
        yield Cluster([*options, "--parallelism=2"], workers, folder)


@contextlib.contextmanager
def spark(folder):
    """A standalone cluster of Spark: a master, two workers, Beam's job server, which is the driver."""
    port, web, home = free_port(), free_port(), PACKAGES / "pyspark"
    master = f"spark://127.0.0.1:{port}"
    java = [*JAVA, "-Xmx256m", "-cp", home / "jars" / "*"]
    with Processes(folder) as processes:
        start = functools.partial(processes.start, SPARK_HOME=str(home), SPARK_SCALA_VERSION="2.12")
        entry = "org.apache.spark.deploy.master.Master"
        _, log = start("master", *java, entry, "--host", "127.0.0.1", "--port", port, "--webui-port", web)
        entry = "org.apache.spark.deploy.worker.Worker"
        size = ["--cores", 1, "--memory", "512m", "--work-dir", folder, "--host", "127.0.0.1", "--webui-port", 0]
        workers = [start(f"worker-{number}", *java, entry, *size, master)[0] for number in (1, 2)]
        conf = {
            "spark.executor.memory": "480m",
            "spark.executor.extraClassPath": HOME / "spark-job-server" / "*",  # its Guava before Spark's older one
            "spark.default.parallelism": 4,
            "spark.task.maxFailures": 1,
            "spark.executor.extraJavaOptions": shlex.join(JAVA[1:]),
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
        }
        options = job_server(
            processes,
            "spark",
            "org.apache.beam.runners.spark.SparkJobServerDriver",
            f"--spark-master-url={master}",
            class_path=[home / "jars"],
            java=[*JAVA, "-Xmx600m", *(f"-D{key}={value}" for key, value in conf.items())],
        )
        wait_for(lambda: get(f"http://127.0.0.1:{web}/json/")["aliveworkers"] == 2, log)
        yield Cluster(options, workers, folder)


@contextlib.contextmanager
def dask(folder):
    """A scheduler and two worker processes, by Dask's own commands."""
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "dask"]
    shared = ["--no-dashboard", "--scheduler-file", file]
    with Processes(folder) as processes:
        _, log = processes.start("scheduler", *command, "scheduler", "--host", "127.0.0.1", "--port", 0, *shared)
        worker = [
            "worker",
            "--no-nanny",
            "--nthreads",
            1,
            "--local-directory",
            folder,
            "--preload",
            BEAM_WORKER,
            *shared,
        ]
        workers = [processes.start(f"worker-{number}", *command, *worker)[0] for number in (1, 2)]
        wait_for(file.exists, log)
        with distributed.Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=60)
        yield Cluster(["--runner=DaskRunner", f"--dask_scheduler_file={file}"], workers, folder)


@contextlib.contextmanager
def prism(folder):
    """Beam's local runner in Go, with workers in the job's own process."""
    yield Cluster(["--runner=PrismRunner", f"--prism_location={HOME / 'bin' / 'prism'}"], [], folder)
