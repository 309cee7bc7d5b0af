"""How TensorFlow is started: what it prints on import is held back, and shown if the import fails."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from pipeline.errors import InputError
from trainers import tf_import

IMPORT = "from trainers import tf_import; tf_import.import_tensorflow()"


def run_python(code, **environment):
    command, environment = [sys.executable, "-c", code], {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


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


def test_the_users_configuration_of_keras_changes_nothing(tmp_path):
    config = {"floatx": "float16", "image_data_format": "channels_first", "backend": "jax", "epsilon": 0.1}
    (tmp_path / "keras.json").write_text(json.dumps(config))
    code = f"""{IMPORT}
import keras
from trainers.models import architectures
model = architectures.basic_cnn(32)
print(keras.backend.backend(), keras.config.epsilon(), {{layer.compute_dtype for layer in model.layers}})
print({{layer.data_format for layer in model.layers if hasattr(layer, "data_format")}}, keras.metrics.Mean().dtype)
model.compile("sgd", "binary_crossentropy")
history = model.fit(keras.ops.zeros((4, 32, 32, 3)), keras.ops.zeros(4), batch_size=1, epochs=2, verbose=0)
print(len(history.epoch), int(model.optimizer.iterations))
"""
    environment = {"KERAS_HOME": str(tmp_path), "KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1"}
    result = run_python(code, **environment)
    assert result.stdout == "tensorflow 1e-07 {'float32'}\n{'channels_last'} float32\n2 8\n", result.stderr


def test_a_configuration_that_keras_does_not_know_is_one_line(tmp_path):
    configs = {"AssertionError": {"floatx": "float99"}, "AttributeError": ["floatx"]}
    for name, config in configs.items():  # by the error of Keras's own
        (tmp_path / name).mkdir()
        (tmp_path / name / "keras.json").write_text(json.dumps(config))
    code = f"""
import os, sys
from pipeline.errors import InputError
from trainers import tf_import
for name in {[*configs]}:
    os.environ["KERAS_HOME"] = f"{tmp_path}/{{name}}"
    try:
        tf_import.import_tensorflow()
    except InputError as error:
        print(error)
    for module in [module for module in sys.modules if module.partition(".")[0] == "keras"]:
        del sys.modules[module]
"""
    result = run_python(code)
    lines = result.stdout.splitlines()
    assert len(lines) == len(configs), result.stderr
    for name, line in zip(configs, lines, strict=True):
        assert line.startswith(f"Keras cannot compute on tensorflow ({name}")
        assert "remove keras.json" in line


def test_a_flag_that_ends_tensorflow_is_shown():
    result = run_python(f"{IMPORT}; import tensorflow as tf; tf.constant(3)", TF_XLA_FLAGS="--nosuch")
    assert result.returncode != 0
    assert "--nosuch" in result.stderr


@pytest.mark.parametrize(
    ("backend", "is_installed", "expected"),
    [("nosuch", True, "no backend of the models"), ("torch", True, "no backend"), ("jax", False, "not installed here")],
)
def test_a_backend_that_cannot_be_used(backend, is_installed, expected, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: is_installed or None)
    with pytest.raises(InputError, match=f"KERAS_BACKEND={backend} is {expected}"):
        tf_import.choose_backend()


def test_glibc_keeps_freed_memory_and_other_c_libraries_are_left_alone(monkeypatch):
    called = []
    library = SimpleNamespace(mallopt=lambda *arguments: called.append(arguments))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    tf_import.keep_freed_memory()
    assert called == [(-4, 0), (-1, 2**31 - 1)]
    del library.mallopt
    tf_import.keep_freed_memory()
    assert len(called) == 2
