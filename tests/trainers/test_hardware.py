"""Number formats, compilation and devices: what is chosen, why, and what it does to the numbers."""

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_in_process

from trainers.run_dir import read_history
from trainers.training import hardware

SMALL = ("--train_split=train[:32]", "--epochs=1", "--batch_size=16")


def train(data_dir, run_dir, *flags):
    return run_in_process("trainers.basic_cnn", *flags, f"--data_dir={data_dir}", f"--run_dir={run_dir}")


def column(run_dir, name):
    return [row[name] for row in read_history(run_dir / "history.csv")]


@pytest.mark.parametrize(("capability", "policy"), [((8, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16")])
def test_precision_on_gpus(capability, policy, monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: ["a GPU"])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": capability, "device_name": gpu}
    )
    assert hardware.choose_precision("auto", "basic_cnn")[0] == policy


def test_the_vggs_use_bfloat16_on_cpus_that_have_it(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", list)
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: True)
    assert hardware.choose_precision("auto", "vgg_ft")[0] == "mixed_bfloat16"
    assert hardware.choose_precision("auto", "basic_cnn")[0] == "float32"
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: False)
    assert hardware.choose_precision("auto", "vgg_ft")[0] == "float32"


def test_cpus_with_bfloat16(tmp_path):
    (tmp_path / "with").write_text("model name : X\nflags : fpu avx2 avx512_bf16\n")
    (tmp_path / "without").write_text("flags : fpu avx2\n")
    assert hardware.cpu_has_bfloat16(tmp_path / "with")
    assert not hardware.cpu_has_bfloat16(tmp_path / "without")
    assert not hardware.cpu_has_bfloat16(tmp_path / "missing")


def test_half_precision_trains(data_dir, tmp_path):
    result = train(data_dir, tmp_path / "run", *SMALL, "--precision=float16", "--flip=both", "--jit_compile=true")
    assert result.returncode == 0, result.stderr
    assert "XLA: on (asked for)" in result.stdout
    assert "precision: mixed_float16 (asked for)" in result.stdout
    assert np.isfinite(column(tmp_path / "run", "loss") + column(tmp_path / "run", "val_loss")).all()


def test_compilation_and_its_reason(monkeypatch):
    assert hardware.choose_jit("true") == (True, "asked for")
    assert hardware.choose_jit("false") == (False, "asked for")
    for gpus, expected in (([], False), (["a GPU"], True)):
        monkeypatch.setattr(hardware, "gpus", lambda gpus=gpus: gpus)
        assert hardware.choose_jit("auto")[0] is expected


def train_on_two_devices(data_dir, run_dir, *flags):
    arguments = (*flags, f"--data_dir={data_dir}", f"--run_dir={run_dir}", "--epochs=2", "--seed=3")
    return forked.run(run_dir.with_suffix(".txt"), "trainers.basic_cnn", *arguments, num_devices=2)


@pytest.mark.usefixtures("no_gpu")
def test_two_devices_train_as_one_does(data_dir, tmp_path):
    flags = ("--dropout_rate=0", "--batch_size=16", "--train_split=train[:48]")
    for name, distribute in (("two", "mirrored"), ("one", "none")):
        result = train_on_two_devices(data_dir, tmp_path / name, *flags, f"--distribute={distribute}")
        assert result.returncode == 0, result.stderr
        assert ("2 × CPU, mirrored" in result.stdout) == (name == "two")
        model = keras.models.load_model(tmp_path / name / "model.keras")
        assert getattr(model, "optimizer", None) is None, "the file holds no state of the optimizer"
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(column(tmp_path / "two", name), column(tmp_path / "one", name), atol=1e-5)


@pytest.mark.usefixtures("no_gpu")
def test_several_devices_leave_out_the_smaller_last_batch(data_dir, tmp_path):
    flags = ("--batch_size=16", "--train_split=train[:38]", "--distribute=mirrored", "--rotation_degrees=90")
    result = train_on_two_devices(data_dir, tmp_path / "run", *flags)
    assert result.returncode == 0, result.stderr
    assert "each epoch's last 6 cells are left out" in result.stdout


@pytest.mark.usefixtures("no_gpu")
def test_a_batch_that_cannot_be_shared_is_an_error(data_dir, tmp_path):
    result = train_on_two_devices(data_dir, tmp_path / "run", "--batch_size=15", "--distribute=mirrored")
    assert "--batch_size=15 is no multiple of the 2 devices" in result.stderr


def test_steps_per_call(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", list)
    assert hardware.choose_steps_per_call("auto", 100) == 1
    assert hardware.choose_steps_per_call("7", 100) == 7
    monkeypatch.setattr(hardware, "gpus", lambda: ["a GPU"])
    assert hardware.choose_steps_per_call("auto", 100) == 32
    assert hardware.choose_steps_per_call("auto", 10) == 10
