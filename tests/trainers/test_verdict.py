"""The pure parts of the verdict: thresholds, calibration, patients, leaks, suspects, published figures."""

import csv

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as reference

from pipeline.errors import InputError
from trainers.evaluation import leak, runs
from trainers.evaluation.metrics import calibration, label_issues, metrics, operating_points, patients, thresholds
from trainers.evaluation.model_predictions import ModelPredictions
from trainers.evaluation.predictions import Predictions
from trainers.evaluation.report import baselines, console, metrics_json, warnings


def cells(seed=0, num_cells=600, num_patients=40):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num_cells)
    probabilities = special.expit(rng.normal(3 * (2 * labels - 1), 2))
    names = np.array([f"Cells/C{i}.png" for i in range(num_cells)])
    patient_ids = np.array([f"C{i}" for i in rng.integers(0, num_patients, num_cells)])
    return Predictions(labels, probabilities, names, patient_ids)


def run_record(**data):
    flags = {"config": "by_patient", "test_split": "test", "validation_split": "validation"}
    return {"model": "basic_cnn", "status": "finished", "flags": flags, "data": {"fingerprint": "f", **data}}


def judged(predictions, num_members=1, choices=None, leaks=None):
    members = tuple(runs.Member(f"runs/{i}", run_record(), f"fold_{i}") for i in range(num_members))
    member = np.arange(len(predictions.labels)) * num_members // len(predictions.labels)
    chosen = choices or tuple(thresholds.choose("validation", cells(9)) for _ in members)
    found = leaks or {"is_external": False, "train_patients": [], "validation_patients": []}
    return ModelPredictions(runs.ModelRuns("basic_cnn", members), predictions, member, chosen, found, False)


def build(item, num_resamples=100):
    return metrics_json.build(item, metrics_json.resample(item, num_resamples, 0), num_resamples, 0, 0.01)


# operating points


def test_operating_points_by_brute_force():
    labels, probabilities, *_ = cells()
    chosen = operating_points.choose(labels, probabilities)
    assert set(chosen) == set(operating_points.NAMES)
    assert chosen["default"] == 0.5

    def rates(threshold):
        counts = metrics.confusion(labels, probabilities, threshold)
        return counts["tp"] / (counts["tp"] + counts["fn"]), counts["tn"] / (counts["tn"] + counts["fp"])

    all_rates = [rates(threshold) for threshold in [*probabilities, 1.0]]
    assert sum(rates(chosen["youden"])) == pytest.approx(max(map(sum, all_rates)))
    sensitivity, specificity = rates(chosen["specificity_95"])
    assert specificity >= 0.95
    assert sensitivity == max(one for one, other in all_rates if other >= 0.95)
    sensitivity, specificity = rates(chosen["sensitivity_95"])
    assert sensitivity >= 0.95
    assert specificity == max(other for one, other in all_rates if one >= 0.95)


def test_thresholds_lie_between_the_cells():
    chosen = operating_points.choose(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9]))
    assert chosen["youden"] == pytest.approx(0.4)


def test_thresholds_stay_in_range_when_the_best_is_to_call_nothing():
    chosen = operating_points.choose(np.array([1, 0]), np.array([0.2, 1.0]))
    assert 0 <= min(chosen.values()) <= max(chosen.values()) <= 1


# calibration


def test_temperature_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    labels = (rng.random(20_000) < special.expit(logits)).astype(int)
    overconfident = special.expit(2.5 * logits)
    temperature = calibration.fit_temperature(labels, overconfident)
    assert temperature == pytest.approx(2.5, rel=0.05)
    before = calibration.report(labels, overconfident)
    after = calibration.report(labels, calibration.apply_temperature(overconfident, temperature))
    for name in ("log_loss", "brier", "ece"):
        assert after[name] < before[name]
    assert before["log_loss"] == pytest.approx(reference.log_loss(labels, overconfident), rel=1e-3)


def test_temperature_keeps_calls_and_bears_certainty():
    probabilities = np.array([0.0, 0.3, 0.5, 0.7, 1.0])
    scaled = calibration.apply_temperature(probabilities, 3.0)
    assert ((scaled >= 0.5) == (probabilities >= 0.5)).all()
    assert (np.diff(scaled) > 0).all()
    assert np.isfinite(calibration.report(np.array([1, 0, 1, 0, 1]), probabilities)["log_loss"])


def test_reliability_agrees_with_scikit_learn():
    labels, probabilities, *_ = cells()
    found = calibration.reliability(labels, probabilities, 10)
    share, said = reference_curve(labels, probabilities)
    np.testing.assert_allclose(found.said, said)
    np.testing.assert_allclose(found.found, share)
    assert found.num_cells.sum() == len(labels)


def reference_curve(labels, probabilities):
    from sklearn.calibration import calibration_curve

    return calibration_curve(labels, probabilities, n_bins=10)


# patients


def test_patients_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 0])
    calls = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    counts = patients.count(labels, calls, np.array(["a"] * 4 + ["b"] * 4))
    assert [tuple(item) for item in counts] == [("a", 4, 0, 1, 0), ("b", 2, 2, 0, 1)]
    assert [item.is_infected for item in counts] == [False, True]
    assert [item.false_positives_per_1000 for item in counts] == [250, 0]
    assert [item.sensitivity for item in counts] == [None, 0.5]
    smear = patients.smear(counts, prevalence=0.01)
    # of 5,000 cells 50 are parasitized, half of them found; of 4,950 others a sixth is called so
    assert smear["true_positives"] == pytest.approx(25)
    assert smear["false_positives"] == pytest.approx(825)
    assert smear["positive_predictive_value"] == pytest.approx(25 / 850)
    assert smear["negative_predictive_value"] == pytest.approx(4125 / 4150)
    assert smear["uninfected_patients"] == {"num_patients": 1, "min": 1250, "median": 1250, "max": 1250}
    assert smear["hidden_below"] == pytest.approx(0.5)


def test_a_perfect_model_has_no_false_positives():
    labels = np.array([0, 1])
    smear = patients.smear(patients.count(labels, labels, np.array(["a", "b"])), 0.01)
    assert smear["positive_predictive_value"] == 1
    assert smear["hidden_below"] == 0


def test_a_split_without_uninfected_patients():
    labels, calls = np.array([0, 1]), np.array([0, 0])
    smear = patients.smear(patients.count(labels, calls, np.array(["a", "a"])), 0.01)
    assert smear["uninfected_patients"] is None
    assert smear["positive_predictive_value"] is None


# leaks


def test_leaks():
    run = run_record(train_patients=["C1", "C2"], validation_patients=["C3"])
    clean = leak.check(run, ["C4", "C5"], "f")
    assert clean == {"is_external": False, "train_patients": [], "validation_patients": []}
    assert leak.sentence("m", clean) is None
    found = leak.check(run, ["C1", "C3", "C9"], "other")
    assert found == {"is_external": True, "train_patients": ["C1"], "validation_patients": ["C3"]}
    text = leak.sentence("m", found)
    assert "trained on 1 patient (C1)" in text
    assert "another" in text


def test_runs_of_older_versions_are_no_error():
    found = leak.check(run_record(), ["C4"], "f")
    assert found["train_patients"] is None
    assert "no leak check" in leak.sentence("m", found)


def test_unknown_patients_cannot_be_checked():
    run = run_record(train_patients=["", "C1"], validation_patients=["C3"])
    assert leak.check(run, ["C4"], "f")["train_patients"] is None


def test_folds_leak_together():
    one = leak.check(run_record(train_patients=["C1"], validation_patients=[]), ["C1"], "f")
    other = leak.check(run_record(train_patients=["C2"], validation_patients=[]), ["C3"], "f")
    assert leak.merge([one, other])["train_patients"] == ["C1"]


# label errors


def test_swapped_labels_are_found(tmp_path):
    labels, probabilities, names, patient_ids = cells(num_cells=400)
    probabilities = special.expit(np.random.default_rng(1).normal(5 * (2 * labels - 1), 1))
    swapped = np.random.default_rng(2).choice(400, 20, replace=False)
    labels = labels.copy()
    labels[swapped] = 1 - labels[swapped]
    suspects = label_issues.find(labels, probabilities, names, patient_ids)
    found = {item.filename for item in suspects}
    assert found <= set(names[swapped])
    assert len(found) >= 10
    assert [item.label_probability for item in suspects] == sorted(item.label_probability for item in suspects)
    path = tmp_path / "suspects.csv"
    label_issues.write(suspects, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [item.filename for item in suspects]
    assert rows[0]["label"] in ("uninfected", "parasitized")


def test_no_suspects_where_all_agree():
    labels = np.array([0, 1])
    assert label_issues.find(labels, np.array([0.1, 0.9]), np.array(["a", "b"]), np.array(["p", "q"])) == []


# published figures


def test_published_figures_are_those_of_the_original():
    accuracy = {item.model: round(item.table()["accuracy"], 4) for item in baselines.ORIGINAL}
    assert accuracy == {"basic_cnn": 0.9497, "vgg_frozen": 0.9376, "vgg_ft": 0.9600}
    for item in baselines.ORIGINAL:
        labels = np.repeat([0, 0, 1, 1], item[1:])
        calls = np.repeat([0, 1, 0, 1], item[1:])
        expected = metrics.class_weighted(labels, calls)
        assert {name: item.table()[name] for name in expected} == pytest.approx(expected)


# entries of metrics.json


def test_entry_has_the_contracts_form():
    item = build(judged(cells()))
    assert (item["split"], item["num_cells"]) == ("fold_0", 600)
    assert item["num_patients"] == 40
    assert set(item["confusion"]) == {"tn", "fp", "fn", "tp"}
    for name in metrics.NAMES:
        assert set(item[name]) == {"value", "ci95"}
        low, high = item[name]["ci95"]
        assert low < item[name]["value"] < high
    assert set(item["operating_points"]) == set(operating_points.NAMES)
    assert item["operating_points"]["default"]["confusion"] == item["confusion"]
    assert item["folds"] is None


def test_pooled_folds_use_their_own_thresholds():
    points = dict.fromkeys(operating_points.NAMES, 0.5)
    choices = (thresholds.Choice("a", 1, 1, points | {"youden": 0.0}, 1.0), thresholds.Choice("b", 1, 1, points, 1.0))
    item = build(judged(cells(), 2, choices))
    counts = item["operating_points"]["youden"]["confusion"]
    labels, probabilities, *_ = cells()
    calls = np.where(np.arange(600) < 300, 1, probabilities >= 0.5)
    assert counts["tp"] == int((calls * labels).sum())
    folds = item["folds"]["accuracy"]
    parts = [np.mean((probabilities[part] >= 0.5) == labels[part]) for part in (slice(0, 300), slice(300, 600))]
    assert folds["values"] == pytest.approx(parts)
    assert folds["mean"] == pytest.approx(np.mean(parts))
    assert folds["sd"] == pytest.approx(np.std(parts, ddof=1))


def test_without_patients_there_are_intervals_over_cells_only():
    labels, probabilities, names, _ = cells()
    item = judged(Predictions(labels, probabilities, names, np.array([""] * 600)))
    found = build(item)
    assert found["num_patients"] == 0
    assert found["accuracy"]["ci95"] is None
    assert found["ci95_by_cell"]["accuracy"]
    assert any("No patients are known" in caution.text for caution in warnings.find(item, "by_patient"))


def test_comparison_is_the_difference():
    one, other = judged(cells()), judged(cells())
    worse = one._replace(predictions=one.predictions._replace(probabilities=one.predictions.probabilities * 0.8))
    compared = metrics_json.compare(
        ("a", metrics_json.resample(other, 100, 0)), ("b", metrics_json.resample(worse, 100, 0))
    )
    assert compared["models"] == ["a", "b"]
    difference = compared["difference"]["sensitivity"]
    assert difference["value"] > 0
    assert difference["ci95"][0] < difference["value"] < difference["ci95"][1]


def test_cautions():
    few = judged(cells(num_patients=12))
    texts = [caution.text for caution in warnings.find(few, "by_patient")]
    assert any(text.startswith("Few patients: 12") for text in texts)
    assert not [c for c in warnings.find(judged(cells()), "by_patient") if c.severity == "leak"]
    assert warnings.find(judged(cells()), "by_cell")[0].severity == "leak"
    external = {"is_external": True, "train_patients": ["C1"], "validation_patients": []}
    found = warnings.find(judged(cells(), leaks=external), "by_patient")
    assert {"leak", "note"} <= {caution.severity for caution in found}


def test_the_table_shows_every_model():
    item = build(judged(cells()))
    text = console.render({"basic_cnn": item, "vgg_ft": item | {"auc": {"value": 0.5, "ci95": None}}})
    assert "basic_cnn" in text
    assert f"{item['auc']['value']:.4f} ({item['auc']['ci95'][0]:.3f}" in text
    assert "600 cells of 40 patients" in text


# candidates


def write_run(folder, **flags):
    from trainers import run_dir

    folder.mkdir(parents=True)
    (folder / run_dir.MODEL).write_bytes(b"model")
    run = run_record()
    run["flags"] |= flags
    run_dir.write(str(folder), run)
    return str(folder)


def test_folds_are_pooled_by_model_and_folder(tmp_path):
    runs = [write_run(tmp_path / "a" / f"fold_{i}", config="folds", test_split=f"fold_{i}") for i in (1, 0)]
    config, (found,) = runs.plan(runs, None, None)
    assert config == "folds"
    assert found.name == "basic_cnn"
    assert found.split == "fold_0+fold_1"
    more = [write_run(tmp_path / "b" / f"fold_{i}", config="folds", test_split=f"fold_{i}") for i in (0, 1)]
    _, found = runs.plan([*runs, *more], None, None)
    assert [item.name for item in found] == ["a", "b"]
    _, found = runs.plan(runs, None, "fold_4")
    assert [item.name for item in found] == ["fold_1", "fold_0"]


def test_runs_that_do_not_fit_together(tmp_path):
    runs = [write_run(tmp_path / "a" / str(i), config="folds", test_split=f"fold_{i % 2}") for i in range(3)]
    with pytest.raises(InputError, match="share a --test_split"):
        runs.plan(runs, None, None)
    other = write_run(tmp_path / "b" / "0", config="folds", test_split="fold_3")
    with pytest.raises(InputError, match="runs of different folds"):
        runs.plan([*runs[:2], other], None, None)
    cell = write_run(tmp_path / "c" / "0", config="by_cell")
    with pytest.raises(InputError, match="differ in their --config: by_cell, folds"):
        runs.plan([runs[0], cell], None, None)
    with pytest.raises(InputError, match="names a folder twice"):
        runs.plan([runs[0], runs[0]], None, None)
    with pytest.raises(InputError, match="could not tell apart"):
        runs.plan([runs[0], other], None, "fold_4")
    with pytest.raises(InputError, match="--run_dirs is empty"):
        runs.plan([], None, None)


# what is chosen on validation


def test_a_choice_is_kept_for_one_model(tmp_path):
    folder = write_run(tmp_path / "run")
    chosen = thresholds.choose("validation", cells())
    assert thresholds.read(folder, False) is None
    thresholds.write(folder, False, chosen)
    thresholds.write(folder, True, chosen._replace(temperature=2.0))
    assert thresholds.read(folder, False) == chosen
    assert thresholds.read(folder, True).temperature == 2.0
    (tmp_path / "run/model.keras").write_bytes(b"another")
    assert thresholds.read(folder, False) is None
    (tmp_path / "run" / thresholds.FILE).write_text("{")
    with pytest.raises(InputError, match="remove it and run"):
        thresholds.read(folder, False)
