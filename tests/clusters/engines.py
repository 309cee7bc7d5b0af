"""Starts engines on loopback, each with two workers that note in `<folder>/workers.log` who fills shards."""

import contextlib
import functools
import json
import os
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

_OPENED = ["lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "text", "time", "util", "util.concurrent"]
_OPENED = [*(f"java.{name}" for name in [*_OPENED, "util.concurrent.atomic"]), "sun.nio.ch", "sun.net.util"]
_JAVA_OPTIONS = [  # of every Java process, also those that Spark's workers start
    "-XX:TieredStopAtLevel=1",  # they are short
    *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in [*_OPENED, "sun.security.action"]),
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
        names = {
            "WORKER": name,
            "WORKER_LOG": str(self.folder / "workers.log"),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "JDK_JAVA_OPTIONS": " ".join(_JAVA_OPTIONS),
        }
        with log.open("w") as output:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                env={**os.environ, **names, **environment},
                stdout=output,
                stderr=output,
            )
        self.callback(process.wait)
        self.callback(process.kill)
        return process, log


def job_server(processes, engine, driver, *flags, class_path=(), java=()):
    """Starts Beam's job server for an engine; returns the options that reach it."""
    port = free_port()
    path = os.pathsep.join(f"{folder}/*" for folder in [HOME / f"{engine}-job-server", *class_path])
    _, log = processes.start(
        *("job-server", "java", "-Xmx600m", *java, "-cp", path, f"org.apache.beam.runners.{engine}.{driver}", *flags),
        *("--job-host=127.0.0.1", f"--job-port={port}", "--artifact-port=0", "--expansion-port=0"),
        f"--artifacts-dir={processes.folder / 'artifacts'}",
    )
    wait_for(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, log)
    return [
        *("--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}", "--environment_type=PROCESS"),
        f"--environment_option=process_command={BEAM_WORKER}",
        "--environment_cache_millis=30000",  # else Spark starts Python anew for each task
    ]


@contextlib.contextmanager
def flink(folder, packages=PACKAGES):
    """A session cluster of Flink: a JobManager, two TaskManagers, Beam's job server."""
    rest, rpc = free_port(), free_port()
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").touch()
    memory = {"framework.heap.size": 64, "framework.off-heap.size": 64, "task.heap.size": 128, "task.off-heap.size": 64}
    memory |= {"network.min": 32, "network.max": 32, "managed.size": 64, "jvm-metaspace.size": 256}
    memory |= {"jvm-overhead.min": 64, "jvm-overhead.max": 64}
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
        **{f"taskmanager.memory.{part}": f"{size}m" for part, size in memory.items()},
    }
    settings = [word for key, value in config.items() for word in ("-D", f"{key}={value}")]
    java = ["java", "-Xmx384m", "-cp", packages / "pyflink" / "lib" / "*"]
    entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    runner = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
    with Processes(folder) as processes:
        _, log = processes.start("jobmanager", *java, entry, "--configDir", folder / "conf", *settings)
        manager = [*java, runner, "--configDir", folder / "conf", *settings]
        workers = [processes.start(f"taskmanager-{number}", *manager)[0] for number in (1, 2)]
        options = job_server(processes, "flink", "FlinkJobServerDriver", f"--flink-master=127.0.0.1:{rest}")
        wait_for(lambda: len(get(f"http://127.0.0.1:{rest}/taskmanagers")["taskmanagers"]) == 2, log)
        yield Cluster([*options, "--parallelism=2"], workers, folder)


newer_flink = functools.partial(flink, packages=HOME / "flink-1.20")  # than its job server


@contextlib.contextmanager
def spark(folder):
    """A standalone cluster of Spark: a master, two workers, Beam's job server, which is the driver."""
    port, web, home = free_port(), free_port(), PACKAGES / "pyspark"
    master = f"spark://127.0.0.1:{port}"
    java = ["java", "-Xmx256m", "-cp", home / "jars" / "*"]
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
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
        }
        java = [f"-D{key}={value}" for key, value in conf.items()]
        flags = [f"--spark-master-url={master}"]
        options = job_server(processes, "spark", "SparkJobServerDriver", *flags, class_path=[home / "jars"], java=java)
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
        worker = ["worker", "--no-nanny", "--nthreads", 1, "--local-directory", folder, "--preload", BEAM_WORKER]
        workers = [processes.start(f"worker-{number}", *command, *worker, *shared)[0] for number in (1, 2)]
        wait_for(file.exists, log)
        with distributed.Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=60)
        yield Cluster(["--runner=DaskRunner", f"--dask_scheduler_file={file}"], workers, folder)


@contextlib.contextmanager
def prism(folder):
    """Beam's local runner in Go, with workers in the job's own process."""
    yield Cluster(["--runner=PrismRunner", f"--prism_location={HOME / 'bin' / 'prism'}"], [], folder)
