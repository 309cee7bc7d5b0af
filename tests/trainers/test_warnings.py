from collections import Counter

import numpy as np
from evaluating import IDENTITY, NO_LEAK, make_predictions, model_predictions

from trainers.evaluation.metrics import thresholds
from trainers.evaluation.report import warnings


def find(config="by_patient", **settings):
    return warnings.find([model_predictions(**{"predictions": make_predictions(), **settings})], config, IDENTITY)


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
    warned = warnings.find([model, model], "by_cell", IDENTITY)
    assert [warning.severity for warning in warned] == ["leak", "warning", "note", "note"]
    assert "was trained on 1 patient (C1) of this split and had its best epoch chosen on 2 patients" in warned[0].text
    assert "the source is another one" in warned[0].text


def test_several_differences_are_counted():
    model = model_predictions(make_predictions())
    (warning,) = warnings.find([model] * 3, "by_patient", IDENTITY)
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
    manifest = {"settings": {"label_overrides": "ab12"}, "label_overrides": {"num_corrected": 1, "num_excluded": 4}}
    model = model_predictions(make_predictions())
    (overridden,) = warnings.find([model], "by_patient", manifest)
    assert "sha256 ab12 corrects those of 1 cell of the data set and leaves out 4" in overridden.text
    (_, note) = warnings.find([model], "by_patient", manifest, is_nlm=True)
    assert note.severity == "note"
    assert "5 % of the NLM's labels" in note.text


def test_patients_are_called_by_the_column_that_tells_them():
    def texts(column):
        cells = make_predictions(num_patients=12)
        settings = IDENTITY["settings"] | {"patient_column": column}
        model = model_predictions(cells, leak=NO_LEAK | {"train_patients": ["S1"]})
        return [warning.text for warning in warnings.find([model], "by_patient", {"settings": settings})]

    leak, few = texts("Slide")
    assert "was trained on 1 slide (S1) of this split" in leak
    assert few.startswith("Few slides: 12")
    assert texts("slide_id") == texts("slide")
    assert texts("ID")[1].startswith("Few patients: 12")
    assert texts("grid")[1].startswith("Few grids: 12")
    assert texts("patientid")[1].startswith("Few patients: 12")
    assert "say little about new slides" in leak


def test_one_class_and_unlike_images():
    predictions = make_predictions()
    predictions = predictions._replace(probabilities=np.maximum(predictions.probabilities, 0.5))
    model = model_predictions(predictions)._replace(unlike=Counter({(): 500, ("grey",): 100}))
    one_class, unlike = (warning.text for warning in warnings.find([model], "by_patient", IDENTITY))
    assert one_class.startswith("basic_cnn calls 100.0% of the cells parasitized and recognizes only 0.0% of those")
    assert unlike.startswith("basic_cnn: 100 of 600 images are unlike the cells of the training split")
    (text,) = warnings.of_one_class("basic_cnn", np.zeros(5, int), np.ones(5), "none")
    assert text.startswith("All 5 labels are uninfected")
    labels = np.repeat([0, 1], [80, 20])
    for class_weight, advised in (("none", True), ("balanced", False)):
        (text,) = warnings.of_one_class("basic_cnn", labels, np.zeros(100), class_weight)
        assert text.endswith("another recipe, such as --class_weight=balanced.") == advised
