"""Runs that are killed, preempted, damaged: they continue with the same numbers, or say why they cannot."""

import io
import json
import os
import shutil
import signal
import time
import zipfile

import forked
import keras
import numpy as np
import pytest
from conftest import assert_one_line_error, open_split, prepare, run_in_process

from pipeline.errors import InputError
from trainers import run_dir as runs
from trainers.input_pipeline import resident
from trainers.run_dir import HISTORY_COLUMNS, read_history
from trainers.training import checkpoint
from trainers.training.callbacks import ResumablePlateau
from trainers.training.checkpoint import has_stood_still
from trainers.training.fit import PLATEAU

# Everything that has a state: dropout, augmentation, cosine or plateau, averaged weights, running metrics.
FLAGS = ("--seed=7", "--checkpoint_minutes=0", "--validation_split=validation[:8]")
VGG = ("--batch_size=4", "--train_split=train[:10]", "--vgg_weights=none")
RECIPES = {
    "basic_cnn": (
        "--epochs=3",
        "--batch_size=8",
        "--train_split=train[:62]",
        "--rotation_degrees=180",
        "--stain_gain=0.2",
        "--flip=both",
        "--schedule=cosine",
        "--warmup_epochs=0.5",
        "--ema_momentum=0.9",
        "--label_smoothing=0.1",
        "--gce_q=0.7",
        "--class_weight=balanced",
    ),
    "vgg_frozen": (*VGG, "--epochs=4", "--schedule=plateau"),
    "vgg_ft": (*VGG, "--epochs=2", "--train_split=train[:6]", "--stain_gain=0.1"),
}
NUM_STEPS = {"basic_cnn": 24, "vgg_frozen": 12, "vgg_ft": 4}
TIMES = {"seconds", "images_per_second", "waiting_share"}


def command(model, data_dir, run_dir, *flags):
    return (f"trainers.{model}", *FLAGS, *RECIPES[model], f"--data_dir={data_dir}", f"--run_dir={run_dir}", *flags)


def weights_of(run_dir):
    return keras.models.load_model(run_dir / "model.keras", compile=False).get_weights()


def numbers_of(run_dir):
    rows = read_history(run_dir / "history.csv")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def signal_at(step, number, output, arguments, run_dir):
    """Runs a command until its checkpoint is at some step, and signals it then; returns its exit status and output."""
    process = forked.start(output, *arguments)
    deadline = time.monotonic() + 300
    while not any(int(path.stem.partition("_")[2]) >= step for path in run_dir.glob("checkpoint/step_*.npz")):
        assert time.monotonic() < deadline
        assert process.is_alive(), output.read_text()
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.join(300)
    return process.exitcode, output.read_text()


@pytest.mark.parametrize("model", ["basic_cnn", "vgg_frozen", pytest.param("vgg_ft", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_ends_with_the_same_bits(model, data_dir, tmp_path, random_seed):
    expected, run_dir, output = tmp_path / "undisturbed", tmp_path / "run", tmp_path / "output"
    result = forked.run(tmp_path / "undisturbed.txt", *command(model, data_dir, expected, "--checkpoint_minutes=60"))
    assert result.returncode == 0, result.stdout
    assert "retracing" not in result.stdout, "TensorFlow's warning"
    stops = [(int(np.random.default_rng(random_seed).integers(1, NUM_STEPS[model] - 1)), signal.SIGKILL, -9)]
    if model == "basic_cnn":  # killed at an epoch's end, where a checkpoint differs from those within, then preempted
        stops = [(8, signal.SIGKILL, -9), (9 + stops[0][0] // 2, signal.SIGTERM, 75)]
    arguments = command(model, data_dir, run_dir)
    for step, number, expected_status in stops:
        status, text = signal_at(step, number, output, arguments, run_dir)
        assert status == expected_status, text
        assert ("the same command continues" in text) == (number == signal.SIGTERM)
        state = checkpoint.read_newest(run_dir / "checkpoint", runs.identity(runs.read(str(run_dir))))
        assert state.step_in_epoch or not state.seconds, "an epoch that has not begun has taken time"
    result = forked.run(output, *arguments)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("continuing in epoch") == len(stops)
    assert numbers_of(run_dir) == numbers_of(expected)
    if model == "basic_cnn":  # on weighted cells, or a model of the larger class alone would be the best
        cells = resident.load(open_split(data_dir, "validation[:8]"))
        probabilities = keras.models.load_model(run_dir / "model.keras").predict(cells.images, verbose=0)[:, 0]
        losses = -np.log(np.where(cells.labels == 1, probabilities, 1 - probabilities))
        weights = np.array(runs.read(str(run_dir))["class_weights"])
        assert weights[0] != weights[1]
        loss = np.mean(weights[cells.labels] * losses)
        assert loss == pytest.approx(min(row["val_loss"] for row in read_history(run_dir / "history.csv")), rel=1e-4)
    for weight, expected_weight in zip(weights_of(run_dir), weights_of(expected), strict=True):
        np.testing.assert_array_equal(weight, expected_weight)


@pytest.mark.slow
def test_a_run_survives_kills_at_random_moments(data_dir, tmp_path, random_seed):
    rng, num_killed = np.random.default_rng(random_seed), 0

    def run_until(seconds, folder):
        process = forked.start(tmp_path / "output", *command("basic_cnn", data_dir, folder, "--export=saved_model"))
        process.join(seconds)
        process.kill()  # the only signal that nothing answers to
        process.join()
        return process.exitcode

    def result_of(folder):
        fitted = json.loads((folder / "thresholds.json").read_text())
        del fitted["model_sha256"], fitted["checksum"]  # a .keras file holds the time
        return numbers_of(folder), fitted, runs.read(str(folder))["status"], sorted(p.name for p in folder.iterdir())

    started = time.monotonic()
    assert run_until(300, tmp_path / "undisturbed") == 0
    seconds = time.monotonic() - started
    for number in range(10):
        num_killed += run_until(rng.uniform(0, seconds), tmp_path / str(number)) != 0
        assert run_until(300, tmp_path / str(number)) == 0, (tmp_path / "output").read_text()
        assert result_of(tmp_path / str(number)) == result_of(tmp_path / "undisturbed")
        shutil.rmtree(tmp_path / str(number))
    print(f"killed {num_killed} of 10 runs")


@pytest.fixture(scope="module")
def stopped(data_dir, tmp_path_factory):
    """The folder of a run that Ctrl-C has stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    arguments = command("basic_cnn", data_dir, folder / "run")
    status, text = signal_at(2, signal.SIGINT, folder / "output", arguments, folder / "run")
    assert status == 130, text
    assert "Traceback" not in text
    return folder / "run"


@pytest.fixture
def run_dir(stopped):
    """The folder of a run that Ctrl-C has stopped, put back as it was afterwards."""
    copy = stopped.with_name("copy")
    shutil.copytree(stopped, copy)
    yield stopped
    shutil.rmtree(stopped)
    copy.rename(stopped)


def test_a_damaged_checkpoint_is_named_and_left_alone(run_dir, data_dir):
    (path,) = (run_dir / "checkpoint").iterdir()
    path.write_bytes(path.read_bytes()[:-1000])
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    result = run_in_process(*command("basic_cnn", data_dir, run_dir))
    assert_one_line_error(result, f"{path.name} is damaged", "nothing was changed", "another --run_dir")
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_a_checkpoint_of_another_run_does_not_continue_this_one(run_dir, data_dir):
    newest = checkpoint.read_newest(run_dir / "checkpoint", runs.identity(runs.read(str(run_dir))))
    checkpoint.save(run_dir / "checkpoint", newest._replace(run="another"), step=3)
    result = run_in_process(*command("basic_cnn", data_dir, run_dir))
    assert_one_line_error(result, "step_000000003.npz is damaged (it is of another run)", "another --run_dir")


def test_a_step_beyond_the_epoch_is_named(run_dir, data_dir):
    newest = checkpoint.read_newest(run_dir / "checkpoint", runs.identity(runs.read(str(run_dir))))
    checkpoint.save(run_dir / "checkpoint", newest._replace(step_in_epoch=10**6), step=10**6)
    result = run_in_process(*command("basic_cnn", data_dir, run_dir))
    assert_one_line_error(result, "is damaged (it is of step 1000000 in epoch 1)", "another --run_dir")


def test_another_data_set_does_not_continue_a_run(run_dir, synthetic_zip, tmp_path):
    prepare(synthetic_zip, tmp_path / "data", image_size_px=32, cells_per_shard=20, split_seed=7)
    result = run_in_process(*command("basic_cnn", tmp_path / "data", run_dir))
    assert_one_line_error(result, "its data set's split_seed was 42, is 7")


def test_other_settings_do_not_continue_a_checkpoint(run_dir, data_dir):
    arguments = command("basic_cnn", data_dir, run_dir, "--dropout_rate=0.5", "--checkpoint_minutes=3")
    result = run_in_process(*arguments)
    assert_one_line_error(result, "its --dropout_rate is 0.3, wanted 0.5")
    assert "checkpoint_minutes" not in result.stderr, "it does not change the numbers"


def test_a_loss_that_is_nan_stops_with_its_step(run_dir, data_dir, tmp_path):
    flags = ("--optimizer=rmsprop", "--learning_rate=1e30", "--label_smoothing=0", "--warmup_epochs=0")
    result = run_in_process(*command("basic_cnn", data_dir, tmp_path / "run", *flags))
    assert_one_line_error(
        result, "the loss was NaN or infinite at or before step", "last good checkpoint", "--learning_rate"
    )
    for path in tmp_path.glob("run/checkpoint/*.npz"):
        with np.load(path) as arrays:
            assert all(np.isfinite(arrays[name]).all() for name in arrays.files)


HISTORY = [dict.fromkeys(HISTORY_COLUMNS, 0.0)]


def npy(shape, descr="<f4"):
    """An array's file that ends with its header."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"epoch": -5}, "step 2 in epoch -5"),
        ({"step_in_epoch": 1.5}, "step 1.5 in epoch 1"),
        ({"step_in_epoch": "1"}, "step '1' in epoch 1"),
        ({"seconds": float("nan")}, "its seconds are nan"),
        ({"history": []}, "not that of 1 epochs"),
        ({"history": [{**HISTORY[0], "val_loss": float("nan")}]}, "NaN or infinite"),
        ({"history": [{"epoch": 0}]}, "'loss'"),
        ({"run": "another"}, "it is of another run"),
        ({"other": 1}, "unexpected keyword"),
        (npy((1 << 40,)), r"Unable to allocate 4.00 TiB|EOF"),
        (npy((-1, -1)) + b"1234", "one unknown dimension"),
        (npy((1,), "|O") + b"12345678", "Object arrays cannot be loaded"),
        (b"no array", "0000:kernel is no array"),
    ],
)
def test_a_checkpoint_that_no_training_writes(change, expected, tmp_path):
    meta = {"epoch": 1, "step_in_epoch": 2, "history": HISTORY, "seconds": 1.0, "run": "this one", "model_sha256": ""}
    meta |= change if isinstance(change, dict) else {}
    np.savez(tmp_path / "step_000000001.npz", meta=np.frombuffer(json.dumps(meta).encode(), np.uint8))
    if isinstance(change, bytes):
        with zipfile.ZipFile(tmp_path / "step_000000001.npz", "a") as archive:
            archive.writestr("0000:kernel.npy", change)
    with pytest.raises(InputError, match=f"step_000000001.npz is damaged .*{expected}.*nothing was changed"):
        checkpoint.read_newest(tmp_path, run="this one")


def test_every_kind_of_damage_is_noticed(tmp_path):
    arrays = {"0000:kernel": np.arange(1000, dtype=np.float32), "0001:seed": np.array([1, 2], np.uint32)}
    checkpoint.save(tmp_path, checkpoint.Checkpoint(1, 2, HISTORY, 3.5, arrays, "run", ""), step=9)
    (tmp_path / "step_000000010.npz.1234.partial").write_text("of a killed process")
    checkpoint.save(tmp_path, checkpoint.Checkpoint(1, 4, HISTORY, 4.5, arrays, "run", ""), step=11)
    (path,) = tmp_path.iterdir()
    newest = checkpoint.read_newest(tmp_path, "run")
    assert newest[:4] == (1, 4, HISTORY, 4.5)
    np.testing.assert_array_equal(newest.arrays["0000:kernel"], arrays["0000:kernel"])
    intact = path.read_bytes()
    encrypted, other_version = bytearray(intact), bytearray(intact)
    encrypted[intact.index(b"PK\1\2") + 8] |= 1
    other_version[intact.index(b"PK\1\2") + 6] |= 64
    for damaged in (
        encrypted,
        other_version,
        b"",
        intact[:-200],
        intact[:1000] + b"\x01\x02" + intact[1002:],
        b"\0" * len(intact),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            checkpoint.read_newest(tmp_path, "run")


def test_a_checkpoint_of_another_model_changes_nothing():
    one, two = (keras.Variable(np.full(shape, 5.0, np.float32)) for shape in (3, 4))
    variables = checkpoint.named([one, two])
    swapped = dict(zip(variables, (np.zeros(4), np.zeros(3)), strict=True))
    for arrays, message in (
        (swapped, r"has the shape \(4,\), expected \(3,\)"),
        ({"0": np.zeros(3)}, "expected None"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoint.restore(variables, arrays, "run/checkpoint")
    assert np.asarray(one).tolist() == [5.0] * 3


def test_a_resumed_plateau_lowers_the_learning_rate_at_the_same_epochs():
    losses = [3.0, 2.0, 2.5, 2.4, 2.6, 1.0, 1.5, 1.6, 1.7]
    history = [{"epoch": epoch, "val_loss": loss} for epoch, loss in enumerate(losses)]

    def rates_after(callback, first_epoch):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        callback.set_model(model)
        callback.on_train_begin()
        rates = []
        for row in history[first_epoch:]:
            callback.on_epoch_end(row["epoch"], {"val_loss": row["val_loss"]})
            rates.append(float(model.optimizer.learning_rate))
        return rates

    expected = rates_after(keras.callbacks.ReduceLROnPlateau(**PLATEAU), 0)
    assert expected == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025])
    for epoch in range(len(history)):
        assert rates_after(ResumablePlateau(history[:epoch], 0.1, **PLATEAU), epoch) == expected[epoch:]


def test_early_stopping_needs_the_history_alone():
    def history(*losses):
        return [{"val_loss": loss} for loss in losses]

    assert not has_stood_still([], 2)
    assert not has_stood_still(history(1, 2, 3), 0)
    assert not has_stood_still(history(3, 1, 2), 2)
    assert has_stood_still(history(3, 1, 2, 1), 2)
    assert not has_stood_still(history(3, 1, 2, 0.5), 2)
