"""The trainers as commands on small synthetic cells, from the flags to the run's folder and its evaluation."""

import json
import shutil
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, assert_one_line_error, open_split, run_in_process, small_model
from evaluating import compute_metrics

from pipeline import storage
from pipeline.errors import InputError
from pipeline.records.manifest import compute_checksum
from trainers import export_formats, run_dir, training_flags
from trainers.augmentation.ranges import Ranges
from trainers.evaluation import predictions
from trainers.evaluation.metrics import thresholds
from trainers.evaluation.predictions import load_model
from trainers.evaluation.report import image_grid, plots
from trainers.input_pipeline import resident
from trainers.models import features
from trainers.run_dir import read_history
from trainers.training import setup

SMALL = ("--epochs=2", "--batch_size=16", "--precision=float32")
VGG = ("--vgg_weights=none", "--train_split=train[:32]", "--early_stopping_patience=1")
FLAGS = {
    "basic_cnn": SMALL,
    "vgg_frozen": (*SMALL, *VGG, "--vgg_input=imagenet", "--export=saved_model"),
    "vgg_ft": (*SMALL, *VGG),
}
LOSSES = {  # of training and validation after the first epoch
    "basic_cnn": (0.6958078, 0.6889173),
    "vgg_frozen": (9.539301, 5.579530),
    "vgg_ft": (8.475845, 1.562099),
}


def train(data_dir, run_dir, *flags, model="basic_cnn"):
    recipe = {"vgg_frozen": "vgg_frozen_original"}.get(model, model)  # the one that trains on features
    flagfile = f"--flagfile={ROOT}/trainers/flagfiles/{recipe}.flags"
    return run_in_process(
        f"trainers.{model}", flagfile, *FLAGS[model], f"--data_dir={data_dir}", f"--run_dir={run_dir}", *flags
    )


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A finished run: its folder and what the trainer printed."""
    path = tmp_path_factory.mktemp("runs") / "basic_cnn"
    result = train(data_dir, path)
    assert result.returncode == 0, result.stderr
    return path, result


def check_numbers(model, run_dir, data_dir):
    """The losses are the golden ones, and those of the saved model."""
    history = read_history(run_dir / "history.csv")
    assert (history[0]["loss"], history[0]["val_loss"]) == pytest.approx(LOSSES[model], rel=0.02)
    cells = resident.load(open_split(data_dir, "validation"))
    probabilities = load_model(str(run_dir)).predict(cells.images, verbose=0)[:, 0].clip(1e-7, 1 - 1e-7)
    loss = -(cells.labels * np.log(probabilities) + (1 - cells.labels) * np.log(1 - probabilities)).mean()
    # The head of a frozen model is validated on features, to half precision.
    tolerance = 0.03 if model == "vgg_frozen" else 1e-3
    assert loss == pytest.approx(min(row["val_loss"] for row in history), rel=tolerance)
    for flips in (False, True):
        assert thresholds.read(str(run_dir), flips).num_cells == len(cells.labels)
    scalars = {}
    for file in (run_dir / "tensorboard/validation").iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            scalars |= {(value.tag, event.step): tf.make_ndarray(value.tensor) for value in event.summary.value}
    best = int(np.argmin([row["val_loss"] for row in history]))
    expected = compute_metrics(cells.labels, probabilities)
    for name in ("auc", "sensitivity", "specificity"):
        assert scalars[f"epoch_{name}", best] == pytest.approx(expected[name], abs=0.1), "of 200 thresholds"


def test_a_run_leaves_what_it_promises(run, data_dir):
    path, result = run
    files = {"run.json", "model.keras", "history.csv", "thresholds.json", "curves.png", "augmentation.png"}
    assert {item.name for item in path.iterdir()} == {*files, "tensorboard"}
    check_numbers("basic_cnn", path, data_dir)
    history = read_history(path / "history.csv")
    assert [row["epoch"] for row in history] == [0, 1]
    assert {"accuracy", "val_accuracy", "learning_rate", "images_per_second", "seconds"} <= set(history[0])
    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["flags"]["learning_rate"] == 1e-3
    assert record["flags"]["test_split"] == "test"
    assert record["versions"]["keras"]
    assert record["timings"]["seconds"] > 0
    assert record["input"]["mode"] == "resident"
    assert record["input"]["steps_per_execution"] == 1
    assert 0 <= record["input"]["waiting_share"] < 0.5
    manifest = json.loads((data_dir / "tfds_malaria/by_patient/1.0.0/manifest.json").read_text())
    assert record["data"]["fingerprint"] == manifest["source"]["fingerprint"]
    assert list((path / "tensorboard").rglob("events.out.tfevents.*"))
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert result.stdout.count("of the step time for data") == 1
    assert "images/s" in result.stdout
    assert "python -m trainers.evaluate" in result.stdout
    assert "images/s" in result.stderr, "progress"


@pytest.mark.parametrize("model", ["vgg_frozen", "vgg_ft"])
def test_a_vgg_trains_and_its_saved_model_is_complete(model, data_dir, tmp_path):
    result = train(data_dir, tmp_path / "run", model=model)
    assert result.returncode == 0, result.stderr
    assert "VGG weights: none" in result.stdout
    assert (tmp_path / "run/export").exists() == (model == "vgg_frozen")
    assert not (tmp_path / "run/features").exists()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["input"]["mode"] == ("features" if model == "vgg_frozen" else "resident")
    check_numbers(model, tmp_path / "run", data_dir)


def test_other_weights_do_not_continue_a_frozen_vgg(data_dir, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("unexpected")

    with monkeypatch.context() as context:
        context.setattr("trainers.training.train.fit", fail)
        with pytest.raises(RuntimeError, match="unexpected"):
            train(data_dir, tmp_path / "run", model="vgg_frozen")
    monkeypatch.setattr(features, "digest", lambda _: "of another file")
    result = train(data_dir, tmp_path / "run", model="vgg_frozen")
    assert_one_line_error(result, "--vgg_weights=none has other weights than", "another --run_dir")


def test_a_frozen_vgg_recomputes_when_cells_are_augmented(data_dir, tmp_path):
    flags = ("--epochs=1", "--warmup_epochs=0", "--train_split=train[:16]", "--flip=both", "--export=")
    result = train(data_dir, tmp_path / "run", *flags, model="vgg_frozen")
    assert result.returncode == 0, result.stderr
    assert "compute every cell in each epoch" in result.stdout


def test_a_corrupt_record_stops_training(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    shard = next((tmp_path / "data/tfds_malaria/by_patient/1.0.0").glob("*-train.tfrecord-00000-of-?????"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    result = train(tmp_path / "data", tmp_path / "run", "--input=mapped")
    assert_one_line_error(result, f"{shard.name}: record 0 is corrupt", "pipeline.verify", "--repair")
    assert not (tmp_path / "run").exists(), "nothing was saved: other flags may use the folder"


def test_an_unexpected_fault_before_anything_was_saved_frees_the_folder(data_dir, tmp_path, monkeypatch):
    def fail(*_):
        (tmp_path / "run/checkpoint").mkdir()
        raise RuntimeError("unexpected")

    monkeypatch.setattr(setup, "build", fail)
    with pytest.raises(RuntimeError, match="unexpected"):
        train(data_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_and_exports_do_not_decide_over_a_result(data_dir, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("unexpected")

    arguments = (data_dir, tmp_path / "my run", "--epochs=1", "--warmup_epochs=0", "--precision=auto")
    for module, name in ((plots, "learning_curves"), (image_grid, "log_misclassified"), (setup, "save_preview")):
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(export_formats, "export", fail)
    arguments += ("--export=saved_model",)
    with monkeypatch.context() as context:
        context.setattr(predictions, "fit_thresholds", fail)
        with pytest.raises(RuntimeError, match="unexpected"):
            train(*arguments)
    history = (tmp_path / "my run/history.csv").read_bytes()
    (tmp_path / "my run/history.csv").write_bytes(b"damaged")
    result = train(*arguments)
    assert (tmp_path / "my run/history.csv").read_bytes() == history
    assert "all epochs are trained already" in result.stdout
    assert "continuing" not in result.stdout
    assert "(as this run began)" in result.stdout, "not asked for"
    assert_one_line_error(result, "the run is finished, but its export failed", "trainers.export '--run_dir=")
    for picture in ("curves.png", "augmentation.png", image_grid.TAG):
        assert f"warning: {picture} could not be made: RuntimeError: unexpected" in result.stderr
    assert json.loads((tmp_path / "my run/run.json").read_text())["status"] == "finished"
    monkeypatch.setattr(export_formats, "export", lambda *_: ["export/saved_model"])
    result = train(*arguments)
    assert result.returncode == 0, result.stderr
    assert "is trained already" in result.stdout
    assert "exported export/saved_model" in result.stdout, "it was missing"


def test_a_model_that_is_not_the_best_epochs_does_not_become_the_result(data_dir, tmp_path, monkeypatch):
    def stop(_):
        raise InputError("stopped here")

    def again():
        return train(data_dir, tmp_path / "run", "--epochs=1", "--warmup_epochs=0")

    model, partial = (tmp_path / "run" / name for name in (run_dir.MODEL, run_dir.PARTIAL_MODEL))
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "load_model", stop)
        assert_one_line_error(again(), "stopped here")
    saved = model.read_bytes()
    small_model(seed=1).save(model)
    assert_one_line_error(again(), "model.keras is not the model of the best epoch", "train again")
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "unfinished"
    assert not (tmp_path / "run/thresholds.json").exists()
    small_model(seed=1).save(partial)
    assert_one_line_error(again(), "model.keras is not the model of the best epoch")
    partial.write_bytes(saved)  # as after a kill between the checkpoint and the model's renaming
    result = again()
    assert result.returncode == 0, result.stderr
    assert model.read_bytes() == saved
    assert not partial.exists()


def test_a_backend_that_cannot_be_used_is_named_first(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert_one_line_error(train(data_dir, tmp_path / "run"), "KERAS_BACKEND=torch is no backend", "unset it")
    assert not (tmp_path / "run").exists()


def test_the_same_command_again_leaves_a_finished_run(run, data_dir, monkeypatch):
    def fail(*_):
        raise OSError("read-only")

    monkeypatch.setattr(storage, "lock", fail)
    path, _ = run
    before = {item: item.read_bytes() for item in path.iterdir() if item.is_file()}
    result = train(data_dir, path)
    assert result.returncode == 0, result.stderr
    assert "is trained already" in result.stdout
    assert {item: item.read_bytes() for item in before} == before


def test_the_same_command_again_fits_thresholds_that_are_missing_or_of_another_model(run, data_dir, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    path, checkpoint = tmp_path / "run/thresholds.json", tmp_path / "run/checkpoint"
    before = path.read_bytes()
    checkpoint.mkdir()  # of a process that was killed before it removed it
    (tmp_path / "run/curves.png").unlink()
    result = train(data_dir, tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert path.read_bytes() == before
    assert not checkpoint.exists()
    assert (tmp_path / "run/curves.png").exists()
    other = {**json.loads(before), "model_sha256": "0"}
    other["checksum"] = compute_checksum({name: value for name, value in other.items() if name != "checksum"})
    for content in (None, json.dumps(other).encode()):
        path.unlink()
        if content:
            path.write_bytes(content)
        flags = ("--run_dir", tmp_path / "run")
        result = train(data_dir, *flags[1:])
        assert "is trained already; what was not written after" in result.stdout, result.stderr
        assert path.read_bytes() == before


def test_other_settings_in_the_same_folder_are_refused(run, data_dir):
    path, _ = run
    result = train(data_dir, path, "--learning_rate=0.01", "--seed=1")
    expected = "its --learning_rate is 0.001, wanted 0.01", "its --seed is 42, wanted 1", "--epochs cannot be raised"
    assert_one_line_error(result, *expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config=folds"], ["--train_split is missing", "fold_0+fold_1"]),
        (["--train_split=tarin"], ["--train_split=tarin is no split", "train, validation, test"]),
        (["--validation_split=train[:10%]"], ["share", "cells; expected disjoint splits"]),
        (["extra"], ["got the argument 'extra'"]),
        (["--warmup_epochs=1", "--schedule=plateau"], ["--warmup_epochs=1", "--schedule=cosine"]),
        (["--warmup_epochs=2"], ["leaves nothing of --epochs=2"]),
        (["--export=saved_model,pdf"], ["pdf is no known format", "saved_model,onnx,litert"]),
        (["--zoom=nan"], ["--zoom"]),
        (["--surroundings=0"], ["--margin changes cells with --surroundings alone"]),
        (["--learning_rate=-1"], ["--learning_rate"]),
    ],
)
def test_flag_mistakes(flags, expected, data_dir, tmp_path):
    assert_one_line_error(train(data_dir, tmp_path / "run", *flags), *expected)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_missing(data_dir, tmp_path):
    result = train(data_dir, tmp_path / "run", "--vgg_weights=nowhere.npz", model="vgg_ft")
    assert_one_line_error(result, "--vgg_weights=nowhere.npz does not exist", "imagenet")
    assert not list((tmp_path / "run").rglob("*")), "with the mistake mended, the same folder can be used"


def test_a_folder_of_something_else_is_no_run(data_dir, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert_one_line_error(train(data_dir, tmp_path), "exists and is no run", "new or empty folder")


@pytest.mark.parametrize("model", training_flags.MODELS)
def test_help_lists_every_flag_in_its_group(model):
    text = run_in_process(f"trainers.{model}", "--help").stdout
    places = [text.index(f"\n{group}:\n") for group in ("data", "recipe", "augmentation", "hardware", "output")]
    assert places == sorted(places)
    assert "\nother:\n" not in text
    of_others = ("model", "vgg") if model == "basic_cnn" else ("model",)
    names = {*training_flags.Options._fields, *Ranges._fields} - {"ranges"}
    names = [name for name in names if not name.startswith(of_others)]
    assert [name for name in names if f"--{name}: " not in text] == []
    assert "(default: 64; a positive integer)" in text


@pytest.mark.parametrize("model", training_flags.MODELS)
def test_the_defaults_are_the_original_recipe(model):
    """A trainer without a recipe does what `<model>_original.flags` says, but for where the hardware is better used."""

    def options(*given):
        with mock.patch("trainers.training.main.main") as main:
            main.side_effect = lambda *_: seen.append(training_flags.read())
            seen = []
            run_in_process(f"trainers.{model}", "--data_dir=d", "--run_dir=r", *given)
        return seen[0].by_flag()

    plain, original = options(), options(f"--flagfile={ROOT}/trainers/flagfiles/{model}_original.flags")
    differing = {name for name in plain if plain[name] != original[name]}
    assert differing == ({"precision"} if model == "basic_cnn" else {"precision", "vgg_input"})
