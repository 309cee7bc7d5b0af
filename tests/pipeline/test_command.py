"""The shell around every command."""

import os
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line_error, run_in_process

from pipeline import terminal

READS_BY_PYTHON = """
import time
from trainers import tf_import
tf_import.import_tensorflow()
import numpy as np
import tensorflow as tf
from pipeline.command import run
from pipeline.errors import InputError

def slow(step):
    time.sleep(0.5)
    return np.int64(step)

def main():
    steps = tf.data.Dataset.range(100)
    iterator = iter(steps.map(lambda step: tf.numpy_function(slow, [step], tf.int64), num_parallel_calls=8))
    next(iterator)
    error = InputError("enough")  # this frame, the error and its traceback are a cycle
    raise error

run(main)
"""


def test_an_error_ends_the_command_while_batches_are_being_read():
    command = [sys.executable, "-c", READS_BY_PYTHON]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert_one_line_error(result, "enough")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "error: --source is missing; --data_dir is missing; see --help"),
        (["--sauce=x"], "error: Unknown command line flag 'sauce'"),
        (["--image_size_px=big"], "error: flag --image_size_px=big: invalid literal for int()"),
        (["--image_size_px=0"], "error: flag --image_size_px=0: 0 is not an integer in"),
        (["--max_rejected_fraction=1.5"], "error: flag --max_rejected_fraction=1.5: 1.5 is not a number in"),
        (["--image_encoding=jpeg"], "error: flag --image_encoding=jpeg: value should be one of <raw|png>"),
        (["--flagfile=no_such_file"], "error: Unable to open flagfile: "),
    ],
)
def test_a_flag_that_cannot_be_used_is_told_in_one_line(arguments, expected):
    assert_one_line_error(run_in_process("pipeline.preprocess", *arguments), expected, "see --help")


@pytest.mark.parametrize("words", [["--flagfile=basic_cnn.flags"], ["--flagfile", "basic_cnn.flags"]])
def test_a_flagfile_of_the_project_is_found_by_its_name_unless_one_is_here(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [*words, f"--data_dir={tmp_path}", "--run_dir=run"]
    assert_one_line_error(run_in_process("trainers.basic_cnn", *flags), "has no data set")
    (tmp_path / "basic_cnn.flags").write_text("--config=by_cell")
    assert_one_line_error(run_in_process("trainers.basic_cnn", *flags), "has no data set tfds_malaria/by_cell")
    assert_one_line_error(run_in_process("trainers.basic_cnn", "--flagfile=other.flags"), "Unable to open flagfile")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("import botocore.exceptions as e; raise e.NoCredentialsError()", "NoCredentialsError: Unable to locate"),
        ("raise MemoryError('2.79 TiB')", "out of memory (2.79 TiB)"),
        ("raise ImportError('Install s3fs to access S3')", "ImportError: Install s3fs"),
    ],
)
def test_what_a_library_says_is_one_line(raised, expected):
    code = f"from pipeline.command import run\ndef main():\n    {raised}\nrun(main)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert_one_line_error(result, expected)
    assert result.returncode == 1


def test_a_mistake_of_ours_keeps_its_traceback():
    code = "from pipeline.command import run\ndef main():\n    raise ValueError('a bug')\nrun(main)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


NAME = "cell\x1b]0;title\x07\x1b[31m\u202e\udcff.png"
ESCAPED = r"cell\x1b]0;title\x07\x1b[31m\u202e\udcff.png"


def test_no_name_reaches_a_terminal_as_control_characters(source, tmp_path):
    assert terminal.printable(f"{NAME}\n") == rf"{ESCAPED}\n"
    (source / "Uninfected" / NAME).write_bytes(b"")
    (source / "Uninfected" / NAME.replace("\udcff", "")).write_bytes(b"")
    named = source.rename(tmp_path / NAME)
    flags = (
        f"--source={named}",
        f"--data_dir={tmp_path / 'data'}",
        "--pipeline_options=--runner=FnApiRunner",
        "--image_size_px=16",
        "--patient_regex=^(C\\d+|cell)",
    )
    rejected = run_in_process("pipeline.preprocess", *flags)
    assert_one_line_error(rejected, r"Uninfected/cell\x1b]0;title\x07\x1b[31m\u202e.png (empty file)")
    filled = run_in_process("pipeline.preprocess", *flags, "--max_rejected_fraction=0.1")
    (tmp_path / "data/tfds_malaria/by_patient/1.0.0" / NAME).touch()
    verified = run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'data'}")
    assert ESCAPED in verified.stdout
    unknown = run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'data'}", f"--{NAME}")
    for result in (rejected, filled, verified, unknown):
        printed = result.stdout + result.stderr
        assert ESCAPED.split("]")[0] in printed
        assert printed.replace("\n", "").isprintable(), printed


HAS_FLAGS = r"""
"Does something."
from absl import flags
from pipeline.command import run
flags.DEFINE_string("pattern", r"^(C\d+)", "Finds.")
flags.DEFINE_enum("kind", "a", ["a", "b"], "Chooses.")
flags.DEFINE_bool("again", False, "Repeats.")
flags.DEFINE_list("names", ["x", "y"], "Lists.")
run(print, flag_groups={"data": ("pattern",), "recipe": ("kind",)})
"""


def test_help_groups_the_flags_and_shows_defaults_as_one_types_them():
    command = [sys.executable, "-c", HAS_FLAGS, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    data, recipe, other = (result.stdout.index(f"\n{heading}:\n") for heading in ("data", "recipe", "other"))
    assert data < result.stdout.index("--pattern: Finds.\n    (default: ^(C\\d+))") < recipe
    assert recipe < result.stdout.index("--kind: <a|b>: Chooses.\n    (default: a)") < other
    assert other < result.stdout.index("--[no]again: Repeats.\n    (default: false)")
    assert "(default: x,y; a comma separated list)" in result.stdout


def test_a_log_has_the_lines_of_both_streams_in_their_order():
    main = "lambda: print(1) or print(2, file=sys.stderr) or print(3)"
    command = [sys.executable, "-c", f"import sys\nfrom pipeline.command import run\nrun({main})"]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    assert result.stdout.split() == ["1", "2", "3"]


def test_an_ascii_locale_does_not_end_a_command():
    code = "from pipeline.command import run\nrun(lambda: print('125 \\xd7 125'))"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | ascii_only)
    assert result.stdout == "125 \\xd7 125\n"


@pytest.mark.parametrize(
    ("redirection", "expected"),
    [(">/dev/full", "standard output or a file cannot be read or written (No space left"), ("| true", "(Broken pipe)")],
)
@pytest.mark.parametrize("code", ["print('x')", "print('x', flush=True)"])
def test_a_standard_output_that_fails_is_one_line(code, redirection, expected):
    code = f"import time\nfrom pipeline.command import run\ndef main():\n    time.sleep(0.1)\n    {code}\nrun(main)"
    command = f"set -o pipefail; {shlex.join([sys.executable, '-c', code])} {redirection}"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert_one_line_error(result, expected)
    assert len(result.stderr.splitlines()) == 1, result.stderr


def test_files_do_not_take_the_place_of_streams_that_are_closed(tmp_path):
    code = f"""
import os
from pipeline.command import run
def main():
    with open({str(tmp_path / "file")!r}, "w") as file:
        print("to nobody", flush=True)
        os.write(1, b"to nobody")
        file.write(str(file.fileno() > 2))
run(main)"""
    command = f"{shlex.join([sys.executable, '-c', code])} <&- >&- 2>&-"
    subprocess.run(command, shell=True, cwd=ROOT, check=True)
    assert (tmp_path / "file").read_text() == "True"
