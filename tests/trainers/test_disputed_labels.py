"""Metrics without disputed cells, and how well label issues find these."""

import re

import numpy as np
import pytest
from conftest import assert_one_line_error, open_split, run_in_process
from evaluating import OPTIONS, compute_metrics, evaluate_runs

from pipeline import label_list
from pipeline.cells import LABELS
from pipeline.errors import InputError
from trainers.data import DataSet, open_data_set
from trainers.evaluation import predictions
from trainers.evaluation.metrics import label_issues
from trainers.evaluation.metrics.label_issues import LabelIssue
from trainers.evaluation.report import writer


def write_list(path, cells):
    """Writes a list of disputed labels and reads it."""
    path.write_text("".join(f"{','.join(row)}\n" for row in [("filename", "published_label"), *cells]))
    return label_list.read("disputed_labels", str(path), "published_label", LABELS)


@pytest.fixture
def cells(small_run, data_dir):
    predict = predictions.predictor(predictions.load_model(str(small_run)), 32)
    return predictions.predict_split(predict, open_split(data_dir, "test"), 32, "test")[0]


def test_metrics_are_reported_twice(small_run, data_dir, cells, tmp_path, monkeypatch):
    is_error = (cells.probabilities >= 0.5) != (cells.labels == 1)
    disputed = np.zeros(len(is_error), bool)
    disputed[[*np.flatnonzero(is_error)[:3], *np.flatnonzero(~is_error)[:2]]] = True
    rows = [(str(name), LABELS[label]) for name, label in zip(cells.filenames, cells.labels, strict=True)]
    listed = write_list(
        tmp_path / "list.csv", [row for row, is_listed in zip(rows, disputed, strict=True) if is_listed]
    )
    options = OPTIONS._replace(disputed_labels=listed)
    suspects = [*np.flatnonzero(disputed)[:2], np.flatnonzero(~disputed)[0]]
    issues = [LabelIssue(rows[i][0], "C1", rows[i][1], 0.9, 0.1, 0.9) for i in suspects]
    monkeypatch.setattr(label_issues, "find", lambda *_: issues)
    monkeypatch.setattr(DataSet, "is_nlm", True)
    folder, text, contents = evaluate_runs(data_dir, [small_run], tmp_path / "report", options=options)
    entry = contents["models"]["basic_cnn"]
    undisputed = entry["undisputed"]
    expected = compute_metrics(cells.labels[~disputed], cells.probabilities[~disputed])
    assert {name: undisputed[name]["value"] for name in expected} == pytest.approx(expected)
    counts = {"num_cells": len(rows) - 5, "num_disputed": 5, "num_errors": is_error.sum(), "num_disputed_errors": 3}
    assert {name: undisputed[name] for name in counts} == counts
    assert [(item["length"], item["num_disputed"]) for item in contents["disputed_labels"]["found"]] == [(3, 2)]
    assert [item["recall"] for item in contents["disputed_labels"]["found"]] == [0.4]
    assert (folder / "suspected_label_errors.png").exists()
    assert f"3 of {is_error.sum()} errors on disputed cells; the split has 5" in text
    assert "basic_cnn, undisputed" in text
    page = (folder / "report.html").read_text()
    assert "<th>undisputed</th>" in page
    assert "<td>3</td><td>2</td><td>0.667</td><td>0.400</td>" in page
    assert f"3 of its {is_error.sum()} errors are on the 5 cells of this split whose label experts dispute" in page
    assert "Comparison with published results" in page
    shown = re.findall(r", disputed, p\(parasitized\)[^<]*</b><br>([^<]*)<", page)
    assert {rows[i][0] for i in suspects[:2]} <= set(shown), "among the misclassified or the suspects"
    assert len(shown) == len(set(shown)), "each once"
    if_wrong = 1 - (is_error.sum() - 3 + 2) / len(rows)
    assert f"{if_wrong:.3f} if each of their labels is wrong" in page
    auc = f"{undisputed['auc']['value']:.4f}"
    assert auc in (folder / "model_card_basic_cnn.md").read_text()
    monkeypatch.setattr(writer, "write", lambda *_: {})
    _, _, without = evaluate_runs(data_dir, [small_run], tmp_path / "without")
    del contents["disputed_labels"], entry["undisputed"]
    assert contents == without
    only_one_class = [row for row in rows if row[1] == "uninfected"]
    options = OPTIONS._replace(disputed_labels=write_list(tmp_path / "list.csv", only_one_class))
    with pytest.raises(InputError, match=r"list\.csv leaves cells of one class only in test"):
        evaluate_runs(data_dir, [small_run], tmp_path / "none", options=options)


def test_cells_of_the_nlm_are_known_by_their_names(data_dir):
    synthetic = open_data_set(str(data_dir), "by_patient")
    assert not synthetic.is_nlm, "patients have no gap"
    splits = {name: split | {"patients": split["patients"][1:]} for name, split in synthetic.manifest["splits"].items()}
    assert synthetic._replace(manifest=synthetic.manifest | {"splits": splits}).is_nlm


def test_found_by_label_issues(tmp_path):
    names = [f"Uninfected/{i}.png" for i in range(80)]
    listed = write_list(tmp_path / "list.csv", [(name, "uninfected") for name in (*names[:30], names[79], "other")])
    issues = [LabelIssue(name, "C1", "uninfected", 0.9, 0.1, 0.9) for name in names[:60]]
    found = label_issues.count_disputed(issues, listed.labels, np.array(names))
    assert found == [
        {"length": 50, "num_disputed": 30, "precision": 30 / 50, "recall": 30 / 31},
        {"length": 60, "num_disputed": 30, "precision": 30 / 60, "recall": 30 / 31},
    ]
    empty = {"length": 0, "num_disputed": 0, "precision": None, "recall": 0.0}
    assert label_issues.count_disputed([], listed.labels, np.array(names)) == [empty]


def test_bad_lists_are_one_line(small_run, data_dir, cells, tmp_path):
    path, name = tmp_path / "list.csv", str(cells.filenames[0])
    flags = (f"--data_dir={data_dir}", f"--output_dir={tmp_path / 'report'}", f"--disputed_labels={path}")
    for content, expected in (
        (f"filename,label\n{name},uninfected\n", "line 1: the header is"),
        ("filename,published_label\nUninfected/nobody.png,uninfected\n", "line 2: there is no cell"),
        (f"filename,published_label\n\n{name},exclude\n", "line 3: the label is 'exclude'; expected uninfected, para"),
        (f"filename,published_label\n{name},{LABELS[1 - cells.labels[0]]}\n", "line 2: published_label is"),
    ):
        path.write_text(content)
        assert_one_line_error(run_in_process("trainers.evaluate", f"--run_dirs={small_run}", *flags), expected)
        assert not (tmp_path / "report").exists()
