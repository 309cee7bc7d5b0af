import numpy as np
import pytest

from trainers.evaluation.metrics import bootstrap, metrics


def test_the_threshold_itself_is_positive():
    assert metrics.confusion(np.array([1, 0]), np.array([0.5, 0.4999])) == {"tn": 1, "fp": 0, "fn": 0, "tp": 1}


def test_calibration_error_by_hand():
    labels = np.array([0, 1, 1, 0, 1])
    probabilities = np.array([0.09, 0.11, 0.96, 0.98, 1.0])
    # two bins of a fifteenth: (sum 0.2, 1 of 2 parasitized) and (sum 2.94, 2 of 3 parasitized)
    assert bootstrap.compute(labels, probabilities)["ece"] == pytest.approx((0.8 + 0.94) / 5)
    assert bootstrap.compute(labels, labels.astype(float))["ece"] == 0
    assert bootstrap.compute(np.zeros(3), np.zeros(3))["ece"] == 0


def test_the_class_weighted_table_by_hand():
    labels, predictions = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    table = metrics.class_weighted(labels, predictions)
    expected = {"accuracy": 0.75, "precision": (3 * 1 + 0.5) / 4, "recall": 0.75, "f1": (3 * 0.8 + 2 / 3) / 4}
    assert table == pytest.approx(expected)


def test_log_loss_is_finite():
    assert metrics.log_loss(np.array([0, 1]), np.array([1.0, 0.0])) == pytest.approx(-np.log(1e-7), rel=1e-5)
