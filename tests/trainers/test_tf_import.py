"""How TensorFlow is started: what it prints on import is held back, and shown if the import fails."""

import ctypes
import platform
import subprocess
import sys

from conftest import ROOT

from trainers import tf_import

IMPORT = "from trainers import tf_import; tf_import.import_tensorflow()"


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def import_instead(folder, code):
    """Imports a TensorFlow that has other code."""
    (folder / "tensorflow.py").write_text(code)
    return run_python(f"import sys; sys.path.insert(0, {str(folder)!r}); {IMPORT}")


def test_nothing_is_printed_on_import_and_standard_error_works_again():
    result = run_python(
        f"import sys; {IMPORT}; print('after', file=sys.stderr); import tensorflow as tf; print(int(tf.constant(3)))"
    )
    assert (result.stdout, result.stderr) == ("3\n", "after\n")


def test_a_failing_import_is_shown(tmp_path):
    result = import_instead(tmp_path, "import os; os.write(2, b'no such library'); raise ImportError('broken')")
    assert result.returncode == 1
    assert "no such library" in result.stderr
    assert "ImportError: broken" in result.stderr


def test_glibc_keeps_freed_memory():
    assert tf_import.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert tf_import.keep_freed_memory() is False
