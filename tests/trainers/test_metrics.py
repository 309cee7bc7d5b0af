import numpy as np
import pytest

from trainers.evaluation.metrics import metrics


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    return labels, np.clip(0.3 * labels + rng.random(500) * 0.7, 0, 1)


def test_the_threshold_itself_is_positive():
    assert metrics.confusion(np.array([1, 0]), np.array([0.5, 0.4999])) == {"tn": 1, "fp": 0, "fn": 0, "tp": 1}


def test_calibration_error_by_hand():
    labels = np.array([0, 1, 1, 0, 1])
    probabilities = np.array([0.1, 0.1, 0.9, 0.9, 1.0])
    # bins of 0.5: (sum 0.2, 1 of 2 parasitized) and (sum 2.8, 2 of 3 parasitized)
    assert metrics.expected_calibration_error(labels, probabilities, 2) == pytest.approx((0.8 + 0.8) / 5)
    assert metrics.expected_calibration_error(labels, labels.astype(float)) == 0
    assert metrics.expected_calibration_error(np.zeros(3), np.zeros(3)) == 0


def test_the_class_weighted_table_by_hand():
    labels, predictions = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    table = metrics.class_weighted(labels, predictions)
    expected = {"accuracy": 0.75, "precision": (3 * 1 + 0.5) / 4, "recall": 0.75, "f1": (3 * 0.8 + 2 / 3) / 4}
    assert table == pytest.approx(expected)


def test_reliability_agrees_with_scikit_learn(cells):
    from sklearn.calibration import calibration_curve

    labels, probabilities = cells
    bins = metrics.reliability(labels, probabilities, 10)
    fractions, means = calibration_curve(labels, probabilities, n_bins=10)
    np.testing.assert_allclose(bins.mean_probabilities, means)
    np.testing.assert_allclose(bins.fractions, fractions)
    assert bins.num_cells.sum() == len(labels)


def test_log_loss_is_that_of_scikit_learn_and_finite(cells):
    from sklearn.metrics import log_loss

    assert metrics.log_loss(*cells) == pytest.approx(log_loss(*cells), rel=1e-5)
    assert metrics.log_loss(np.array([0, 1]), np.array([1.0, 0.0])) == pytest.approx(-np.log(1e-7), rel=1e-5)
