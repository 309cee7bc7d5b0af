"""The code of docs/python.md, run as it stands."""

import importlib.util
import re
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_in_process

from pipeline.errors import InputError
from pipeline.records.random_access import Cells, ShuffledBatches
from trainers.evaluation import predictions
from trainers.evaluation.metrics import thresholds

OWN_LAYERS = """
def no_model(image_size_px, *, dropout_rate): pass

def no_rate(image_size_px): pass

class Bare(layers.Layer):
    def call(self, x): return x / 255

@keras.saving.register_keras_serializable()
class Own(Bare): pass

def own_layer(image_size_px, *, dropout_rate, layer=Own):
    image = keras.Input((image_size_px, image_size_px, 3))
    x = layers.GlobalAveragePooling2D()(layer()(image))
    return keras.Model(image, layers.Dense(1, activation="sigmoid")(x))

def bare_layer(image_size_px, *, dropout_rate): return own_layer(image_size_px, dropout_rate=0, layer=Bare)
"""
BLOCKS = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.M | re.S))


@pytest.fixture
def folder(data_dir, tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(data_dir)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    return tmp_path


@pytest.mark.parametrize("title", [title for title in BLOCKS if not title.startswith("Your own")])
def test_block(title, folder):
    for package in re.findall(r"^import (torch|grain|jax)$", BLOCKS[title], re.M):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    scope = {}
    exec(BLOCKS[title], scope)
    if "ShuffledBatches" in scope:
        last = list(ShuffledBatches(Cells("data", "train"), batch_size=64, seed=42, epochs=2))[-1]
        np.testing.assert_array_equal(scope["image"], last["image"])
        np.testing.assert_array_equal(scope["label"], last["label"])


def test_your_own_architecture(folder, monkeypatch):
    (title,) = (title for title in BLOCKS if title.startswith("Your own"))
    half = BLOCKS[title].replace("my_cnn", "half").replace('dtype="float32", ', "")
    logits = BLOCKS[title].replace("my_cnn", "logits").replace('activation="sigmoid", ', "")
    (folder / "my_module.py").write_text(f"{BLOCKS[title]}\n\n{half}\n\n{logits}\n\n{OWN_LAYERS}")
    monkeypatch.syspath_prepend(folder)
    flags = "--flagfile=basic_cnn.flags", "--data_dir=data", "--epochs=1"
    result = run_in_process("trainers.custom", "--model=my_module:my_cnn", *flags, "--run_dir=run")
    assert result.returncode == 0, result.stderr
    result = run_in_process("trainers.custom", "--model=my_module:my_cnn", *flags, "--run_dir=run")
    assert "my_cnn is trained already" in result.stdout
    report = "--data_dir=data", "--run_dirs=run", "--output_dir=report", "--num_resamples=100"
    result = run_in_process("trainers.evaluate", *report)
    assert result.returncode == 0, result.stderr
    result = run_in_process("trainers.custom", "--model=my_module:own_layer", *flags[1:], "--run_dir=own")
    assert result.returncode == 0, result.stderr
    assert "python -m trainers.custom --model=my_module:own_layer --run_dir=own" in thresholds.missing("own")
    keras.saving.get_custom_objects().clear()  # as in another process
    del sys.modules["my_module"]
    with pytest.raises(
        InputError, match=r"own/model.keras cannot be loaded .*; give --model=my_module:own_layer if it"
    ):
        predictions.load_model("own")
    assert "my_module" not in sys.modules, "what a run's folder names is not imported"
    commands = (
        ("trainers.predict", "--run_dir=own", "run/curves.png"),
        ("trainers.export", "--run_dir=own", "--format=saved_model"),
        ("trainers.evaluate", "--run_dirs=own", "--data_dir=data", "--output_dir=report"),
    )
    for command in commands:
        result = run_in_process(*command, "--model=nowhere:own_layer")
        assert_one_line_error(result, "--model=nowhere:own_layer cannot be imported (No module named 'nowhere')")
    result = run_in_process(*commands[0], "--model=my_module:own_layer")
    assert result.returncode == 0, result.stderr
    assert predictions.load_model("own").count_params() == 4
    for function, expected in {
        "no_model": "gives None; expected a Keras model of shapes",
        "nothere": ": my_module has no nothere; expected a function that it has",
        "no_rate": "cannot be called (got an unexpected keyword argument 'dropout_rate'); expected def no_rate(image_s",
        "logits": "gives values outside 0…1; expected probabilities, as of a last layer with activation='sigmoid'",
        "bare_layer": "cannot be loaded from the file that it is saved in (Could not locate class 'Bare'. Make",
    }.items():
        result = run_in_process("trainers.custom", f"--model=my_module:{function}", *flags, "--run_dir=none")
        assert_one_line_error(result, f"--model=my_module:{function}", expected)
        assert not (folder / "none").exists()
    in_half = "--model=my_module:half", "--precision=bfloat16", "--run_dir=none"
    result = run_in_process("trainers.custom", *flags, *in_half)
    assert_one_line_error(result, "--model=my_module:half gives bfloat16; expected float32")
    for wrong in ("my_module", "my_module:basic_cnn"):
        result = run_in_process("trainers.custom", f"--model={wrong}", *flags, "--run_dir=none")
        assert_one_line_error(result, f"--model={wrong} is no module:function")
    for wrong in ("nowhere:my_cnn", "nowhere.at_all:my_cnn", ":my_cnn"):
        result = run_in_process("trainers.custom", f"--model={wrong}", *flags, "--run_dir=none")
        assert_one_line_error(result, f"--model={wrong} cannot be imported (")
    assert not (folder / "none").exists()
