"""The evaluation from run folders to a folder with the verdict."""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line_error, prepare, run_command, small_model, write_run

from pipeline.errors import InputError
from trainers import run_dir
from trainers.evaluation import evaluate, predict_runs, predictions, runs
from trainers.evaluation.data_set import DataSet
from trainers.evaluation.report import gradcam
from trainers.evaluation_flags import Options

OPTIONS = Options(batch_size=32, test_time_flips=False, num_resamples=100, bootstrap_seed=0, prevalence=0.01)


@pytest.fixture
def run(data_dir, tmp_path):
    return write_run(tmp_path / "runs" / "basic_cnn", data_dir, small_model())


def judge(data_dir, run_dirs, output_dir, config=None, split=None, options=OPTIONS):
    config, planned = runs.plan([str(path) for path in run_dirs], config, split)
    text = evaluate.evaluate(planned, DataSet(str(data_dir), config), options, str(output_dir))
    return text, json.loads((output_dir / "metrics.json").read_text())


def test_the_report_is_whole(run, data_dir, tmp_path):
    other = write_run(tmp_path / "runs" / "vgg_ft", data_dir, small_model("vgg_ft", seed=1))
    text, found = judge(data_dir, [run, other], tmp_path / "report")
    assert set(found["models"]) == {"basic_cnn", "vgg_ft"}
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names >= {"metrics.json", "report.html", "suspected_label_errors.csv", "suspected_label_errors.png"}
    assert names >= {"model_card_basic_cnn.md", "model_card_vgg_ft.md", "metrics.png", "roc.png"}
    for kind in ("confusion", "learning_curves", "mistakes", "patient_strip", "reliability"):
        assert f"basic_cnn_{kind}.png" in names
    assert not [name for name in names if name.startswith(".")]
    assert "Few patients" in text
    page = (tmp_path / "report" / "report.html").read_text()
    entry = found["models"]["vgg_ft"]
    assert f"{entry['auc']['value']:.4f}" in page
    assert "basic_cnn minus vgg_ft" in page
    card = (tmp_path / "report" / "model_card_vgg_ft.md").read_text()
    assert "Not a medical device" in card
    assert f"| AUC (ROC) | {entry['auc']['value']:.4f} |" in card
    (comparison,) = found["comparisons"]
    difference = comparison["difference"]["accuracy"]["value"]
    values = [found["models"][name]["accuracy"]["value"] for name in comparison["models"]]
    assert difference == pytest.approx(values[0] - values[1])


def test_the_numbers_are_the_models(run, data_dir, tmp_path):
    _, found = judge(data_dir, [run], tmp_path / "report")
    entry = found["models"]["basic_cnn"]
    data_set = DataSet(str(data_dir), "by_patient")
    (split,) = data_set.open([runs.Member(str(run), {}, "test")])
    model = predictions.load_model(str(run))
    said = predictions.predict_split(predictions.predictor(model, 7), split, 7, "test")
    assert entry["num_cells"] == len(said.labels) == split.num_cells
    assert entry["num_patients"] == len(set(said.patient_ids))
    assert entry["accuracy"]["value"] == np.mean((said.probabilities >= 0.5) == said.labels)
    with (tmp_path / "report" / "suspected_label_errors.csv").open(newline="") as file:
        assert {row["filename"] for row in csv.DictReader(file)} <= set(said.filenames.tolist())
    kept = json.loads((run / "operating_points.json").read_text())["without_test_time_flips"]
    assert kept["split"] == "validation"
    assert entry["operating_points"]["youden"]["thresholds"] == [kept["thresholds"]["youden"]]


def test_the_same_run_gives_the_same_files(run, data_dir, tmp_path):
    judge(data_dir, [run], tmp_path / "a")
    judge(data_dir, [run], tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_test_time_flips_do_not_depend_on_how_a_cell_lies(run):
    model = predictions.load_model(str(run))
    images = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    predict = predictions.predictor(model, 8, test_time_flips=True)
    expected = predict(images)
    for turned in (images[:, ::-1], images[:, :, ::-1], np.rot90(images, axes=(1, 2)), images.transpose(0, 2, 1, 3)):
        np.testing.assert_allclose(predict(np.ascontiguousarray(turned)), expected, rtol=1e-5)
    views = [np.rot90(part, k, axes=(1, 2)) for k in range(4) for part in (images, images[:, :, ::-1])]
    mean = np.mean([model.predict(np.ascontiguousarray(view), verbose=0)[:, 0] for view in views], axis=0)
    np.testing.assert_allclose(expected, mean, rtol=1e-5)
    assert not np.allclose(expected, predictions.predictor(model, 8)(images))


def test_flips_have_operating_points_of_their_own(run, data_dir, tmp_path):
    judge(data_dir, [run], tmp_path / "plain")
    _, found = judge(data_dir, [run], tmp_path / "flips", options=OPTIONS._replace(test_time_flips=True))
    assert found["models"]["basic_cnn"]["test_time_flips"]
    kept = json.loads((run / "operating_points.json").read_text())
    assert kept["with_test_time_flips"] != kept["without_test_time_flips"]


# leaks and foreign data


def test_a_leak_stands_at_the_top(run, data_dir, tmp_path):
    text, found = judge(data_dir, [run], tmp_path / "report", config="folds", split="fold_0")
    leak = found["models"]["basic_cnn"]["leak"]
    assert leak["train_patients"]
    assert text.index("leak: basic_cnn was trained on") < text.index("caution:")
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.index('class="caution leak"') < page.index("All metrics")


def test_by_cell_always_leaks(data_dir, tmp_path):
    path = write_run(tmp_path / "run", data_dir, small_model(), "by_cell")
    _, found = judge(data_dir, [path], tmp_path / "report")
    assert found["cautions"][0]["severity"] == "leak"
    assert found["models"]["basic_cnn"]["leak"]["train_patients"]


def test_unknown_patients_are_said_to_be_unknown(synthetic_zip, tmp_path):
    anonymous = tmp_path / "anonymous.zip"
    with zipfile.ZipFile(synthetic_zip) as cells, zipfile.ZipFile(anonymous, "w") as out:
        for number, name in enumerate(cells.namelist()):
            if name.endswith(".png"):
                out.writestr(f"{Path(name).parent}/{number}.png", cells.read(name))
    prepare(anonymous, tmp_path / "data", config="by_cell", image_size_px=32)
    path = write_run(tmp_path / "run", tmp_path / "data", small_model(), "by_cell")
    text, found = judge(tmp_path / "data", [path], tmp_path / "report")
    assert "cells of unknown patients; no intervals over patients" in text
    assert "patients of the test may have been trained on" in text
    assert "few validation patients" not in text
    assert "No patients are known" in text
    entry = found["models"]["basic_cnn"]
    assert (entry["num_patients"], entry["auc"]["ci95"]) == (0, None)
    assert "of unknown patients</h1>" in (tmp_path / "report" / "report.html").read_text()
    assert "cells of unknown patients" in (tmp_path / "report" / "model_card_basic_cnn.md").read_text()


def test_no_leak_between_patients(run, data_dir, tmp_path):
    _, found = judge(data_dir, [run], tmp_path / "report")
    leak = found["models"]["basic_cnn"]["leak"]
    assert leak == {"is_external": False, "train_patients": [], "validation_patients": []}
    assert "leak" not in {caution["severity"] for caution in found["cautions"]}


def test_old_runs_without_patients_are_judged(run, data_dir, tmp_path):
    record = run_dir.read(str(run))
    del record["data"]["train_patients"], record["data"]["validation_patients"]
    run_dir.write(str(run), record)
    text, found = judge(data_dir, [run], tmp_path / "report")
    assert found["models"]["basic_cnn"]["leak"]["train_patients"] is None
    assert "no leak check" in text


def test_another_source_is_external(run, data_dir, tmp_path):
    record = run_dir.read(str(run))
    record["data"] |= {"fingerprint": "of another source", "train_patients": ["X1"], "validation_patients": ["X2"]}
    run_dir.write(str(run), record)
    text, found = judge(data_dir, [run], tmp_path / "report")
    entry = found["models"]["basic_cnn"]
    assert entry["leak"]["is_external"]
    assert "External data" in text
    assert set(entry["operating_points"]) == {"default"}, "its validation split is not here"
    assert entry["calibration"] is None


def test_external_data_knows_the_points_that_were_kept(run, data_dir, tmp_path):
    judge(data_dir, [run], tmp_path / "first")
    record = run_dir.read(str(run))
    record["data"]["fingerprint"] = "of another source"
    run_dir.write(str(run), record)
    _, found = judge(data_dir, [run], tmp_path / "report")
    assert len(found["models"]["basic_cnn"]["operating_points"]) == 4


# folds


def write_folds(data_dir, folder, name="basic_cnn", num_folds=5):
    folds = [f"fold_{i}" for i in range(5)]
    paths = []
    for i in range(num_folds):
        test, validation, *train = folds[i:] + folds[:i]
        splits = ("+".join(train), validation, test)
        paths.append(write_run(folder / f"fold_{i}", data_dir, small_model(name, seed=i), "folds", splits))
    return paths


def test_out_of_fold_predictions_are_pooled(data_dir, tmp_path):
    paths = write_folds(data_dir, tmp_path / "cv")
    text, found = judge(data_dir, paths, tmp_path / "report")
    entry = found["models"]["basic_cnn"]
    assert entry["split"] == "fold_0+fold_1+fold_2+fold_3+fold_4"
    assert len(entry["folds"]["accuracy"]["values"]) == 5
    assert entry["leak"]["train_patients"] == []
    assert entry["num_patients"] == 16
    assert "over 5 folds" in text
    assert "the probabilities are out-of-fold" in (tmp_path / "report" / "report.html").read_text()


# bad inputs


def test_models_that_do_not_fit(run, data_dir, tmp_path):
    other = write_run(tmp_path / "runs" / "large", data_dir, small_model(size=48))
    with pytest.raises(InputError, match=r"takes images of shape \(48, 48, 3\), the data set has \(32, 32, 3\)"):
        judge(data_dir, [other], tmp_path / "report")
    import keras

    image = keras.Input((32, 32, 3), dtype="uint8")
    two = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)), name="two")
    with pytest.raises(InputError, match="expected one probability a cell"):
        judge(data_dir, [write_run(tmp_path / "runs" / "two", data_dir, two)], tmp_path / "report")
    logit = keras.Model(image, keras.layers.Dense(1)(keras.layers.Flatten()(image)), name="logit")
    with pytest.raises(InputError, match="gives no probabilities in 0…1"):
        judge(data_dir, [write_run(tmp_path / "runs" / "logit", data_dir, logit)], tmp_path / "report")
    assert not list((tmp_path / "report").iterdir())


def test_labels_that_do_not_fit(run, data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    path = tmp_path / "data/tfds_malaria/by_patient/1.0.0/label.labels.txt"
    path.write_text("sick\nwell\n")
    with pytest.raises(InputError, match="has the labels sick, well; expected uninfected, parasitized in this order"):
        judge(tmp_path / "data", [run], tmp_path / "report")


def test_an_output_folder_that_cannot_be(run, data_dir, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        judge(data_dir, [run], tmp_path / "file" / "report")


def test_one_class_or_no_cell_is_refused(run, data_dir, tmp_path):
    with pytest.raises(InputError, match="cells of one class only"):
        judge(data_dir, [run], tmp_path / "report", split="test[:1]")
    with pytest.raises(InputError, match="has no cells"):
        judge(data_dir, [run], tmp_path / "report", split="test[:0]")


def test_the_command(run, data_dir, tmp_path):
    flags = (f"--data_dir={data_dir}", f"--output_dir={tmp_path / 'report'}", "--num_resamples=100")
    result = run_command("trainers.evaluate", f"--run_dirs={run}", *flags)
    assert result.returncode == 0, result.stderr
    assert "95 % intervals over patients" in result.stdout
    assert str(tmp_path / "report" / "report.html") in result.stdout
    assert_one_line_error(run_command("trainers.evaluate", f"--run_dirs={tmp_path}", *flags), "is no run")
    result = run_command("trainers.evaluate", f"--run_dirs={run}", *flags, "--split=tset")
    assert_one_line_error(result, "--split=tset is no split")


# Grad-CAM


def test_grad_cam_finds_what_speaks_for_the_call():
    import keras
    from keras import layers

    image = keras.Input((16, 16, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(1, 1, kernel_initializer="ones", name="brightness")(x)
    x = layers.Flatten()(x)
    model = keras.Model(image, layers.Dense(1, activation="sigmoid", kernel_initializer="ones")(x))
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[0, 2:5, 9:12] = 255
    maps = gradcam.heatmaps(model, images)
    assert maps.shape == (2, 16, 16)
    assert maps.dtype == np.float32
    assert maps.max() == 1
    np.testing.assert_array_equal(maps[0] > 0.5, images[0, :, :, 0] > 0)
    assert not maps[1].any(), "nothing there"
    shown = gradcam.overlay(images, maps)
    assert (shown[0, 3, 10] != images[0, 3, 10]).any()
    np.testing.assert_array_equal(shown[1], images[1])


def test_grad_cam_in_half_precision_and_without_convolutions():
    import keras
    from keras import layers

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
    maps = gradcam.heatmaps(half, images)
    assert np.isfinite(maps).all()
    assert maps.max() <= 1
    image = keras.Input((32, 32, 3))
    flat = keras.Model(image, layers.Dense(1, activation="sigmoid")(layers.Flatten()(image)))
    assert gradcam.heatmaps(flat, images) is None


def test_predictions_keep_their_order(run, data_dir):
    data_set = DataSet(str(data_dir), "by_patient")
    _, (candidate,) = runs.plan([str(run)], None, "train[:20]+test[:20]")
    found = predict_runs.judge(candidate, data_set, 16, False).predictions
    splits = data_set.open(candidate.members)
    images = predictions.fetch_images(splits, found.filenames.tolist())
    assert len(images) == 40
    model = predictions.load_model(str(run))
    again = model.predict(np.stack([images[name] for name in found.filenames.tolist()]), verbose=0)[:, 0]
    np.testing.assert_allclose(found.probabilities, again, rtol=1e-5)
