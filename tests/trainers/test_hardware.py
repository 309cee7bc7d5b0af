"""Number formats, compilation and devices: what is chosen, why, and what it does to the numbers."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_command


@pytest.fixture
def float32_again():
    import keras

    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.usefixtures("float32_again")
def test_a_confidently_wrong_cell_still_has_a_gradient(policy):
    import keras
    import tensorflow as tf

    from trainers.models import architectures

    keras.config.set_dtype_policy(policy)
    model = architectures.basic_cnn(16)
    assert model.layers[-1].compute_dtype == "float32"
    assert model.layers[-2].compute_dtype == policy.removeprefix("mixed_")
    model.layers[-1].bias.assign([12.0])  # certain that it is parasitized
    with tf.GradientTape() as tape:
        loss = keras.losses.BinaryCrossentropy()(tf.zeros((4, 1)), model(np.zeros((4, 16, 16, 3), np.uint8)))
    assert loss.dtype == tf.float32
    assert float(loss) > 10
    assert abs(float(tape.gradient(loss, model.layers[-1].bias)[0])) > 0.5


def test_precision_and_its_reason(tmp_path):
    from trainers.training import hardware

    assert hardware.choose_precision("bfloat16", "basic_cnn") == ("mixed_bfloat16", "asked for")
    assert hardware.choose_precision("float16", "vgg_ft") == ("mixed_float16", "asked for")
    assert hardware.choose_precision("auto", "basic_cnn")[0] == "float32"
    (tmp_path / "with").write_text("model name : X\nflags : fpu avx2 avx512_bf16\n")
    (tmp_path / "without").write_text("flags : fpu avx2\n")
    assert hardware.cpu_has_bfloat16(tmp_path / "with")
    assert not hardware.cpu_has_bfloat16(tmp_path / "without")
    assert not hardware.cpu_has_bfloat16(tmp_path / "missing")


def test_the_vggs_use_bfloat16_where_the_processor_has_it(monkeypatch):
    from trainers.training import hardware

    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: True)
    assert hardware.choose_precision("auto", "vgg_ft")[0] == "mixed_bfloat16"
    assert hardware.choose_precision("auto", "basic_cnn")[0] == "float32"
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: False)
    assert hardware.choose_precision("auto", "vgg_ft")[0] == "float32"


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains(precision, data_dir, tmp_path):
    from trainers.run_dir import read_history

    flags = (f"--precision={precision}", "--train_split=train[:32]", "--epochs=1", "--batch_size=16", "--flip=both")
    result = run_command("trainers.basic_cnn", *flags, f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert f"precision: mixed_{precision} (asked for)" in result.stdout
    (row,) = read_history(tmp_path / "run/history.csv")
    assert np.isfinite(row["loss"])
    assert np.isfinite(row["val_loss"])


def test_compilation_and_its_reason():
    from trainers.training import hardware

    assert hardware.choose_jit("auto", False)[0] is False
    assert hardware.choose_jit("true", False) == (True, "asked for")
    is_on, reason = hardware.choose_jit("true", True)
    assert not is_on
    assert "cannot be compiled" in reason


def test_compiling_an_augmented_step_does_not_crash(data_dir, tmp_path):
    flags = ("--train_split=train[:32]", "--epochs=1", "--batch_size=16", "--rotation_degrees=90", "--jit_compile=true")
    result = run_command("trainers.basic_cnn", *flags, f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert "XLA: off (TensorFlow's warp" in result.stdout


TWO_DEVICES = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from absl import flags
from trainers import basic_cnn, launch
flags.FLAGS(sys.argv)
sys.exit(launch.launch("basic_cnn", []))
"""


def train_on_two_devices(data_dir, run_dir, *given):
    arguments = [f"--data_dir={data_dir}", f"--run_dir={run_dir}", "--epochs=2", "--seed=3", *given]
    return subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_two_devices_train_as_one_does(data_dir, tmp_path):
    from trainers.run_dir import read_history

    same = ("--dropout_rate=0", "--batch_size=16", "--train_split=train[:64]")
    for name, flags in (("two", ("--distribute=mirrored",)), ("one", ("--distribute=none",))):
        result = train_on_two_devices(data_dir, tmp_path / name, *same, *flags)
        assert result.returncode == 0, result.stderr
        assert ("2 × CPU, mirrored" in result.stdout) == (name == "two")
    one, two = (read_history(tmp_path / name / "history.csv") for name in ("one", "two"))
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose([row[name] for row in two], [row[name] for row in one], atol=1e-5)


def test_several_devices_leave_out_the_last_partial_batch(data_dir, tmp_path):
    flags = ("--batch_size=16", "--train_split=train[:70]", "--distribute=mirrored", "--rotation_degrees=90")
    result = train_on_two_devices(data_dir, tmp_path / "run", *flags)
    assert result.returncode == 0, result.stderr
    assert "each epoch's last 6 cells are left out" in result.stdout


def test_a_batch_that_cannot_be_shared_is_an_error(data_dir, tmp_path):
    result = train_on_two_devices(data_dir, tmp_path / "run", "--batch_size=15", "--distribute=mirrored")
    assert "--batch_size=15 is no multiple of the 2 devices" in result.stderr


def test_steps_in_one_call_give_the_same_numbers(data_dir, tmp_path):
    from trainers.run_dir import read_history

    flags = ("--train_split=train[:96]", "--epochs=2", "--batch_size=16", f"--data_dir={data_dir}")
    for steps in (1, 3):
        result = run_command(
            "trainers.basic_cnn", *flags, f"--run_dir={tmp_path / str(steps)}", f"--steps_per_execution={steps}"
        )
        assert result.returncode == 0, result.stderr
    one, three = (read_history(tmp_path / str(steps) / "history.csv") for steps in (1, 3))
    assert [row["val_loss"] for row in one] == pytest.approx([row["val_loss"] for row in three], abs=1e-6)
    result = run_command("trainers.basic_cnn", *flags, f"--run_dir={tmp_path / 'four'}", "--steps_per_execution=4")
    assert "steps per execution: 3, since an epoch has 6 steps" in result.stdout


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--warmup_epochs=1"], ["--warmup_epochs=1", "--schedule=cosine"]),
        (["--schedule=cosine", "--epochs=2", "--warmup_epochs=2"], ["leaves nothing of --epochs=2"]),
        (["--export=saved_model,pdf"], ["pdf is no known format", "saved_model,onnx,litert"]),
        (["--zoom=nan"], ["--zoom"]),
    ],
)
def test_contradictory_flags(flags, expected, data_dir, tmp_path):
    result = run_command("trainers.basic_cnn", *flags, f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}")
    assert_one_line_error(result, *expected)
    assert not (tmp_path / "run").exists()
