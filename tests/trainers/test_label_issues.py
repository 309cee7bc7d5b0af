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
    assert [item.label_probability for item in issues] == sorted(item.label_probability for item in issues)
    path = tmp_path / "issues.csv"
    label_issues.write(issues, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [item.filename for item in issues]
    assert rows[0]["label"] in ("uninfected", "parasitized")


def test_no_issues_where_all_agree():
    labels = np.array([0, 1])
    assert label_issues.find(labels, np.array([0.1, 0.9]), np.array(["a", "b"]), np.array(["p", "q"])) == []
