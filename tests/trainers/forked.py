"""Commands in processes of their own that have imported TensorFlow already: they can be killed, and start at once."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import types
from unittest import mock

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tensorflow", "keras", "tensorflow_datasets", "matplotlib.pyplot", "sklearn.metrics"])


def _run(output, module, arguments, num_devices):
    with output.open("ab") as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    if num_devices:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start(output, module, *arguments, num_devices=0):
    """Starts `python -m module`; both standard streams go to a file.

    With `num_devices`, TensorFlow takes the CPU for so many devices.
    """
    process = _CONTEXT.Process(target=_run, args=(output, module, [*map(str, arguments)], num_devices))
    # Or the process would import this one's main module: pytest, or the command that `run_in_process` runs.
    with mock.patch.dict(sys.modules, {"__main__": types.ModuleType("__main__")}):
        process.start()
    return process


def run(output, module, *arguments, num_devices=0):
    """Runs `python -m module` to its end; the result has all that it printed as `stdout` and as `stderr`."""
    process = start(output, module, *arguments, num_devices=num_devices)
    process.join(300)
    text = output.read_text()
    assert process.exitcode is not None, text
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, text, text)
