import csv

import numpy as np
from evaluating import make_predictions
from scipy import special

from trainers.evaluation.metrics import label_issues


def test_swapped_labels_are_found(tmp_path):
    labels, _, names, patient_ids = make_predictions(num_cells=400)
    probabilities = special.expit(np.random.default_rng(1).normal(5 * (2 * labels - 1), 1))
    swapped = np.random.default_rng(2).choice(400, 20, replace=False)
    labels = labels.copy()
    labels[swapped] = 1 - labels[swapped]
    issues = label_issues.find(labels, probabilities, names, patient_ids)
    filenames = {item.filename for item in issues}
    assert filenames <= set(names[swapped])
    assert len(filenames) >= 10
    errors = [item.error_probability for item in issues]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] >= 2 / 3
    path = tmp_path / "issues.csv"
    label_issues.write(issues, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [item.filename for item in issues]
    assert rows[0]["label"] in ("uninfected", "parasitized")


def test_the_confidence_of_a_model_does_not_matter():
    labels, probabilities, *_ = make_predictions(num_cells=400)
    once, twice = (
        label_issues.error_probabilities(labels, special.expit(scale * special.logit(probabilities)))
        for scale in (1, 2)
    )
    np.testing.assert_allclose(once, twice, atol=1e-4)
    assert 0 <= once.min() < 0.01
    assert 0.9 < once.max() <= 1
    assert (once[(labels == 1) == (probabilities > 0.5)] < 0.5).all()


def test_a_model_that_has_learned_little_suspects_nothing():
    labels, _, names, patient_ids = make_predictions(num_cells=400)
    labels = (np.arange(400) < 40).astype(int)
    assert label_issues.find(labels, np.full(400, 0.1), names, patient_ids) == []
    weak = np.where(np.random.default_rng(0).random(400) < 0.8, labels, 1 - labels) * 0.9 + 0.05
    assert label_issues.find(labels, weak, names, patient_ids) == [], "right about 8 of 10 only"


def test_no_issues_where_all_agree():
    labels = np.array([0, 1])
    assert label_issues.find(labels, np.array([0.1, 0.9]), np.array(["a", "b"]), np.array(["p", "q"])) == []
