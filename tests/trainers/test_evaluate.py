"""The evaluation from run folders to a folder with the report."""

import csv
import html
import re
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import assert_one_line_error, flip_bit, open_split, prepare, run_in_process, small_model, write_run
from evaluating import NO_LEAK, OPTIONS, evaluate_runs

from pipeline.errors import InputError
from trainers import run_dir
from trainers.evaluation import predictions
from trainers.evaluation.metrics import thresholds
from trainers.evaluation.report import image_grid, plots, writer


@pytest.fixture
def no_pictures(monkeypatch):
    """For tests of words and numbers: figures become neither PNG nor SVG, which takes most of a report's time."""
    monkeypatch.setattr(plots, "save", lambda *_: None)
    monkeypatch.setattr(plots, "to_svg", lambda *_: "")


def test_the_report_is_complete(small_report):
    folder, text, contents = small_report.folder, small_report.text, small_report.metrics
    assert set(contents["models"]) == {"basic_cnn", "vgg_ft"}
    names = {path.name for path in folder.iterdir()}
    assert names >= {"metrics.json", "report.html", "suspected_label_errors.csv"}
    assert names >= {"model_card_basic_cnn.md", "model_card_vgg_ft.md", "roc.png"}
    for kind in ("confusion", "learning_curves", "mistakes", "patient_strip", "reliability"):
        assert f"basic_cnn_{kind}.png" in names
    assert not [name for name in names if name.startswith(".")]
    page = (folder / "report.html").read_text()
    assert "cannot say whether a patient is infected" in page
    assert "the largest number could as well be anything from" in page
    assert "A smear of 5,000 cells, at threshold 0.5" in page
    assert not re.search(
        r"\b(\S+) to \1\b(?![.,]\d)|[–] %|\bnan\b", re.sub(r"<svg.*?</svg>|data:[^\"]*", "", page, flags=re.S)
    )
    for title in ("What this means", "All metrics", "vgg_ft: calibration", "Words"):
        (number,) = re.findall(f'<h2 id="(section-[0-9]+)">{title}</h2>', page)
        assert f'<a href="#{number}">{title}</a>' in page
    for warning in ("Few patients", "shows 11 differences"):
        assert warning in text
        assert warning in page
        assert any(warning in shown["text"] for shown in contents["warnings"])
    entry = contents["models"]["vgg_ft"]
    assert f"{entry['auc']['value']:.4f}" in page
    assert "basic_cnn minus vgg_ft" in page
    card = (folder / "model_card_vgg_ft.md").read_text()
    assert "Not a medical device" in card
    assert "How many infected patients would be missed?" in page
    assert "How many infected patients would be missed?" in card
    assert not re.search("NLM|National Library|Bangladesh|ublished results", page + card), "synthetic cells"
    assert f"| AUC (ROC) | {entry['auc']['value']:.4f} |" in card


def test_the_metrics_are_those_of_the_model(small_run, small_report, data_dir):
    entry, split = small_report.metrics["models"]["basic_cnn"], open_split(data_dir, "test")
    predict = predictions.predictor(predictions.load_model(str(small_run)), 7)
    expected = predictions.predict_split(predict, split, 7, "test")[0]
    assert entry["num_cells"] == len(expected.labels) == split.num_cells
    assert entry["num_patients"] == len(set(expected.patient_ids))
    assert entry["accuracy"]["value"] == np.mean((expected.probabilities >= 0.5) == expected.labels)
    with (small_report.folder / "suspected_label_errors.csv").open(newline="") as file:
        assert {row["filename"] for row in csv.DictReader(file)} <= set(expected.filenames.tolist())
    fitted = thresholds.read(str(small_run), False)
    assert fitted.split == "validation"
    assert entry["operating_points"]["youden"]["thresholds"] == [fitted.thresholds["youden"]]


def test_it_only_reads(small_report):
    assert small_report.before == small_report.after
    for name in ("manifest.json", "thresholds.json"):
        assert any(name in files for files in small_report.before)


def test_the_command_writes_the_same_files_again(small_report, data_dir, tmp_path):
    flags = (f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--num_resamples=100", "--batch_size=32")
    result = run_in_process("trainers.evaluate", f"--run_dirs={','.join(map(str, small_report.run_dirs))}", *flags)
    assert result.returncode == 0, result.stderr
    assert "95 % intervals over patients" in result.stdout
    assert str(tmp_path / "report.html") in result.stdout
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files == {path.name: path.read_bytes() for path in small_report.folder.iterdir()}


def test_nothing_of_an_earlier_evaluation_stays(small_run, small_report, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "write", lambda *_: {})
    shutil.copytree(small_report.folder, tmp_path / "report")
    (tmp_path / "report/notes.txt").touch()
    (tmp_path / "report/.partial-killed/x").mkdir(parents=True)
    for _ in range(2):
        folder, _, contents = evaluate_runs(data_dir, [small_run], tmp_path / "report")
        assert list(contents["models"]) == ["basic_cnn"], "there were two"
        assert {path.name for path in folder.iterdir()} == {"metrics.json", "suspected_label_errors.csv", "notes.txt"}
        (folder / "metrics.json").write_text("[]")  # not one of ours


def test_a_report_goes_into_no_run_and_no_data_set(small_run, data_dir):
    for folder in (small_run, next(data_dir.glob("tfds_malaria/by_patient/*"))):
        with pytest.raises(InputError, match=r"is the folder of a (run|data set): .*; give another"):
            evaluate_runs(data_dir, [small_run], folder)


def test_two_evaluations_do_not_share_a_folder(small_run, data_dir, tmp_path):
    with (
        run_dir.lock(str(tmp_path), "--output_dir", "evaluate.lock"),
        pytest.raises(InputError, match=r"holds .*evaluate.lock\); wait until it has ended"),
    ):
        evaluate_runs(data_dir, [small_run], tmp_path)


def test_a_run_without_thresholds_is_evaluated_with_the_default(small_report):
    entry = small_report.metrics["models"]["vgg_ft"]
    assert list(entry["operating_points"]) == ["default"]
    assert entry["calibration"] is None
    assert "Only the threshold 0.5 is reported for vgg_ft" in small_report.text
    assert "python -m trainers.vgg_ft --run_dir=" in small_report.text


# leaks and foreign data


def test_leaks_are_at_the_top(small_report):
    folder, text, contents = small_report.folder, small_report.text, small_report.metrics
    assert contents["models"]["vgg_ft"]["leak"]["train_patients"]
    assert contents["warnings"][0]["severity"] == "leak"
    assert text.index("leak: vgg_ft was trained on") < text.index("warning:")
    page = (folder / "report.html").read_text()
    assert page.index('class="warning leak"') < page.index("All metrics")
    assert contents["models"]["basic_cnn"]["leak"] == NO_LEAK


@pytest.mark.usefixtures("no_pictures")
def test_a_data_set_that_was_made_anew_is_named(small_run, synthetic_zip, tmp_path):
    prepare(synthetic_zip, tmp_path / "data", split_seed=7, image_size_px=32, cells_per_shard=20)
    folder, text, contents = evaluate_runs(tmp_path / "data", [small_run], tmp_path / "report")
    warning = "The data set is not the one that basic_cnn was trained on: its data set&#39;s split_seed was 42, is 7."
    assert warning in (folder / "report.html").read_text()
    assert f"warning: {html.unescape(warning)}" in text
    assert contents["models"]["basic_cnn"]["leak"]["train_patients"]
    assert text.startswith("test: ")
    assert "leak: basic_cnn was trained on" in text


@pytest.mark.usefixtures("no_pictures")
def test_cells_of_unknown_patients(synthetic_zip, tmp_path):
    anonymous = tmp_path / "anonymous.zip"
    with zipfile.ZipFile(synthetic_zip) as cells, zipfile.ZipFile(anonymous, "w") as out:
        for number, name in enumerate(cells.namelist()):
            if name.endswith(".png"):
                out.writestr(f"{Path(name).parent}/{number}.png", cells.read(name))
    prepare(anonymous, tmp_path / "data", config="by_cell", image_size_px=32)
    run = write_run(tmp_path / "run", tmp_path / "data", small_model(), "by_cell")
    folder, text, contents = evaluate_runs(tmp_path / "data", [run], tmp_path / "report")
    assert "cells of unknown patients; no intervals over patients" in text
    assert "test patients may be in the training split" in text
    assert "few validation patients" not in text
    entry = contents["models"]["basic_cnn"]
    assert (entry["num_patients"], entry["auc"]["ci95"]) == (0, None)
    assert entry["ci95_by_cell"]["accuracy"]
    assert "of unknown patients</h1>" in (folder / "report.html").read_text()
    assert "cells of unknown patients" in (folder / "model_card_basic_cnn.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_external_data_with_flips_has_the_thresholds_of_the_run(small_run, data_dir, tmp_path, monkeypatch):
    run = shutil.copytree(small_run, tmp_path / "run")
    record = run_dir.read(str(run))
    record["data"] |= {"fingerprint": "of another source", "train_patients": ["X1"], "validation_patients": ["X2"]}
    record["data"] |= {"is_nlm": True}
    run_dir.write(str(run), record)
    options = OPTIONS._replace(test_time_flips=True)

    def patient_noun(settings):
        return "slide"

    monkeypatch.setattr(writer, "patient_noun", patient_noun)
    folder, text, contents = evaluate_runs(data_dir, [run], tmp_path / "report", options=options)
    page, card = ((folder / name).read_text() for name in ("report.html", "model_card_basic_cnn.md"))
    for file in (page, card):
        assert "one hospital in Bangladesh" in file, "where the model was trained"
        assert "of another source" in file
        assert "95 % interval over slides" in card
        assert "cells of 1 slide" in file
    assert "published results" not in page, "which are about other cells"
    entry = contents["models"]["basic_cnn"]
    assert entry["leak"] == NO_LEAK | {"is_external": True}
    assert "External data" in text
    with_flips, without = (thresholds.read(str(small_run), flips) for flips in (True, False))
    assert with_flips != without
    assert entry["operating_points"]["youden"]["thresholds"] == [with_flips.thresholds["youden"]]


@pytest.mark.usefixtures("no_pictures")
def test_out_of_fold_predictions_are_pooled(data_dir, tmp_path):
    folds, run_dirs = [f"fold_{i}" for i in range(5)], []
    for i in range(2):
        test, validation, *train = folds[i:] + folds[:i]
        splits = ("+".join(train), validation, test)
        model = small_model(seed=i)
        run_dirs.append(write_run(tmp_path / "cv" / test, data_dir, model, "folds", splits))
        predictions.fit_thresholds(str(run_dirs[i]), model, open_split(data_dir, validation, "folds"), 32)
    folder, text, contents = evaluate_runs(data_dir, run_dirs, tmp_path / "report")
    entry = contents["models"]["basic_cnn"]
    assert entry["split"] == "fold_0+fold_1"
    assert len(entry["folds"]["accuracy"]["values"]) == 2
    assert entry["leak"] == NO_LEAK
    assert entry["operating_points"]["youden"]["chosen_on"] == ["fold_1", "fold_2"]
    assert entry["operating_points"]["youden"]["thresholds"] == [
        thresholds.read(str(run), False).thresholds["youden"] for run in run_dirs
    ]
    assert "over 2 folds" in text
    assert "The probabilities are out-of-fold" in (folder / "report.html").read_text()
    record = run_dir.read(str(run_dirs[0]))
    record["flags"]["test_split"] = "fold_0+fold_1"
    run_dir.write(str(run_dirs[0]), record)
    with pytest.raises(InputError, match=r"fold_0\+fold_1 and fold_1 of the runs share \d+ cells"):
        evaluate_runs(data_dir, run_dirs, tmp_path / "report")


# faults


def test_no_picture_decides_over_a_result(small_run, data_dir, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no \x1b <picture>")

    failing = {"roc.png": (plots, "roc_and_precision_recall"), "basic_cnn_confusion.png": (plots, "confusion")}
    failing |= {"Grad-CAM of basic_cnn": (image_grid, "heatmaps")}
    for module, function in failing.values():
        monkeypatch.setattr(module, function, fail)
    (tmp_path / "roc.png").touch()  # of an earlier evaluation
    folder, text, contents = evaluate_runs(data_dir, [small_run], tmp_path)
    page = (folder / "report.html").read_text()
    for part in failing:
        assert f"warning: {part} could not be made: RuntimeError: no \\x1b <picture>" in text
        assert f"{part} could not be made: RuntimeError: no \\x1b &lt;picture&gt;" in page
        assert not (folder / part).exists()
    assert (folder / "basic_cnn_mistakes.png").exists()
    monkeypatch.setattr(writer, "render", fail)
    monkeypatch.setattr(image_grid, "collect", fail)
    _, text, again = evaluate_runs(data_dir, [small_run], tmp_path)
    for part in ("report.html", "model_card_basic_cnn.md", "basic_cnn_mistakes.png"):
        assert f"{part} could not be made" in text
        assert not (folder / part).exists()
    assert again == contents


def test_a_corrupt_record_of_the_split_is_named(small_run, data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    shard = next((tmp_path / "data").glob("*/by_patient/*/*-test.tfrecord-00000-of-?????"))
    flip_bit(shard, 5000)
    flags = (f"--data_dir={tmp_path / 'data'}", f"--output_dir={tmp_path / 'report'}", f"--run_dirs={small_run}")
    assert_one_line_error(run_in_process("trainers.evaluate", *flags), shard.name, "record 1", "pipeline.verify")
    assert not (tmp_path / "report").exists()


# bad inputs


def test_models_that_do_not_fit(data_dir, tmp_path):
    image = keras.Input((32, 32, 3), dtype="uint8")
    two = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)), name="two")
    logit = keras.Model(image, keras.layers.Dense(1)(keras.layers.Flatten()(image)), name="logit")
    for model, message in (
        (small_model(size=48), r"takes images of shape \(48, 48, 3\), the data set has \(32, 32, 3\)"),
        (two, "expected one probability per cell"),
        (logit, "returns values outside 0…1"),
    ):
        run = write_run(tmp_path / f"{model.name}_run", data_dir, model)
        with pytest.raises(InputError, match=message):
            evaluate_runs(data_dir, [run], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_an_output_folder_that_cannot_be(small_run, data_dir, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        evaluate_runs(data_dir, [small_run], tmp_path / "file" / "report")


def test_one_class_or_no_cell_is_refused(small_run, data_dir, tmp_path):
    for split, message in (("test[:1]", "cells of one class only"), ("test[:0]", "has no cells")):
        with pytest.raises(InputError, match=message):
            evaluate_runs(data_dir, [small_run], tmp_path / "report", split=split)


def test_mistakes_are_one_line(small_run, data_dir, tmp_path):
    flags = (f"--data_dir={data_dir}", f"--output_dir={tmp_path / 'report'}")
    assert_one_line_error(run_in_process("trainers.evaluate", f"--run_dirs={tmp_path}", *flags), "is no run")
    result = run_in_process("trainers.evaluate", f"--run_dirs={small_run}", *flags, "--split=tset")
    assert_one_line_error(result, "--split=tset is no split")
    assert not (tmp_path / "report").exists()
