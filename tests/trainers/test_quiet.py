"""What TensorFlow says while it is imported is held back, and shown if the import fails."""

import subprocess
import sys

from conftest import ROOT


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_nothing_is_said_on_import_and_standard_error_works_again():
    code = "import sys; from trainers import quiet; quiet.import_tensorflow(); print('after', file=sys.stderr)"
    result = run_python(code + "; import tensorflow as tf; print(int(tf.constant(3)))")
    assert (result.stdout, result.stderr) == ("3\n", "after\n")


def test_what_was_said_until_ctrl_c_is_not_shown(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import os; os.write(2, b'no such' + b' library'); raise KeyboardInterrupt")
    result = run_python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from trainers import quiet; quiet.import_tensorflow()"
    )
    assert result.stderr.endswith("KeyboardInterrupt\n")
    assert "no such library" not in result.stderr


def test_a_failing_import_is_shown(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import os; os.write(2, b'no such library'); raise ImportError('broken')")
    result = run_python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from trainers import quiet; quiet.import_tensorflow()"
    )
    assert result.returncode == 1
    assert "no such library" in result.stderr
    assert "ImportError: broken" in result.stderr
