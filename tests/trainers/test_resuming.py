"""Runs that are killed, preempted, damaged: they continue with the same numbers, or say why they cannot."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_command

from trainers.run_dir import read_history

# Everything that has a state: dropout, augmentation, cosine or plateau, averaged weights, running metrics.
FLAGS = ("--batch_size=8", "--seed=7", "--checkpoint_minutes=0")
VGG = ("--epochs=2", "--train_split=train[:44]", "--vgg_weights=none")
RECIPES = {
    "basic_cnn": (
        "--epochs=3",
        "--train_split=train[:60]",
        "--rotation_degrees=180",
        "--stain_gain=0.2",
        "--flip=both",
        "--schedule=cosine",
        "--warmup_epochs=0.5",
        "--ema_momentum=0.9",
        "--label_smoothing=0.1",
        "--class_weight=balanced",
    ),
    "vgg_frozen": (*VGG, "--schedule=plateau"),
    "vgg_ft": (*VGG, "--stain_gain=0.1", "--ema_momentum=0.9"),
}
NUM_STEPS = {"basic_cnn": 24, "vgg_frozen": 12, "vgg_ft": 12}
EPOCHS = {"basic_cnn": 3, "vgg_frozen": 2, "vgg_ft": 2}
TIMES = {"seconds", "images_per_second", "waiting_share"}


def command(model, data_dir, run_dir, *flags):
    return [
        sys.executable,
        "-m",
        f"trainers.{model}",
        *FLAGS,
        *RECIPES[model],
        f"--data_dir={data_dir}",
        f"--run_dir={run_dir}",
        *flags,
    ]


def weights_of(run_dir):
    import keras

    return keras.models.load_model(run_dir / "model.keras", compile=False).get_weights()


def numbers_of(run_dir):
    rows = read_history(run_dir / "history.csv")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def run_and_signal(arguments, run_dir, number, at_step):
    """Runs a command until its checkpoint is at some step, and signals it then."""
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + 300
        while not any(int(path.stem.partition("_")[2]) >= at_step for path in run_dir.glob("checkpoint/step_*.npz")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.002)
        os.kill(process.pid, number)
        output = process.stdout.read()
    return process.returncode, output


@pytest.fixture(scope="module", params=sorted(RECIPES))
def undisturbed(request, data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    result = subprocess.run(
        command(request.param, data_dir, path), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return request.param, path


def test_a_run_killed_at_random_steps_ends_with_the_same_bits(undisturbed, data_dir, tmp_path):
    model, expected = undisturbed
    run_dir = tmp_path / "run"
    arguments = command(model, data_dir, run_dir)
    # The first kill is at an epoch's end, where a checkpoint differs from those within an epoch.
    first = NUM_STEPS[model] // EPOCHS[model]
    steps = (first, int(np.random.default_rng().integers(first + 1, NUM_STEPS[model] - 1)))
    for step in steps:
        status, output = run_and_signal(arguments, run_dir, signal.SIGKILL, step)
        assert status == -signal.SIGKILL, output
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "continuing in epoch" in result.stdout
    assert numbers_of(run_dir) == numbers_of(expected), f"killed after steps {steps}"
    for found, wanted in zip(weights_of(run_dir), weights_of(expected), strict=True):
        np.testing.assert_array_equal(found, wanted, f"killed after steps {steps}")


def test_preemption_keeps_a_checkpoint_and_says_so(undisturbed, data_dir, tmp_path):
    model, expected = undisturbed
    run_dir = tmp_path / "run"
    arguments = command(model, data_dir, run_dir)
    status, output = run_and_signal(arguments, run_dir, signal.SIGTERM, NUM_STEPS[model] // 2)
    assert status == 75, output
    assert "the same command continues" in output
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert numbers_of(run_dir) == numbers_of(expected), result.stderr


def test_ctrl_c_keeps_a_checkpoint(data_dir, tmp_path):
    status, output = run_and_signal(
        command("basic_cnn", data_dir, tmp_path / "run"), tmp_path / "run", signal.SIGINT, 2
    )
    assert status == 130, output
    assert "Traceback" not in output
    assert len(list((tmp_path / "run/checkpoint").iterdir())) == 1


def test_a_damaged_checkpoint_is_named_and_left_alone(data_dir, tmp_path):
    model, run_dir = "basic_cnn", tmp_path / "run"
    arguments = command(model, data_dir, run_dir)
    run_and_signal(arguments, run_dir, signal.SIGTERM, 3)
    (kept,) = (run_dir / "checkpoint").iterdir()
    whole = kept.read_bytes()
    before = {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}
    kept.write_bytes(whole[: len(whole) // 2])
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert_one_line_error(result, f"{kept.name} is damaged", "nothing was changed", "another --run_dir")
    assert kept.read_bytes() == whole[: len(whole) // 2]
    assert {path: path.read_bytes() for path in before} == before


def test_every_kind_of_damage_is_noticed(tmp_path):
    from pipeline.errors import InputError
    from trainers.training import checkpoint

    arrays = {"0000:kernel": np.arange(1000, dtype=np.float32), "0001:seed": np.array([1, 2], np.uint32)}
    checkpoint.save(tmp_path, checkpoint.Checkpoint(1, 2, [{"epoch": 0.0}], 3.5, arrays), step=9)
    checkpoint.save(tmp_path, checkpoint.Checkpoint(1, 4, [{"epoch": 0.0}], 4.5, arrays), step=11)
    (kept,) = tmp_path.iterdir()
    found = checkpoint.find(tmp_path)
    assert (found.epoch, found.step_in_epoch, found.seconds, found.history) == (1, 4, 4.5, [{"epoch": 0.0}])
    np.testing.assert_array_equal(found.arrays["0000:kernel"], arrays["0000:kernel"])
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-200], whole[:1000] + b"\x01\x02" + whole[1002:], b"\0" * len(whole)):
        kept.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            checkpoint.find(tmp_path)


def test_a_checkpoint_of_another_model_changes_nothing():
    import keras

    from pipeline.errors import InputError
    from trainers.training import checkpoint

    one, two = (keras.Variable(np.full(shape, 5.0, np.float32)) for shape in (3, 4))
    values = checkpoint.values([one, two])
    swapped = dict(zip(values, reversed(values.values()), strict=True))
    for arrays, message in ((swapped, "has shape"), ({"0000:other": np.zeros(3)}, "in one of them only")):
        with pytest.raises(InputError, match=message):
            checkpoint.restore([one, two], arrays, "run/checkpoint")
    assert np.asarray(one).tolist() == [5.0] * 3


def test_other_settings_do_not_continue_a_checkpoint(data_dir, tmp_path):
    model, run_dir = "basic_cnn", tmp_path / "run"
    run_and_signal(command(model, data_dir, run_dir), run_dir, signal.SIGTERM, 3)
    result = run_command(
        f"trainers.{model}", *command(model, data_dir, run_dir)[3:], "--dropout_rate=0.5", "--checkpoint_minutes=3"
    )
    assert_one_line_error(result, "its --dropout_rate is 0.3, wanted 0.5")
    assert "checkpoint_minutes" not in result.stderr, "it changes no number"


def test_a_loss_that_is_no_number_stops_with_its_step(data_dir, tmp_path):
    run_dir = tmp_path / "run"
    flags = ("--optimizer=rmsprop", "--learning_rate=1e30", "--label_smoothing=0")
    result = subprocess.run(
        command("basic_cnn", data_dir, run_dir, "--warmup_epochs=0", *flags),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert_one_line_error(result, "the loss was no number at step", "last good checkpoint", "--learning_rate")
    for path in run_dir.glob("checkpoint/*.npz"):
        with np.load(path) as kept:
            assert all(np.isfinite(kept[name]).all() for name in kept.files)


def test_early_stopping_needs_the_history_alone():
    from trainers.training.epoch_end import has_stood_still

    def history(*losses):
        return [{"val_loss": loss} for loss in losses]

    assert not has_stood_still([], 2)
    assert not has_stood_still(history(1, 2, 3), 0)
    assert not has_stood_still(history(3, 1, 2), 2)
    assert has_stood_still(history(3, 1, 2, 1), 2)
    assert not has_stood_still(history(3, 1, 2, 0.5), 2)
