import numpy as np
import pytest

from trainers.evaluation.metrics import metrics


def test_patients_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 0])
    predictions = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    counts = metrics.count_by_patient(labels, predictions, np.array(["a"] * 4 + ["b"] * 4))
    assert [tuple(row.values()) for row in counts] == [("a", 4, 0, 1, 0, 1, None, 250), ("b", 2, 2, 0, 1, 1, 0.5, 0)]
    smear = metrics.smear(counts, prevalence=0.01)
    # of 5,000 cells 50 are parasitized, half of them detected; of 4,950 others a sixth is predicted parasitized
    assert smear["true_positives"] == pytest.approx(25)
    assert smear["false_positives"] == pytest.approx(825)
    assert smear["positive_predictive_value"] == pytest.approx(25 / 850)
    assert smear["negative_predictive_value"] == pytest.approx(4125 / 4150)
    ends = smear["uninfected_patients"].pop("max_ci95")
    assert ends == pytest.approx([5000 * 0.006309, 5000 * 0.805880], rel=1e-3), "1 of 4 by Clopper and Pearson"
    assert smear["uninfected_patients"] == {"num_patients": 1, "min": 1250, "median": 1250, "max": 1250}
    assert smear["hidden_below"] == pytest.approx(0.5)


def test_a_perfect_model_has_no_false_positives():
    labels = np.array([0, 1])
    smear = metrics.smear(metrics.count_by_patient(labels, labels, np.array(["a", "b"])), 0.01)
    assert smear["positive_predictive_value"] == 1
    assert smear["hidden_below"] == 0


def test_a_split_without_uninfected_patients():
    labels, predictions = np.array([0, 1]), np.array([0, 0])
    smear = metrics.smear(metrics.count_by_patient(labels, predictions, np.array(["a", "a"])), 0.01)
    assert smear["uninfected_patients"] is None
    assert smear["positive_predictive_value"] is None
