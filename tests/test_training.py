"""The trainer and the evaluation as commands, on small synthetic cells."""

import json
import shutil

import pytest
from conftest import ROOT, assert_one_line_error, run_command

from trainers import curves
from trainers.splits import open_split

SMALL = (f"--flagfile={ROOT}/trainers/flagfiles/basic_cnn.flags", "--epochs=2", "--batch_size=16")


def train(data_dir, run_dir, *flags):
    return run_command("trainers.basic_cnn", *SMALL, f"--data_dir={data_dir}", f"--run_dir={run_dir}", *flags)


def evaluate(data_dir, run_dirs, output_dir, *flags):
    run_dirs = ",".join(map(str, run_dirs))
    return run_command(
        "trainers.evaluate", f"--data_dir={data_dir}", f"--run_dirs={run_dirs}", f"--output_dir={output_dir}", *flags
    )


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A finished run: its folder and what the trainer said."""
    path = tmp_path_factory.mktemp("runs") / "basic_cnn"
    result = train(data_dir, path)
    assert result.returncode == 0, result.stderr
    return path, result


def test_a_run_leaves_what_it_promises(run, data_dir):
    path, result = run
    assert {item.name for item in path.iterdir()} == {
        "run.json",
        "model.keras",
        "history.csv",
        "curves.png",
        "tensorboard",
    }
    history = curves.read_history(path / "history.csv")
    assert [row["epoch"] for row in history] == [0, 1]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second", "seconds"} <= set(
        history[0]
    )
    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["flags"]["learning_rate"] == 1e-3
    assert record["flags"]["test_split"] == "test"
    assert record["versions"]["keras"]
    assert record["timings"]["seconds"] > 0
    assert record["input"]["mode"] == "resident"
    assert 0 <= record["input"]["waiting_share"] < 0.5
    assert record["input"]["skipped_records"] == []
    assert result.stdout.count("of the step time for data") == 1
    manifest = json.loads((data_dir / "tfds_malaria/by_patient/1.0.0/manifest.json").read_text())
    assert record["data"]["fingerprint"] == manifest["source"]["fingerprint"]
    assert list((path / "tensorboard").rglob("events.out.tfevents.*"))
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "images/s" in result.stdout
    assert "python -m trainers.evaluate" in result.stdout
    assert "images/s" in result.stderr, "progress"


def test_the_best_epoch_is_kept(run, data_dir):
    import keras

    from pipeline.layout import dataset_dir
    from trainers import resident

    path, _ = run
    cells = resident.load(open_split(dataset_dir(str(data_dir), "by_patient"), "validation"))
    model = keras.models.load_model(path / "model.keras")
    loss, _ = model.evaluate(cells.images, cells.labels, verbose=0)
    best = min(row["val_loss"] for row in curves.read_history(path / "history.csv"))
    assert loss == pytest.approx(best, rel=1e-4)


def test_a_damaged_record_stops_training_and_may_be_skipped(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    shard = next((tmp_path / "data/tfds_malaria/by_patient/1.0.0").glob("*-train.tfrecord-00000-of-?????"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert_one_line_error(train(tmp_path / "data", tmp_path / "run", "--input=mapped"), "record 0 is damaged")
    flags = ("--input=mapped", "--max_corrupt_records=1")
    result = train(tmp_path / "data", tmp_path / "other", *flags)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "other/run.json").read_text())
    assert record["input"]["skipped_records"] == [[shard.name, 0]]


def test_the_model_loads_without_the_project(run):
    import subprocess
    import sys

    path, _ = run
    code = (
        "import keras, numpy\n"
        f"model = keras.models.load_model({str(path / 'model.keras')!r})\n"
        "print(model.predict(numpy.zeros((2, 32, 32, 3), 'uint8'), verbose=0).shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "(2, 1)", result.stderr


def test_the_same_command_again_leaves_a_finished_run(run, data_dir):
    path, _ = run
    before = (path / "model.keras").read_bytes()
    result = train(data_dir, path)
    assert result.returncode == 0, result.stderr
    assert "is trained already" in result.stdout
    assert (path / "model.keras").read_bytes() == before


def test_other_settings_in_the_same_folder_are_refused(run, data_dir):
    path, _ = run
    result = train(data_dir, path, "--learning_rate=0.01", "--seed=1")
    assert_one_line_error(result, "its --learning_rate is 0.001, wanted 0.01", "its --seed is 42, wanted 1")


def test_evaluation(run, data_dir, tmp_path):
    import numpy as np

    from pipeline.layout import dataset_dir
    from trainers import input_pipeline, resident
    from trainers.verdict.predictions import load_model

    path, _ = run
    result = evaluate(data_dir, [path], tmp_path / "report")
    assert result.returncode == 0, result.stderr
    entry = json.loads((tmp_path / "report/metrics.json").read_text())["models"]["basic_cnn"]
    split = open_split(dataset_dir(str(data_dir), "by_patient"), "test")
    cells = resident.load(split)
    patients = {name for *_, names in input_pipeline.evaluation_batches(split, 16) for name in names.numpy()}
    calls = load_model(str(path)).predict(cells.images, verbose=0)[:, 0] >= 0.5
    assert entry["num_cells"] == len(cells.labels)
    assert entry["num_patients"] == len(patients)
    assert entry["accuracy"]["value"] == pytest.approx(np.mean(calls == cells.labels))
    assert entry["confusion"]["tp"] == int((calls & (cells.labels == 1)).sum())
    assert "sensitivity" in result.stdout
    assert str(tmp_path / "report/metrics.json") in result.stdout


def test_two_runs_of_one_model_go_by_their_folders(run, data_dir, tmp_path):
    path, _ = run
    shutil.copytree(path, tmp_path / "second")
    result = evaluate(
        data_dir, [path, tmp_path / "second"], tmp_path / "report", "--split=validation", "--config=by_cell"
    )
    assert result.returncode == 0, result.stderr
    models = json.loads((tmp_path / "report/metrics.json").read_text())["models"]
    assert set(models) == {"basic_cnn", "second"}
    assert models["second"]["split"] == "validation"


def test_evaluation_errors(run, data_dir, tmp_path):
    path, _ = run
    assert_one_line_error(evaluate(data_dir, [tmp_path / "none"], tmp_path / "r"), "is no run", "--run_dir")
    assert_one_line_error(
        evaluate(tmp_path, [path], tmp_path / "r"), "has no data set", "python -m pipeline.preprocess"
    )
    assert_one_line_error(evaluate(data_dir, [path], tmp_path / "r", "--split=tset"), "--split=tset is no split")
    broken = tmp_path / "broken"
    shutil.copytree(path, broken)
    (broken / "model.keras").write_bytes((path / "model.keras").read_bytes()[:1000])
    assert_one_line_error(evaluate(data_dir, [broken], tmp_path / "r"), "model.keras cannot be loaded")
    assert not list(tmp_path.glob("r/*"))


def test_one_class_only_is_refused(run, tmp_path, data_dir):
    path, _ = run
    result = evaluate(data_dir, [path], tmp_path / "r", "--split=test[:1]")
    assert_one_line_error(result, "cells of one class only")


def test_a_killed_run_continues_after_its_last_whole_epoch(data_dir, tmp_path):
    import os
    import signal
    import subprocess
    import sys
    import time

    command = [
        sys.executable,
        "-m",
        "trainers.basic_cnn",
        *SMALL,
        f"--data_dir={data_dir}",
        f"--run_dir={tmp_path / 'r'}",
    ]
    command += ["--epochs=12", "--train_split=train[:32]"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        history = tmp_path / "r" / "history.csv"
        deadline = time.monotonic() + 120
        while not (history.exists() and len(history.read_text().splitlines()) > 3):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    assert json.loads((tmp_path / "r/run.json").read_text())["status"] == "unfinished"
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [row["epoch"] for row in curves.read_history(history)] == list(range(12))
    assert "epoch 1/12" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config=folds"], ["--train_split is missing", "fold_0+fold_1"]),
        (["--train_split=tarin"], ["--train_split=tarin is no split", "train, validation, test"]),
        (["--validation_split=train[:10%]"], ["share", "cells; expected disjoint splits"]),
        (["extra"], ["got the argument 'extra'"]),
    ],
)
def test_flag_mistakes(flags, expected, data_dir, tmp_path):
    assert_one_line_error(train(data_dir, tmp_path / "run", *flags), *expected)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flag", ["--epochs=0", "--batch_size=0", "--config=x", "--precision=int8", "--learning_rate=-1"]
)
def test_flags_out_of_range(flag, data_dir, tmp_path):
    result = train(data_dir, tmp_path / "run", flag)
    assert result.returncode != 0
    assert flag.partition("=")[0] in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_no_data_set(tmp_path):
    result = train(tmp_path, tmp_path / "run")
    assert_one_line_error(
        result, "has no data set tfds_malaria/by_patient", "make it with: python -m pipeline.preprocess"
    )


def test_a_folder_of_something_else_is_no_run(data_dir, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert_one_line_error(train(data_dir, tmp_path), "exists and is no run", "new or empty folder")


def test_help_lists_every_flag():
    result = run_command("trainers.basic_cnn", "--help")
    for flag in (
        "data_dir",
        "config",
        "train_split",
        "validation_split",
        "test_split",
        "run_dir",
        "epochs",
        "batch_size",
    ):
        assert f"--{flag}" in result.stdout, flag
    for flag in ("learning_rate", "seed", "precision", "input"):
        assert f"--{flag}" in result.stdout, flag
    assert "default: '64'" in result.stdout


def test_folds_train_when_the_splits_are_given(data_dir, tmp_path):
    flags = ("--config=folds", "--train_split=fold_0+fold_1+fold_2", "--validation_split=fold_3", "--test_split=fold_4")
    result = train(data_dir, tmp_path / "run", *flags, "--epochs=1")
    assert result.returncode == 0, result.stderr
    result = evaluate(data_dir, [tmp_path / "run"], tmp_path / "report")
    assert json.loads((tmp_path / "report/metrics.json").read_text())["models"]["basic_cnn"]["split"] == "fold_4"
