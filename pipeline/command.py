"""The shell around every command: flags in, exit status out, a user's mistake in one line."""

import functools
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from pipeline.errors import InputError

_STORES = ("s3fs", "gcsfs", "adlfs", "botocore", "aiobotocore", "aiohttp", "google")


def run(main: Callable[[Sequence[str]], int | None], *, keep_unknown_flags: bool = False) -> None:
    """Runs `main(positional_arguments)` as a command and exits the process.

    Flags are parsed first, in absl's own form. The exit status is what `main` returns (0 for None),
    1 after an `InputError` or a flag that cannot be used, 130 after Ctrl-C.

    Args:
      main: receives the arguments that are not flags, without the program's name.
      keep_unknown_flags: whether flags that this command does not define are passed to `main` like arguments, for a
        command that hands them on; otherwise they are an error.
    """

    def guarded(argv: Sequence[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # absl makes it INFO, which lets Beam's internals talk
        status = _status(main, argv[1:])
        # Errors are part of cycles (frame, exception, traceback) that keep a tf.data iterator alive. Freed only while
        # the interpreter shuts down, it would wait for its calls of Python functions, which can end no more.
        gc.collect()
        return status

    app.run(guarded, flags_parser=functools.partial(_parse, keep_unknown_flags=keep_unknown_flags))


def _status(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str]) -> int | None:
    try:
        return main(arguments)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    except Exception as error:
        if not _is_of_a_store(error):
            raise
        print(f"error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(130)  # at once: Beam's and TensorFlow's threads may still be at work, and hear Ctrl-C again
    return 1


def _parse(argv: Sequence[str], *, keep_unknown_flags: bool) -> list[str]:
    """What absl's own parser does, with its errors in one line."""
    try:
        return flags.FLAGS(argv, known_only=keep_unknown_flags)
    except flags.Error as error:
        told = (line.strip() for line in str(error).splitlines() if line.strip())
        faults = [
            re.sub(r"^flag --(\w+)=None: Flag --\1 must have a value.*", r"--\1 is missing", line) for line in told
        ]
        print(f"error: {'; '.join(faults).removeprefix('ERROR:: ')}; see --help", file=sys.stderr)
        sys.exit(1)


def _is_of_a_store(error: Exception) -> bool:
    """Whether an object store's library says that it is missing, has no credentials or cannot be reached."""
    package = type(error).__module__.partition(".")[0]
    return package in _STORES or (isinstance(error, ImportError) and any(store in str(error) for store in _STORES))


def reject_arguments(arguments: Sequence[str]) -> None:
    """Raises InputError if a command that takes flags only was given anything else."""
    if arguments:
        raise InputError(f"got the argument {arguments[0]!r}, but this command takes flags only; see --help")
