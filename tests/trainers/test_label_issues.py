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
    assert errors[-1] >= 0.5
    path = tmp_path / "issues.csv"
    label_issues.write(issues, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [item.filename for item in issues]
    assert rows[0]["label"] in ("uninfected", "parasitized")


def test_error_probabilities_are_calibrated():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 4, 20_000)
    truth = rng.random(len(logits)) < special.expit(logits)
    wrong = rng.random(len(logits)) < np.where(truth, 0.03, 0.08)
    overconfident = special.expit(2 * logits + 1)
    probabilities = label_issues.error_probabilities((truth ^ wrong).astype(int), overconfident)
    for low, high in ((0, 0.02), (0.02, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1)):
        within = (low <= probabilities) & (probabilities <= high)
        assert within.sum() > 50
        assert abs(probabilities[within].mean() - wrong[within].mean()) < 0.06


def test_no_issues_where_all_agree():
    labels = np.array([0, 1])
    assert label_issues.find(labels, np.array([0.1, 0.9]), np.array(["a", "b"]), np.array(["p", "q"])) == []
