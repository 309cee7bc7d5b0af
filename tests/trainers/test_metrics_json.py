import numpy as np
import pytest
from evaluating import OPTIONS, build_entry, make_predictions, model_predictions

from trainers.evaluation.metrics import metrics, thresholds
from trainers.evaluation.report import metrics_json


def test_an_entry_has_the_documented_form():
    entry = build_entry(model_predictions(make_predictions()))
    assert (entry["split"], entry["num_cells"], entry["num_patients"]) == ("fold_0", 600, 40)
    assert set(entry["confusion"]) == {"tn", "fp", "fn", "tp"}
    for name in metrics.NAMES:
        assert set(entry[name]) == {"value", "ci95"}
        low, high = entry[name]["ci95"]
        assert low < entry[name]["value"] < high
    assert tuple(entry["operating_points"]) == thresholds.NAMES
    assert entry["operating_points"]["default"]["confusion"] == entry["confusion"]
    assert entry["folds"] is None


def test_pooled_folds_use_their_own_thresholds_and_temperatures():
    points = dict.fromkeys(thresholds.NAMES, 0.5)
    fitted = (
        thresholds.Thresholds("a", 1, 1, points | {"youden": 0.0}, 1.0),
        thresholds.Thresholds("b", 1, 1, points, 2.0),
    )
    model = model_predictions(make_predictions(), 2, fitted)
    entry = build_entry(model)
    labels, probabilities, *_ = make_predictions()
    predictions = np.where(np.arange(600) < 300, 1, probabilities >= 0.5)
    assert entry["operating_points"]["youden"]["confusion"]["tp"] == int((predictions * labels).sum())
    assert entry["operating_points"]["youden"]["thresholds"] == [0.0, 0.5]
    np.testing.assert_allclose(model.calibrated_probabilities[:300], probabilities[:300], rtol=1e-6)
    np.testing.assert_allclose(
        model.calibrated_probabilities[300:], thresholds.apply_temperature(probabilities[300:], 2.0)
    )
    folds = entry["folds"]["accuracy"]
    halves = [np.mean((probabilities[part] >= 0.5) == labels[part]) for part in (slice(300), slice(300, 600))]
    assert folds["values"] == pytest.approx(halves)
    assert folds["mean"] == pytest.approx(np.mean(halves))
    assert folds["sd"] == pytest.approx(np.std(halves, ddof=1))


def test_a_comparison_is_the_difference():
    model = model_predictions(make_predictions())
    worse = model._replace(predictions=model.predictions._replace(probabilities=model.predictions.probabilities * 0.8))
    named = [
        item._replace(model_runs=item.model_runs._replace(name=name)) for name, item in (("a", model), ("b", worse))
    ]
    (compared,) = metrics_json.build(named, OPTIONS)["comparisons"]
    assert compared["models"] == ["a", "b"]
    difference = compared["difference"]["sensitivity"]
    assert difference["value"] > 0
    assert difference["ci95"][0] < difference["value"] < difference["ci95"][1]


def test_the_table_shows_every_model():
    entry = build_entry(model_predictions(make_predictions()))
    entries = {"basic_cnn": entry, "vgg_ft": entry | {"auc": {"value": 0.5, "ci95": None}}}
    text = metrics_json.as_table(entries, "patient")
    assert text.startswith("fold_0: 600 cells of 40 patients; 95 % intervals over patients\n")
    text = metrics_json.as_table(entries | {"basic_cnn": entry | {"num_patients": 1}}, "slide")
    assert text.startswith("fold_0: 600 cells of 1 slide; 95 % intervals over slides\n")
    assert "basic_cnn" in text
    assert f"{entry['auc']['value']:.4f} ({entry['auc']['ci95'][0]:.3f}" in text
