"""The shell around every command: flags in, exit status out, a user's mistake in one line."""

import ast
import gc
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from pipeline.errors import InputError
from pipeline.terminal import say

_STORES = ("s3fs", "gcsfs", "adlfs", "botocore", "aiobotocore", "aiohttp", "google")
_HELP = {"--help", "-help", "-h", "-?"}


def set_environment() -> None:
    """Keeps etils in commands and workers from reaching object stores through TensorFlow, which cannot read s3://."""
    os.environ.setdefault("EPATH_USE_TF", "false")


def num_processors() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    main: Callable[..., int | None],
    *,
    takes_arguments: bool = False,  # other than flags, which else are an error
    keep_unknown_flags: bool = False,  # among the arguments; else they are an error
    flag_groups: Mapping[str, Sequence[str]] | None = None,  # heading in `--help` -> flags; others follow under "other"
) -> None:
    """Parses absl's flags, runs `main` as a command, and exits the process.

    The exit status is what `main` returns (0 for None), 1 after an `InputError` or a flag that cannot be used, 130
    after Ctrl-C.
    """

    def guarded(argv: Sequence[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # absl makes it INFO, which lets Beam's internals talk
        status = _status(main, argv[1:], takes_arguments)
        # Errors are part of cycles (frame, exception, traceback) that keep a tf.data iterator alive. Freed only while
        # the interpreter shuts down, it would wait for its calls of Python functions, which can end no more.
        gc.collect()
        return status

    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a standard stream that is closed, or the first file to be opened would take what is printed
    os.close(descriptor)
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # In an ASCII locale "×" would end the command; in a log the lines of both streams stand in their order.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    set_environment()
    app.run(guarded, flags_parser=lambda argv: _parse(argv, keep_unknown_flags, flag_groups or {}))


def _status(main: Callable[..., int | None], arguments: Sequence[str], takes_arguments: bool) -> int | None:
    try:
        if arguments and not takes_arguments:
            raise InputError(f"got the argument {arguments[0]!r}, but this command takes flags only; see --help")
        status = main(arguments) if takes_arguments else main()
        sys.stdout.flush()
        return status
    except InputError as error:
        _say_error(str(error))
    except MemoryError as error:
        _say_error(f"out of memory ({error}); free some, or give a smaller --batch_size or a smaller image")
    except Exception as error:
        if _is_of_a_store(error):
            _say_error(f"{type(error).__name__}: {error}")
        elif isinstance(error, OSError):
            what = error.filename or "standard output or a file"
            remedy = "fix that, then the same command does or continues its work"
            _say_error(f"{what} cannot be read or written ({error.strerror or error}); {remedy}")
        else:
            raise
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the interpreter's last flush
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(130)  # at once: Beam's and TensorFlow's threads may still run and would receive Ctrl-C again
    return 1


def _say_error(message: str) -> None:
    say(f"error: {' '.join(message.split())}", to_stderr=True)


def _parse(argv: Sequence[str], keep_unknown_flags: bool, flag_groups: Mapping[str, Sequence[str]]) -> list[str]:
    """What absl's own parser does, with its errors in one line and its help in groups."""
    try:
        if not _HELP.isdisjoint(argv[1:]):
            print(_help(flag_groups), flush=True)
            sys.exit(0)
        return flags.FLAGS(find_flagfiles(argv), known_only=keep_unknown_flags)  # prints --helpfull
    except BrokenPipeError:
        os._exit(0)  # somebody pipes the help to head
    except flags.Error as error:
        faults = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        faults = re.sub(r"flag --(\w+)=None: Flag --\1 must have a value[^;]*", r"--\1 is missing", faults)
        _say_error(f"{faults.removeprefix('ERROR:: ')}; see --help")
        sys.exit(1)


def find_flagfiles(argv: Sequence[str]) -> list[str]:
    """A command's arguments; the name of a flagfile that is not in the current folder, with its path in the package."""
    package = sys.modules["__main__"].__package__
    result = list(argv)
    for i, word in enumerate(argv):
        match = re.fullmatch(r"(--?flagfile=|)([\w.-]+)", word)
        if package and match and (match[1] or argv[i - 1].lstrip("-") == "flagfile") and not Path(match[2]).exists():
            path = resources.files(package) / "flagfiles" / match[2]
            result[i] = f"{match[1]}{path}" if path.is_file() else word
    return result


def _help(flag_groups: Mapping[str, Sequence[str]]) -> str:
    """The command's docstring and its flags; absl's own help has no groups and shows defaults as Python literals."""
    by_name = {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module("__main__")}
    groups = {heading: [by_name.pop(name) for name in names] for heading, names in flag_groups.items()}
    groups["other" if groups else "flags"] = [by_name[name] for name in sorted(by_name)]
    parts = [(sys.modules["__main__"].__doc__ or "").strip()]
    parts += ["\n".join([f"{heading}:", *map(_flag_help, members)]) for heading, members in groups.items() if members]
    return "\n\n".join([*parts, "Try --helpfull for the flags of absl and of libraries, such as --flagfile."])


def _flag_help(flag: Any) -> str:
    name = f"[no]{flag.name}" if flag.boolean else flag.name
    lines = [flags.text_wrap(f"--{name}: {flag.help}", indent="    ", firstline_indent="  ")]
    # `default_as_str` is a literal such as '^(C\\d+)': shown is what one would type.
    default = flag.default_as_str and ast.literal_eval(flag.default_as_str)
    details = [f"default: {default}" if default else "", flag.parser.syntactic_help]
    if any(details):
        lines.append(flags.text_wrap(f"({'; '.join(filter(None, details))})", indent="    "))
    return "\n".join(lines)


def _is_of_a_store(error: Exception) -> bool:
    """Whether an object store's library says that it is missing, has no credentials or cannot be reached."""
    package = type(error).__module__.partition(".")[0]
    return package in _STORES or (isinstance(error, ImportError) and any(store in str(error) for store in _STORES))
