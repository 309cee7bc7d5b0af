"""The trainer and the evaluation as commands, on small synthetic cells."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, open_split, run_command

from trainers.run_dir import read_history

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
        "augmentation.png",
        "tensorboard",
    }
    history = read_history(path / "history.csv")
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

    from trainers.input_pipeline import resident

    path, _ = run
    cells = resident.load(open_split(data_dir, "validation"))
    model = keras.models.load_model(path / "model.keras")
    model.compile(loss="binary_crossentropy", metrics=["accuracy"])
    loss, _ = model.evaluate(cells.images, cells.labels, verbose=0)
    best = min(row["val_loss"] for row in read_history(path / "history.csv"))
    assert loss == pytest.approx(best, rel=1e-4), "of the averaged weights"


def test_a_corrupt_record_stops_training(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    shard = next((tmp_path / "data/tfds_malaria/by_patient/1.0.0").glob("*-train.tfrecord-00000-of-?????"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    result = train(tmp_path / "data", tmp_path / "run", "--input=mapped")
    assert_one_line_error(result, f"{shard.name}: record 0 is corrupt", "pipeline.verify", "--repair")


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

    from trainers.evaluation.predictions import load_model
    from trainers.input_pipeline import batching, resident

    path, _ = run
    result = evaluate(data_dir, [path], tmp_path / "report")
    assert result.returncode == 0, result.stderr
    entry = json.loads((tmp_path / "report/metrics.json").read_text())["models"]["basic_cnn"]
    split = open_split(data_dir, "test")
    cells = resident.load(split)
    patients = {name for *_, names in batching.evaluation_batches(split, 16) for name in names.numpy()}
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


@pytest.mark.parametrize("model", ["basic_cnn", "vgg_frozen", "vgg_ft"])
def test_the_defaults_are_the_original_recipe(model):
    """A trainer without a recipe does what `<model>_original.flags` says, but for where the hardware is better used."""
    code = (
        "import sys, json; from absl import flags; "
        f"import trainers.{model}; from trainers import training_flags; "
        "flags.FLAGS(['x', '--data_dir=d', '--run_dir=r', *sys.argv[1:]]); "
        "print(json.dumps(training_flags.read()._asdict()))"
    )

    def options(*given):
        result = subprocess.run(
            [sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return json.loads(result.stdout)

    plain, original = options(), options(f"--flagfile={ROOT}/trainers/flagfiles/{model}_original.flags")
    differing = {name for name in plain if plain[name] != original[name]}
    assert differing == ({"precision"} if model == "basic_cnn" else {"precision", "vgg_input"})
    better = options(f"--flagfile={ROOT}/trainers/flagfiles/{model}.flags")
    text = (ROOT / f"trainers/flagfiles/{model}.flags").read_text()
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for name in plain:
        if better[name] != original[name]:
            named = name in comments or (name.startswith("stain_") and "stain_…" in comments)
            assert named or name.removesuffix("_degrees") in comments, f"{name} differs without a word"


@pytest.mark.parametrize("model", ["vgg_frozen", "vgg_ft"])
def test_a_vgg_trains_and_its_model_is_the_whole_one(model, data_dir, tmp_path):
    from trainers.evaluation.predictions import load_model
    from trainers.input_pipeline import resident

    flags = [f"--flagfile={ROOT}/trainers/flagfiles/{model}.flags", "--vgg_weights=none", "--epochs=2"]
    flags += ["--batch_size=16", "--train_split=train[:48]", "--early_stopping_patience=1", "--export=saved_model"]
    result = run_command(f"trainers.{model}", *flags, f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert "VGG weights: none" in result.stdout
    assert {item.name for item in (tmp_path / "run").iterdir()} >= {"model.keras", "history.csv", "export"}
    assert not (tmp_path / "run/features").exists()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["input"]["mode"] == ("features" if model == "vgg_frozen" else "resident")
    whole = load_model(str(tmp_path / "run"))
    split = open_split(data_dir, "validation")
    cells = resident.load(split)
    probabilities = whole.predict(cells.images, verbose=0)[:, 0]
    loss = -(cells.labels * np.log(probabilities) + (1 - cells.labels) * np.log(1 - probabilities)).mean()
    best = min(row["val_loss"] for row in read_history(tmp_path / "run/history.csv"))
    assert loss == pytest.approx(best, rel=0.03), "the head's on features, to half precision"


def test_a_frozen_vgg_recomputes_when_cells_are_augmented(data_dir, tmp_path):
    flags = ("--vgg_weights=none", "--epochs=1", "--batch_size=16", "--train_split=train[:16]", "--flip=both")
    result = run_command("trainers.vgg_frozen", *flags, f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert "see every cell anew in each epoch" in result.stdout


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--vgg_weights=nowhere.npz"], ["--vgg_weights=nowhere.npz does not exist", "imagenet"]),
        (["--vgg_weights=none", "--export=onnx,pdf"], ["pdf", "saved_model"]),
    ],
)
def test_vgg_mistakes(flags, expected, data_dir, tmp_path):
    result = run_command("trainers.vgg_ft", *flags, f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}")
    assert_one_line_error(result, *expected)
    assert not list((tmp_path / "run").rglob("*")), "with the mistake mended, the same folder can be used"


def test_folds_train_when_the_splits_are_given(data_dir, tmp_path):
    flags = ("--config=folds", "--train_split=fold_0+fold_1+fold_2", "--validation_split=fold_3", "--test_split=fold_4")
    result = train(data_dir, tmp_path / "run", *flags, "--epochs=1")
    assert result.returncode == 0, result.stderr
    result = evaluate(data_dir, [tmp_path / "run"], tmp_path / "report")
    assert json.loads((tmp_path / "report/metrics.json").read_text())["models"]["basic_cnn"]["split"] == "fold_4"
