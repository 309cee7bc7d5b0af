"""Thresholds and temperature: how they are fitted, and that the file holds for one model."""

import json
import os

import numpy as np
import pytest
from evaluating import fit, make_predictions, run_record
from scipy import special

from pipeline.errors import InputError
from pipeline.records.manifest import compute_checksum
from trainers import run_dir
from trainers.evaluation.metrics import bootstrap, metrics, thresholds


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / run_dir.MODEL).write_bytes(b"model")
    run_dir.write(str(tmp_path), run_record())
    return str(tmp_path)


def test_thresholds_by_brute_force():
    labels, probabilities, *_ = make_predictions()
    fitted = thresholds.fit_thresholds(labels, probabilities)
    assert tuple(fitted) == thresholds.NAMES
    assert fitted["default"] == 0.5

    def rates(threshold):
        counts = metrics.confusion(labels, probabilities >= threshold)
        return counts["tp"] / (counts["tp"] + counts["fn"]), counts["tn"] / (counts["tn"] + counts["fp"])

    all_rates = [rates(threshold) for threshold in [*probabilities, 1.0]]
    assert sum(rates(fitted["youden"])) == pytest.approx(max(map(sum, all_rates)))
    sensitivity, specificity = rates(fitted["specificity_95"])
    assert specificity >= 0.95
    assert sensitivity == max(one for one, other in all_rates if other >= 0.95)
    sensitivity, specificity = rates(fitted["sensitivity_95"])
    assert sensitivity >= 0.95
    assert specificity == max(other for one, other in all_rates if one >= 0.95)


def test_a_threshold_lies_between_cells_and_in_range():
    fitted = thresholds.fit_thresholds(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9]))
    assert fitted["youden"] == pytest.approx(0.4)
    fitted = thresholds.fit_thresholds(np.array([1, 0]), np.array([0.2, 1.0]))  # best predicts no cell parasitized
    assert 0 <= min(fitted.values()) <= max(fitted.values()) <= 1


def test_the_temperature_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    labels = (rng.random(20_000) < special.expit(logits)).astype(int)
    overconfident = special.expit(2.5 * logits)
    temperature = thresholds.fit_temperature(labels, overconfident)
    assert temperature == pytest.approx(2.5, rel=0.05)
    scaled = thresholds.apply_temperature(overconfident, temperature)
    assert metrics.log_loss(labels, scaled) < metrics.log_loss(labels, overconfident)
    before, after = bootstrap.compute(labels, overconfident), bootstrap.compute(labels, scaled)
    assert all(after[name] < before[name] for name in ("brier", "ece"))


def test_temperature_scaling_keeps_predictions_and_accepts_certainty():
    probabilities = np.array([0.0, 0.3, 0.5, 0.7, 1.0])
    scaled = thresholds.apply_temperature(probabilities, 3.0)
    assert ((scaled >= 0.5) == (probabilities >= 0.5)).all()
    assert (np.diff(scaled) > 0).all()
    assert np.isfinite(metrics.log_loss(np.array([1, 0, 1, 0, 1]), probabilities))


def test_one_class_has_the_defaults_and_the_reason():
    fitted = thresholds.fit("validation[:9]", np.ones(9, int), np.full(9, 0.7), np.array(["a", ""] * 4 + ["b"]))
    assert (fitted.thresholds, fitted.temperature) == ({"default": 0.5}, 1.0)
    assert (fitted.num_cells, fitted.num_patients) == (9, 2)
    assert fitted.not_fitted == "--validation_split=validation[:9] has cells of one class only"


def test_the_file_holds_for_one_model(run_folder, tmp_path):
    fitted = fit(make_predictions())
    assert thresholds.read(run_folder, False) is None
    thresholds.write(run_folder, fitted, fitted._replace(temperature=2.0))
    assert thresholds.read(run_folder, False) == fitted
    assert thresholds.read(run_folder, True).temperature == 2.0
    assert set(json.loads((tmp_path / "thresholds.json").read_text())) == {
        "checksum",
        "model_sha256",
        "without_test_time_flips",
        "with_test_time_flips",
    }
    (tmp_path / run_dir.MODEL).write_bytes(b"another")
    assert thresholds.read(run_folder, False) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", pytest.param("[" * 100_000, id="deep"), '{"model_sha256": 3}'])
def test_a_corrupt_file_is_an_error(run_folder, tmp_path, content):
    (tmp_path / thresholds.FILE).write_text(content)
    with pytest.raises(InputError, match=r"cannot be read .* remove it and run its training command again"):
        thresholds.read(run_folder, False)


def test_a_changed_digit_or_a_fifo_is_an_error(run_folder, tmp_path):
    path, fitted = tmp_path / thresholds.FILE, fit(make_predictions())
    thresholds.write(run_folder, fitted, fitted._replace(temperature=2.5))
    path.write_text(path.read_text().replace("2.5", "3.5"))
    with pytest.raises(InputError, match="its checksum does not fit"):
        thresholds.read(run_folder, True)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a regular file"):
        thresholds.read(run_folder, True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"thresholds": {"default": 0.5}}, "has the thresholds"),
        ({"thresholds": ["youden"]}, "keys"),
        *(({"youden": value}, "its threshold youden is") for value in (float("nan"), -0.1, 1.5, "0.5", None, True)),
        *(({"temperature": value}, "its temperature is") for value in (float("nan"), 0, -1.0, float("inf"), "1", None)),
        ({"split": 3}, "its split or not_fitted is no text"),
        ({"num_patients": -1}, "its num_patients is -1"),
        ({"unknown": 1}, "unexpected keyword"),
    ],
)
def test_values_that_are_never_written_are_errors(run_folder, tmp_path, changed, message):
    fitted = fit(make_predictions())
    thresholds.write(run_folder, fitted, fitted)
    content = json.loads((tmp_path / thresholds.FILE).read_text())
    del content["checksum"]
    entry = content["without_test_time_flips"]
    (entry["thresholds"] if "youden" in changed else entry).update(changed)
    content["checksum"] = compute_checksum(content)
    (tmp_path / thresholds.FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{thresholds.FILE} cannot be read .*{message}.*remove it"):
        thresholds.read_threshold("youden", run_folder, False)
    thresholds.read_threshold("youden", run_folder, True)


def test_the_flag_threshold(run_folder):
    assert thresholds.read_threshold("default", run_folder, False) == 0.5
    assert thresholds.read_threshold("0.25", run_folder, False) == 0.25
    with pytest.raises(InputError, match=r"no thresholds.json for its model; run its training command again"):
        thresholds.read_threshold("youden", run_folder, False)
    fitted = fit(make_predictions())
    thresholds.write(run_folder, fitted, thresholds.defaults("validation has cells of one class only"))
    assert thresholds.read_threshold("youden", run_folder, False) == fitted.thresholds["youden"]
    with pytest.raises(InputError, match="has no threshold youden: validation has cells of one class only"):
        thresholds.read_threshold("youden", run_folder, True)
    for value in ("1.5", "-0.1", "nan", "yuoden"):
        with pytest.raises(InputError, match=f"--threshold={value} is neither a number in 0…1 nor"):
            thresholds.read_threshold(value, run_folder, False)
