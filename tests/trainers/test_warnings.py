import numpy as np
from evaluating import NO_LEAK, make_predictions, model_predictions

from trainers.evaluation.metrics import thresholds
from trainers.evaluation.report import warnings


def find(config="by_patient", **settings):
    return warnings.find([model_predictions(**{"predictions": make_predictions(), **settings})], config)


def test_many_patients_and_no_leak_need_no_warning():
    assert find() == []


def test_few_patients():
    (warning,) = find(predictions=make_predictions(num_patients=12))
    assert warning.text.startswith("Few patients: 12")
    unknown = make_predictions()._replace(patient_ids=np.array([""] * 600))
    assert [warning.text for warning in find(predictions=unknown)] == [
        "Patients are unknown: there are only intervals over cells, which are too narrow."
    ]
    assert "test patients may be in the training split" in find("by_cell", predictions=unknown)[0].text


def test_leaks_come_first_and_once():
    leak = NO_LEAK | {"is_external": True, "train_patients": ["C1"], "validation_patients": ["C2", "C3"]}
    model = model_predictions(make_predictions(num_patients=12), leak=leak)
    warned = warnings.find([model, model], "by_cell")
    assert [warning.severity for warning in warned] == ["leak", "leak", "warning", "note", "note"]
    assert "test patients are in the training split" in warned[0].text
    assert "was trained on 1 patient (C1) of this split and had its best epoch chosen on 2 patients" in warned[1].text
    assert "the source is another one" in warned[1].text


def test_several_differences_are_counted():
    model = model_predictions(make_predictions())
    (warning,) = warnings.find([model] * 3, "by_patient")
    assert warning.text.startswith("The model comparison shows 33 differences: ")
    assert "1 in 20 would differ by chance" in warning.text


def test_unknown_patients_cannot_be_checked():
    (warning,) = find(leak=NO_LEAK | {"train_patients": None})
    assert warning.severity == "warning"
    assert "cannot be checked for leaks" in warning.text


def test_missing_and_poor_thresholds():
    (warning,) = find(fitted=(thresholds.defaults("there is no file"),))
    assert warning.text.endswith("no temperature: there is no file.")
    few = thresholds.Thresholds("validation", 50, 3, {}, 1.0)
    (warning,) = find(num_runs=2, fitted=(few, few._replace(num_patients=2)))
    assert "fitted on few validation patients (2)" in warning.text


def test_changed_labels_and_the_labels_of_the_nlm():
    names = [f"Parasitized/C{i}P1thinF_IMG_20150619_114756a_cell_{i}.png" for i in range(600)]
    model = model_predictions(make_predictions()._replace(filenames=np.array(names)))
    manifest = {"splits": {"test": {"patients": ["C1", "C2"]}}}
    assert warnings.find([model], "by_patient", manifest) == [], "synthetic patients have no gap"
    manifest["splits"]["test"]["patients"] = ["C1", "C3"]
    (note,) = warnings.find([model], "by_patient", manifest)
    assert note.severity == "note"
    assert "5 % of the NLM's labels" in note.text
    assert warnings.find([model_predictions(make_predictions())], "by_patient", manifest) == [], "other names"
    manifest |= {"settings": {"label_overrides": "ab12"}, "label_overrides": {"num_corrected": 3, "num_excluded": 4}}
    (overridden, _) = warnings.find([model], "by_patient", manifest)
    assert "sha256 ab12 corrects those of 3 cells of the data set and leaves out 4" in overridden.text
