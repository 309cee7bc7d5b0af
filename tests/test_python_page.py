"""The code of docs/python.md, run as it stands."""

import importlib.util
import re

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_in_process

from pipeline.records.random_access import Cells, ShuffledBatches

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
    no_model = "def no_model(image_size_px, *, dropout_rate):\n    pass\n"
    (folder / "my_module.py").write_text(f"{BLOCKS[title]}\n\n{half}\n\n{no_model}")
    monkeypatch.syspath_prepend(folder)
    flags = "--flagfile=basic_cnn.flags", "--data_dir=data", "--epochs=1"
    result = run_in_process("trainers.custom", "--model=my_module:my_cnn", *flags, "--run_dir=run")
    assert result.returncode == 0, result.stderr
    result = run_in_process("trainers.custom", "--model=my_module:my_cnn", *flags, "--run_dir=run")
    assert "my_cnn is trained already" in result.stdout
    report = "--data_dir=data", "--run_dirs=run", "--output_dir=report", "--num_resamples=100"
    result = run_in_process("trainers.evaluate", *report)
    assert result.returncode == 0, result.stderr
    result = run_in_process("trainers.custom", "--model=my_module:no_model", *flags, "--run_dir=none")
    assert_one_line_error(result, "--model=my_module:no_model gives None; expected a Keras model of shapes")
    in_half = "--model=my_module:half", "--precision=bfloat16", "--run_dir=none"
    result = run_in_process("trainers.custom", *flags, *in_half)
    assert_one_line_error(result, "--model=my_module:half gives bfloat16; expected float32")
    for wrong in ("nowhere:my_cnn", "my_module", "nowhere.at_all:my_cnn", "my_module:basic_cnn"):
        result = run_in_process("trainers.custom", f"--model={wrong}", *flags, "--run_dir=none")
        assert_one_line_error(result, f"--model={wrong} is no module:function")
