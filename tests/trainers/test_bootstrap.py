"""Intervals over patients: they agree with scikit-learn's weighted metrics, and cover the truth in a simulation."""

from functools import cache

import numpy as np
import pytest
from evaluating import compute_metrics
from scipy import special

from trainers.evaluation.metrics import bootstrap, metrics

NAMES = ("accuracy", "sensitivity", "specificity", "auc")


def simulate_cells(rng, num_patients, equal=True):
    """Cells of patients who differ in stain: three quarters are infected, scores shift by patient and class."""
    is_infected = rng.random(num_patients) < 0.75
    if equal:
        num_cells = rng.integers(10, 40, num_patients)
    else:
        num_cells = np.clip(np.round(rng.lognormal(3.1, 0.7, num_patients)), 5, 200).astype(int)
    patients = np.repeat(np.arange(num_patients), num_cells)
    fraction = np.where(is_infected, rng.uniform(0.3, 0.9, num_patients), 0)
    labels = (rng.random(len(patients)) < fraction[patients]).astype(int)
    shift = rng.normal((-2.2, 2.2), 0.9, (num_patients, 2))
    logits = shift[patients, labels] + rng.normal(0, 1, len(patients))
    return labels, special.expit(logits), patients


def add_model(rng, labels, probabilities, patients):
    """Probabilities of another model for the same cells: somewhat worse, with shifts of its own."""
    shift = rng.normal(0, 0.5, (len(set(patients)), 2))
    logits = special.logit(probabilities) + shift[patients, labels] + rng.normal(0, 0.7, len(labels))
    return special.expit(logits)


def simulate_two_models(rng, num_patients, equal):
    labels, probabilities, patients = simulate_cells(rng, num_patients, equal)
    return labels, probabilities, add_model(rng, labels, probabilities, patients), patients


@cache
def find_truth(equal):
    """The metrics of the two models, and their differences, for 20,000 patients."""
    labels, *models, _ = simulate_two_models(np.random.default_rng(10_000), 20_000, equal)
    one, other = (compute_metrics(labels, probabilities) for probabilities in models)
    return {"patients": one, "difference": {name: one[name] - other[name] for name in NAMES}, "cells": one}


def count_covered(num_data_sets, num_patients, equal, num_resamples, kinds, names=NAMES):
    """How many percent of intervals cover the truth, by kind (patients, difference, cells) and metric.

    The few data sets without an interval, since no patient makes a difference, do not count.
    """
    truth = find_truth(equal)
    covered: dict = {kind: {name: [] for name in names} for kind in kinds}
    for seed in range(num_data_sets):
        labels, one, other, patients = simulate_two_models(np.random.default_rng(seed), num_patients, equal)
        for kind in kinds:
            clusters = np.arange(len(labels)) if kind == "cells" else patients
            sums = [
                bootstrap.Sums(labels, item, clusters) for item in ([one, other] if kind == "difference" else [one])
            ]
            for name, (_, ends) in bootstrap.estimate(sums, num_resamples, names, seed + 1).items():
                if ends:
                    covered[kind][name].append(ends[0] <= truth[kind][name] <= ends[1])
    return {kind: {name: 100 * np.mean(items) for name, items in of_kind.items()} for kind, of_kind in covered.items()}


def test_weighted_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, probabilities, patients = simulate_cells(rng, 40)
    probabilities = np.round(probabilities, 2)  # ties
    weights = np.vstack([np.ones(40), rng.multinomial(40, np.full(40, 1 / 40), 5)])
    sums = bootstrap.Sums(labels, probabilities, patients)
    for row, weight in enumerate(weights[:, patients]):
        expected = compute_metrics(labels, probabilities, weight)
        assert set(expected) == set(metrics.NAMES)
        for name, value in expected.items():
            assert sums.compute(name, weights)[row] == pytest.approx(value), name


def test_influences_are_the_derivatives():
    labels, probabilities, patients = simulate_cells(np.random.default_rng(1), 20)
    sums = bootstrap.Sums(labels, probabilities, patients)
    weights = np.ones((1, 20))
    for name in sums.linear_names:
        value, influence = sums.linearize(name, weights)
        numeric = (sums.compute(name, weights + 1e-6 * np.eye(20)) - value) / 1e-6
        np.testing.assert_allclose(influence[0], numeric, atol=1e-6)


def estimate(*models, clusters, num_resamples=100, seed=0):
    sums = [bootstrap.Sums(*cells, clusters) for cells in models]
    return bootstrap.estimate(sums, num_resamples, seed=seed)


def test_the_values_are_those_that_are_reported():
    *cells, patients = simulate_cells(np.random.default_rng(1), 30)
    values = {name: item.value for name, item in estimate(cells, clusters=patients).items()}
    assert values == pytest.approx(compute_metrics(*cells))
    assert bootstrap.compute(*cells) == pytest.approx(values)


def test_precision_is_undefined_where_no_cell_is_called_parasitized():
    labels, probabilities, patients = simulate_cells(np.random.default_rng(1), 30)
    items = estimate((labels, probabilities / 2), clusters=patients)
    assert items["precision"] == (None, None)
    assert (items["f1"].value, items["sensitivity"].value) == (0, 0)


def test_the_seed_decides():
    *cells, patients = simulate_cells(np.random.default_rng(2), 30)
    one, same, other = (estimate(cells, clusters=patients, seed=seed)["auc"] for seed in (1, 1, 2))
    assert one == same != other


def test_intervals_stay_in_the_range_of_their_metric():
    *cells, patients = simulate_cells(np.random.default_rng(4), 12)
    for name, item in estimate(cells, clusters=patients).items():
        low, high = item.ci95
        assert (-1 if name == "mcc" else 0) <= low < item.value < high <= 1, name


def test_few_patients_with_most_cells_widen_the_interval():
    *cells, patients = simulate_cells(np.random.default_rng(4), 30)
    sums = bootstrap.Sums(*cells, patients)
    few = bootstrap.Sums(*cells, np.where(patients < 25, 0, patients))
    assert sums.effective_number("accuracy") > 20
    assert few.effective_number("accuracy") < 2
    wide, narrow = (bootstrap.estimate([item], 100)["accuracy"].ci95 for item in (few, sums))
    assert np.ptp(wide) > 2 * np.ptp(narrow)


def test_no_interval_where_nothing_varies():
    labels = np.tile([0, 1], 20)
    items = estimate((labels, labels.astype(float)), clusters=np.arange(40) // 4)
    assert items["accuracy"] == items["auc"] == (1.0, None)


def test_one_patient_has_no_interval():
    *cells, patients = simulate_cells(np.random.default_rng(5), 12)
    assert {item.ci95 for item in estimate(cells, clusters=np.zeros(len(patients))).values()} == {None}


def test_a_paired_difference_is_narrower_than_an_unpaired_one():
    labels, probabilities, patients = simulate_cells(np.random.default_rng(6), 60)
    one, other = (labels, probabilities), (labels, np.clip(probabilities - 0.02, 0, 1))
    alone, worse, paired = (estimate(*models, clusters=patients) for models in ([one], [other], [one, other]))
    for name, item in paired.items():
        assert item.value == pytest.approx(alone[name].value - worse[name].value)
    value, (low, high) = paired["sensitivity"]
    assert low < value < high
    assert high - low < np.ptp(alone["sensitivity"].ci95) / 2
    assert set(estimate(one, one, clusters=patients).values()) == {(0.0, None)}


def test_coverage():
    """A few simulated data sets: enough to notice intervals that are far too narrow, as those over cells are."""
    for num_patients in (20, 60):
        covered = count_covered(50, num_patients, False, 100, ["patients"])["patients"]
        assert all(percent >= 84 for percent in covered.values()), (num_patients, covered)
    covered = count_covered(20, 60, False, 100, ["cells"])["cells"]
    assert all(percent < 86 for percent in covered.values()), covered


@pytest.mark.slow
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("num_patients", [20, 60, 200])
def test_coverage_is_as_documented(num_patients, equal):
    """The table of docs/decisions.md: 94 to 97 % over patients, give or take a Monte Carlo error of 0.7 %."""
    covered = count_covered(1000, num_patients, equal, 300, ["patients", "difference"])
    if num_patients == 60:
        covered |= count_covered(500, num_patients, equal, 300, ["cells"])
    for kind, percents in covered.items():
        row = " | ".join(f"{percent:.1f}" for percent in percents.values())
        print(f"| {kind} | {num_patients} | {'equal' if equal else 'unequal'} | {row} |")
    assert all(93.3 <= percent <= 97.7 for percent in covered["patients"].values()), covered
    assert all(percent >= 90 for percent in covered["difference"].values()), covered
    assert all(percent < 80 for percent in covered.get("cells", {}).values()), covered


@pytest.mark.slow
@pytest.mark.parametrize("num_patients", [20, 60, 200])
def test_coverage_of_every_metric(num_patients):
    covered = count_covered(500, num_patients, False, 300, ["patients"], metrics.NAMES)["patients"]
    print(num_patients, {name: f"{percent:.1f}" for name, percent in covered.items()})
    assert all(percent >= 90 for percent in covered.values()), covered
