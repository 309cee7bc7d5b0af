"""Intervals over patients: they agree with scikit-learn's weighted metrics, and cover the truth in a simulation."""

import numpy as np
import pytest
from sklearn import metrics as reference

from trainers.evaluation.metrics import bootstrap, metrics

NUM_DATA_SETS = 200
NUM_PATIENTS = 60


def simulate_cells(rng, num_patients):
    """Cells of patients who differ in stain: three quarters are infected, scores shift by patient and class."""
    is_infected = rng.random(num_patients) < 0.75
    patients = np.repeat(np.arange(num_patients), rng.integers(10, 40, num_patients))
    fraction = np.where(is_infected, rng.uniform(0.3, 0.9, num_patients), 0)
    labels = (rng.random(len(patients)) < fraction[patients]).astype(int)
    shift = rng.normal((-2.2, 2.2), 0.9, (num_patients, 2))
    logits = shift[patients, labels] + rng.normal(0, 1, len(patients))
    return labels, 1 / (1 + np.exp(-logits)), patients


def test_weighted_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, probabilities, patients = simulate_cells(rng, 40)
    probabilities = np.round(probabilities, 2)  # ties
    weights = np.vstack([np.ones(40), bootstrap.sample_counts(rng, 40, 5)])
    values = bootstrap.Sums(labels, probabilities, patients, 0.4).compute(weights)
    for row, weight in enumerate(weights[:, patients]):
        keywords = {"sample_weight": weight}
        predictions = probabilities >= 0.4
        expected = {
            "accuracy": reference.accuracy_score(labels, predictions, **keywords),
            "sensitivity": reference.recall_score(labels, predictions, **keywords),
            "specificity": reference.recall_score(labels, predictions, pos_label=0, **keywords),
            "precision": reference.precision_score(labels, predictions, **keywords),
            "f1": reference.f1_score(labels, predictions, **keywords),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predictions, **keywords),
            "auc": reference.roc_auc_score(labels, probabilities, **keywords),
            "average_precision": reference.average_precision_score(labels, probabilities, **keywords),
            "mcc": reference.matthews_corrcoef(labels, predictions, **keywords),
            "brier": reference.brier_score_loss(labels, probabilities, **keywords),
            "ece": metrics.expected_calibration_error(
                np.repeat(labels, weight.astype(int)), np.repeat(probabilities, weight.astype(int))
            ),
        }
        assert set(expected) == set(metrics.NAMES) == set(values)
        for name, value in expected.items():
            assert values[name][row] == pytest.approx(value), name


def test_the_values_are_those_that_are_reported():
    labels, probabilities, patients = simulate_cells(np.random.default_rng(1), 30)
    resampled = bootstrap.resample(labels, probabilities, patients, num_resamples=10)
    reported = metrics.compute(labels, probabilities)
    assert {name: item.value for name, item in resampled.items()} == pytest.approx(reported)


def test_the_seed_decides():
    cells = simulate_cells(np.random.default_rng(2), 30)
    one, same, other = (bootstrap.resample(*cells, num_resamples=50, seed=seed)["auc"].resamples for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_blocks_do_not_change_the_resamples(monkeypatch):
    cells = simulate_cells(np.random.default_rng(3), 30)
    expected = bootstrap.resample(*cells, num_resamples=50)
    monkeypatch.setattr(bootstrap, "_CELLS_PER_BLOCK", len(cells[0]) * 7)
    for name, item in bootstrap.resample(*cells, num_resamples=50).items():
        np.testing.assert_allclose(item.resamples, expected[name].resamples)


def test_intervals_stay_in_the_range_of_their_metric():
    labels, probabilities, patients = simulate_cells(np.random.default_rng(4), 12)
    for name, item in bootstrap.resample(labels, probabilities, patients, num_resamples=200).items():
        low, high = bootstrap.interval(item, len(labels), lowest=-1.0 if name == "mcc" else 0.0)
        assert -1 <= low < item.value < high <= 1, name


def test_no_interval_where_nothing_varies():
    labels = np.tile([0, 1], 20)
    resampled = bootstrap.resample(labels, labels.astype(float), np.arange(40) // 4, num_resamples=100)
    assert resampled["accuracy"].value == 1
    assert bootstrap.interval(resampled["accuracy"], 40) is None


def test_one_patient_has_no_interval():
    labels, probabilities, _ = simulate_cells(np.random.default_rng(5), 12)
    resampled = bootstrap.resample(labels, probabilities, np.zeros(len(labels)), num_resamples=100)
    assert bootstrap.interval(resampled["auc"], len(labels)) is None


def test_a_paired_difference_is_narrower_than_an_unpaired_one():
    labels, probabilities, patients = simulate_cells(np.random.default_rng(6), NUM_PATIENTS)
    worse = np.clip(probabilities - 0.02, 0, 1)
    one = bootstrap.resample(labels, probabilities, patients, 2000)["sensitivity"]
    other = bootstrap.resample(labels, worse, patients, 2000)["sensitivity"]
    value, (low, high) = bootstrap.difference(one, other)
    assert value == pytest.approx(one.value - other.value)
    assert low < value < high
    alone = bootstrap.interval(one, len(labels))
    assert high - low < (alone[1] - alone[0]) / 2
    assert bootstrap.difference(one, one) == (0.0, None)


def test_coverage_over_patients_and_over_cells():
    """200 simulated data sets of 60 patients: intervals over patients cover the truth, those over cells do not."""
    names = ("accuracy", "sensitivity", "specificity", "auc")
    labels, probabilities, patients = simulate_cells(np.random.default_rng(10_000), 5_000)
    truth = bootstrap.Sums(labels, probabilities, patients, 0.5).compute(np.ones((1, 5_000)), names)
    covered = {"patients": dict.fromkeys(names, 0), "cells": dict.fromkeys(names[:3], 0)}
    for seed in range(NUM_DATA_SETS):
        labels, probabilities, patients = simulate_cells(np.random.default_rng(seed), NUM_PATIENTS)
        for kind, clusters in (("patients", patients), ("cells", np.arange(len(labels)))):
            resampled = bootstrap.resample(
                labels, probabilities, clusters, num_resamples=100, seed=seed, names=covered[kind]
            )
            for name, item in resampled.items():
                low, high = bootstrap.interval(item, len(labels))
                covered[kind][name] += bool(low <= truth[name][0] <= high)
    print(covered)
    assert all(0.91 <= number / NUM_DATA_SETS <= 0.98 for number in covered["patients"].values()), covered
    assert all(number / NUM_DATA_SETS < 0.8 for number in covered["cells"].values()), covered
