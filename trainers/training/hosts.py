"""Several hosts train one model: `--distribute=hosts`, on JAX. Each computes its slice of each batch.

The first host has the run's folder, from which the others read the checkpoint; they write into a folder of their own
that is removed. JAX aborts a process if a host does not come. So they meet before, at the port that JAX then uses.
"""

import atexit
import json
import math
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from pipeline.errors import InputError
from trainers import run_dir
from trainers.tf_import import JAX
from trainers.training.signals import PREEMPTED, StopRequest
from trainers.training_flags import Options

_SECONDS_TO_SPEAK = 10.0
_MAX_CHARACTERS = 2**16  # of what a host says
_MAX_CHOICE = 64
_OF_LOST_HOSTS = ("Gloo", "NCCL", "UNAVAILABLE")


class Host(NamedTuple):
    """This host among those that train together: its number from 0, and the names of all, the first with its port."""

    number: int
    names: list[str]
    timeout_seconds: float = 300.0

    @property
    def address(self) -> tuple[str, int]:
        name, _, port = self.names[0].rpartition(":")
        return name, int(port)


def find(options: Options, backend: str) -> Host | None:
    """This host by the flags, or None; InputError if Keras runs on TensorFlow, or names or number are wrong."""
    names, number = options.hosts, options.host_index
    if options.distribute != "hosts":
        if names or number:
            raise InputError(f"--hosts and --host_index need --distribute=hosts; got {options.distribute}")
        return None
    if backend != JAX:
        raise InputError(f"--distribute=hosts needs KERAS_BACKEND={JAX}; this is {backend}: set it, or give another")
    if not names:  # the devices of this one alone
        with socket.create_server(("", 0)) as server:
            names = [f"localhost:{server.getsockname()[1]}"]
    if not re.fullmatch(r".+:\d{1,5}", names[0]):
        raise InputError(f"--hosts={','.join(names)}: the first has no port; expected such as {names[0]}:7000")
    if number >= len(names):
        raise InputError(f"--host_index={number}: --hosts names {len(names)}; expected 0…{len(names) - 1}")
    return Host(number, names)


def meet(host: Host, run_folder: str, run: run_dir.Run) -> run_dir.Run:
    """Waits until all hosts are there, with the same settings and checkpoint in the folder; gives the first one's run.

    Raises InputError on all hosts if one does not come in time, or differs.
    """
    checkpoint = max((path.name for path in Path(run_folder, run_dir.CHECKPOINT).glob("step_*.npz")), default="none")
    end = time.monotonic() + host.timeout_seconds
    print(f"host {host.number}: waiting up to {host.timeout_seconds:g} s for all {len(host.names)} hosts", flush=True)
    try:
        fault, run = (_join if host.number else _gather)(host, end, checkpoint, run)
    except (OSError, ValueError) as error:
        fault = f"host 0 cannot be reached at {host.names[0]} ({error}): start all hosts at the same time"
    if fault:
        raise InputError(fault)
    return run


def _join(host: Host, end: float, checkpoint: str, run: run_dir.Run) -> tuple[str, run_dir.Run]:
    connection = None
    while connection is None:
        try:
            connection = socket.create_connection(host.address, host.timeout_seconds)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
    with connection, connection.makefile("rw") as stream:
        connection.settimeout(2 * host.timeout_seconds)  # the first one is to name who is missing
        print(json.dumps([host.number, host.names, checkpoint, run]), file=stream, flush=True)
        fault, run = json.loads(stream.readline())
    return fault, run


def _gather(host: Host, end: float, checkpoint: str, run: run_dir.Run) -> tuple[str, run_dir.Run]:
    faults = dict.fromkeys(range(1, len(host.names)), f"does not answer for {host.timeout_seconds:g} seconds")
    streams: dict[int, IO[str]] = {}
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", host.address[1])))
        while len(streams) < len(faults) and (left := end - time.monotonic()) > 0:
            server.settimeout(left)
            with suppress(OSError, ValueError, TypeError, KeyError):  # the time is over, or a stranger
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(_SECONDS_TO_SPEAK)
                stream = stack.enter_context(connection.makefile("rw"))
                number, *theirs, wanted = json.loads(stream.readline(_MAX_CHARACTERS))
                differing = run_dir.differences(run, wanted)
                if theirs != [host.names, checkpoint]:
                    differing.append(f"its --hosts and checkpoint are {theirs}, wanted {[host.names, checkpoint]}")
                if number in faults:
                    faults[number] = f"differs from host 0: {'; '.join(differing)}" if differing else ""
                    streams[number] = stream
        fault = "; ".join(f"host {i} ({host.names[i]}) {text}" for i, text in faults.items() if text)
        fault += "; give all hosts the same flags, data set and --run_dir, at the same time" if fault else ""
        for answered in streams.values():
            with suppress(OSError):
                print(json.dumps([fault, run]), file=answered, flush=True)
    return fault, run


@contextmanager
def connected(host: Host, options: Options) -> Iterator[Options]:
    """Joins the hosts' devices in JAX, which must not have computed anything yet; gives the options to train with.

    Hosts but the first write into a folder of their own, with a copy of the checkpoint. Raises InputError if another
    host is lost while the block runs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    with tempfile.TemporaryDirectory() as folder:
        if host.number:
            with suppress(FileNotFoundError):
                shutil.copytree(Path(options.run_dir, run_dir.CHECKPOINT), Path(folder, run_dir.CHECKPOINT))
            options = options._replace(run_dir=folder, checkpoint_minutes=math.inf)
        jax.distributed.initialize(
            host.names[0],
            len(host.names),
            host.number,
            cluster_detection_method="deactivate",  # it would take one GPU per process
            initialization_timeout=math.ceil(host.timeout_seconds),
            heartbeat_timeout_seconds=math.ceil(host.timeout_seconds),
        )
        try:
            yield options
        except Exception as error:
            atexit.register(os._exit, 1)  # before JAX, which would wait for the other hosts and abort
            if any(word in str(error) for word in _OF_LOST_HOSTS):
                text = f"another host has ended or cannot be reached ({str(error).splitlines()[0]})"
                advice = "give the same command on all hosts to continue from the last checkpoint"
                raise InputError(f"{text}; {advice}") from error
            raise


class SharedStopRequest(StopRequest):
    """SIGTERM to any host, of which JAX tells all, so that they end after the same call; Ctrl-C ends a host at once."""

    _num_calls = 0

    def end_call(self) -> None:
        from jax.experimental import multihost_utils

        self._num_calls += 1
        if multihost_utils.reached_preemption_sync_point(self._num_calls):
            self.status = PREEMPTED


def disconnect() -> None:
    """Lets each host compute for itself again, once all of them have trained."""
    import jax
    import keras

    keras.distribution.set_distribution(None)
    jax.distributed.shutdown()


def same_on_all(choice: str) -> str:
    """What the first host has chosen."""
    from jax.experimental import multihost_utils

    encoded = np.frombuffer(choice.encode().ljust(_MAX_CHOICE), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(encoded)).decode().strip()
