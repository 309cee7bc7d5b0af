"""Cells in the memory of the device, and several steps per call: the same batches, numbers and files as without."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_one_line_error, open_split, run_in_process, small_model

from pipeline.errors import InputError
from trainers.augmentation import params
from trainers.augmentation.ranges import Ranges
from trainers.input_pipeline import batching, resident
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.run_dir import read_history
from trainers.training import callbacks, checkpoint

RANGES = Ranges(rotation_degrees=180.0, flip="both", stain_gain=0.2)
# 60 cells in batches of 8 are seven full steps and a smaller one.
FLAGS = ("--train_split=train[:60]", "--batch_size=8", "--epochs=2", "--rotation_degrees=90", "--stain_gain=0.1")
FLAGS += ("--ema_momentum=0.9", "--class_weight=balanced", "--checkpoint_minutes=0")
TIMES = {"seconds", "images_per_second", "waiting_share"}


@pytest.mark.parametrize("steps_per_call", [None, 3, 100])
@pytest.mark.parametrize("start_step", [0, 5, 7])
def test_rows_are_the_batches_of_resident(steps_per_call, start_step, data_dir):
    split = open_split(data_dir, "train[:60]")
    order, cells = ShuffleOrder(60, 8, 3), resident.load(split)

    def finish(step, rows, label):
        return rows, label, params.sample(RANGES, 32, 3, step * 8, tf.shape(label))

    batches = []
    for batch in batching.training_rows(cells.labels, order, order.starts(start_step, 2), finish, steps_per_call):
        stacked = [values.numpy() if steps_per_call else values.numpy()[None] for values in batch]
        assert len(stacked[0]) <= (steps_per_call or 1)
        batches += zip(*stacked, strict=True)
    expected = list(batching.training_batches(split, order, 2, "resident", start_step))
    assert len(batches) == len(expected) == 16 - start_step
    for step, (rows, label, numbers), (images, expected_label) in zip(
        itertools.count(start_step), batches, expected, strict=False
    ):
        np.testing.assert_array_equal(cells.images[rows], images)
        np.testing.assert_array_equal(label, expected_label)
        sampled = params.sample(RANGES, 32, 3, tf.constant(step * 8, tf.int64), tf.shape(label))
        np.testing.assert_array_equal(numbers, sampled)


def test_where_cells_are_put(data_dir):
    split = open_split(data_dir, "train")
    assert batching.choose_mode("auto", split, 100, 400) == "device"
    assert batching.choose_mode("auto", split, 100, 399) == "resident"
    assert batching.choose_mode("auto", split, 100) == "resident"
    assert batching.choose_mode("device", split, 100) == "device"
    with pytest.raises(InputError, match=r"^--input=device needs 2\.00 GB .* 1\.00 GB free; give --input=resident"):
        batching.choose_mode("device", split, 2 * 10**9, 10**9)


def test_cells_that_do_not_fit_the_device_are_one_line(monkeypatch):
    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nin detail")

    monkeypatch.setattr(resident.CellsOnDevice, "add_weight", fail)
    with pytest.raises(InputError, match=r"^--input=device could not copy 0\.00 GB .* \(OOM when allocating\); give"):
        resident.on_device(small_model(), np.zeros((2, 32, 32, 3), np.uint8))


@pytest.fixture
def train(data_dir, tmp_path, monkeypatch):
    """Trains; returns history, size of the first checkpoint, TensorBoard's events. Steps are as Keras counts them."""
    count, save = callbacks.Progress.on_train_batch_end, checkpoint.save

    def check_count(self, batch, logs=None):
        count(self, batch, logs)
        assert self.step == int(self.model.optimizer.iterations)

    def note_size(folder, *arguments):
        save(folder, *arguments)
        sizes.append(next(folder.iterdir()).stat().st_size)

    monkeypatch.setattr(callbacks.Progress, "on_train_batch_end", check_count)
    monkeypatch.setattr(checkpoint, "save", note_size)
    sizes = []

    def run(name, *flags):
        sizes.clear()
        arguments = (*FLAGS, f"--data_dir={data_dir}", f"--run_dir={tmp_path / name}", *flags)
        result = run_in_process("trainers.basic_cnn", *arguments)
        assert result.returncode == 0, result.stderr
        rows = read_history(tmp_path / name / "history.csv")
        events = b"".join(path.read_bytes() for path in (tmp_path / name).rglob("events.*"))
        return [{column: row[column] for column in row.keys() - TIMES} for row in rows], sizes[0], events

    return run


def test_a_run_on_device_is_that_of_resident(train):
    history, size, events = train("resident", "--input=resident")
    on_device, size_on_device, events_on_device = train("device", "--input=device")
    assert on_device == history
    assert size_on_device == pytest.approx(size, abs=100), "the cells are in no checkpoint"
    assert b"probability/kernel/histogram" in events
    assert b"images/histogram" not in events_on_device


def test_several_steps_per_call_give_the_same_numbers(train):
    expected, *_ = train("one", "--input=resident", "--ema_momentum=0")
    for mode in ("device", "resident"):
        history, *_ = train(mode, f"--input={mode}", "--ema_momentum=0", "--steps_per_execution=3")
        for row, expected_row in zip(history, expected, strict=True):
            assert row == pytest.approx(expected_row, rel=1e-4)


@pytest.mark.parametrize("steps", ["0", "many", "9"])
def test_mistakes_are_one_line(steps, data_dir, tmp_path):
    arguments = (*FLAGS, f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}", f"--steps_per_execution={steps}")
    assert_one_line_error(run_in_process("trainers.basic_cnn", *arguments), f"--steps_per_execution={steps} is ")


@pytest.mark.usefixtures("no_gpu")
def test_devices_that_are_not_there_are_named(data_dir, tmp_path):
    wanted = ("--input=device", "--distribute=mirrored", "--steps_per_execution=9")  # the last one ends it
    arguments = (*FLAGS, f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}", *wanted)
    result = run_in_process("trainers.basic_cnn", *arguments)
    assert "warning: --input=device: there is no GPU" in result.stderr
    assert "warning: --distribute=mirrored: there is one device only" in result.stderr
