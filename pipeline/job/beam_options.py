"""Beam's import, and its options with the project's defaults."""

import gc
import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stderr

from pipeline.command import num_processors
from pipeline.errors import InputError

# Importing Beam warns about packages of Google Cloud that are missing, and spends a fifth of its time on garbage.
_disabled_level, _collects = logging.root.manager.disable, gc.isenabled()
logging.disable(logging.WARNING)
gc.disable()
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions  # noqa: E402 - see above

logging.disable(_disabled_level)
if _collects:
    gc.enable()

_DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"  # the only name by which Beam knows it


def parse_options(pipeline_options: Sequence[str]) -> tuple[PipelineOptions, int]:
    """Reads Beam's options, with the project's defaults; raises InputError if Beam does not understand one.

    Returns:
      the options, and the number of processes for `FillShards`: one per CPU if no runner is named, which means
      `FnApiRunner` with one worker. Other runners have a worker per CPU.
    """
    given = f"--pipeline_options={','.join(pipeline_options)}"
    if stray := [option for option in pipeline_options if not option.startswith("--")]:
        raise InputError(f"{given}: {stray[0]!r} is no option; expected --<name>=<value>")
    arguments = [_DASK if option == "--runner=DaskRunner" else option for option in pipeline_options]
    if _DASK in arguments and "--dask_npartitions" not in given and "--dask_partition_size" not in given:
        arguments.insert(0, "--dask_partition_size=1")  # by default all shards are one partition, for one worker
    message = io.StringIO()
    try:
        with redirect_stderr(message):
            options = PipelineOptions(arguments)
            options.get_all_options()
    except SystemExit as error:
        raise InputError(f"{given}: {message.getvalue().strip().rpartition('error: ')[2]}") from error
    standard = options.view_as(StandardOptions)
    if standard.runner is None:
        standard.runner = "FnApiRunner"  # Beam's default first tries to download another one
        return options, num_processors() if options.view_as(DirectOptions).direct_num_workers == 1 else 0
    return options, 0
