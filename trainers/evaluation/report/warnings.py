"""What readers of the report must know before they read its numbers. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.cells import LABELS, patient_noun
from pipeline.terminal import quantity
from trainers import image_statistics
from trainers.evaluation.metrics import metrics
from trainers.evaluation.predictions import ModelPredictions

_MIN_PATIENTS = 30  # simulated down to 20, but real patients are less regular
_MIN_VALIDATION_PATIENTS = 10
_MIN_RECALL = 0.2  # of each class
_RARE = 0.25  # a class with a smaller part of the cells


class ReportWarning(NamedTuple):
    """A sentence above the numbers; its severity is `leak`, `warning` or `note`."""

    severity: str
    text: str


def find(
    models: Sequence[ModelPredictions], config: str, manifest: Mapping[str, Any], *, is_nlm: bool = False
) -> list[ReportWarning]:
    """The warnings of some models on a `DataSet` of these properties, each once, the most severe first."""
    noun = patient_noun(manifest["settings"])
    warnings = [warning for model in models for warning in _of_model(model, config, noun)]
    if overrides := manifest.get("label_overrides"):
        text = (
            f"Labels are not as published: the list with the sha256 {manifest['settings']['label_overrides']} corrects"
        )
        corrected = f"those of {quantity(overrides['num_corrected'], 'cell')} of the data set"
        text = f"{text} {corrected} and leaves out {overrides['num_excluded']}."
        warnings.append(ReportWarning("warning", text))
    if is_nlm:
        text = (
            "Experts dispute about 5 % of the NLM's labels (of all 27,558 cells). If those are wrong, even a perfect "
            "model agrees with only 95 % of them, and an accuracy well above 0.95 counts agreement with wrong labels."
        )
        warnings.append(ReportWarning("note", text))
    if num_differences := math.comb(len(models), 2) * len(metrics.NAMES):
        text = "even if the models were equally good, about 1 in 20 would differ by chance"
        warnings.append(ReportWarning("note", f"The model comparison shows {num_differences} differences: {text}."))
    return sorted(dict.fromkeys(warnings), key=lambda warning: ("leak", "warning", "note").index(warning.severity))


def _of_model(model: ModelPredictions, config: str, noun: str) -> Iterator[ReportWarning]:
    leak, patients = model.leak, set(model.predictions.patient_ids.tolist()) - {""}
    if config == "by_cell" and not leak["is_external"]:
        are = "are" if patients else "may be"
        text = f"The data set is split by cell (by_cell): test {noun}s {are} in the training split."
        yield ReportWarning("leak", text)
    seen = {"was trained on": leak["train_patients"], "had its best epoch chosen on": leak["validation_patients"]}
    if parts := [f"{what} {_named(names, noun)} of this split" for what, names in seen.items() if names]:
        text = f"{model.name} {' and '.join(parts)}: its metrics are too good, and say little about new {noun}s"
        if leak["is_external"]:
            text += f" (the source is another one; this holds if equal names mean the same {noun}s)"
        yield ReportWarning("leak", f"{text}.")
    for text in _of_numbers(model, patients, noun):
        yield ReportWarning("warning", text)
    if leak["is_external"]:
        text = f"External data: {model.name} was trained on a data set of another source."
        if None in seen.values():
            text += f" If that has some of the same {noun}s under other names, its metrics are too good."
        yield ReportWarning("note", text)


def _of_numbers(model: ModelPredictions, patients: set[str], noun: str) -> Iterator[str]:
    labels, probabilities, _, patient_ids = model.predictions
    leak, records = model.leak, [run.record for run in model.model_runs.runs]
    if leak["train_patients"] is None or leak["validation_patients"] is None:
        why = f"its {noun}s are unknown (cells without {noun}s, or another --patient_regex)"
        yield f"{model.name} cannot be checked for leaks: {why}."
    if leak["data_differences"]:
        yield f"The data set is not the one that {model.name} was trained on: {'; '.join(leak['data_differences'])}."
    yield from of_one_class(model.name, labels, probabilities, records[0]["flags"].get("class_weight"))
    if model.unlike and (text := image_statistics.summarize(model.unlike)):
        yield f"{model.name}: {text}."
    if not patients:
        yield f"{noun.capitalize()}s are unknown: there are only intervals over cells, which are too narrow."
    elif len(patients) < _MIN_PATIENTS:
        num_infected = len(patients & set(patient_ids[labels == 1].tolist()))
        text = (
            f"Few {noun}s: {len(patients)} ({num_infected} infected, {len(patients) - num_infected} uninfected). Other"
        )
        yield f"{text} {noun}s could give quite different numbers; below {_MIN_PATIENTS} even the intervals are rough."
    sizes = [fitted.num_patients for fitted in model.thresholds if fitted.num_patients and not fitted.not_fitted]
    if sizes and min(sizes) < _MIN_VALIDATION_PATIENTS:
        fitted_on = f"few validation {patient_noun(records[0]['data']['settings'])}s ({min(sizes)})"
        yield f"Thresholds and temperature of {model.name} were fitted on {fitted_on}: they may not hold on this split."
    for reason in dict.fromkeys(fitted.not_fitted for fitted in model.thresholds if fitted.not_fitted):
        yield f"Only the threshold 0.5 is reported for {model.name}, and no temperature: {reason}."
    if any(record["status"] != "finished" for record in records):
        yield f"Training of {model.name} has not finished: this is its best epoch so far."


def of_one_class(name: str, labels: np.ndarray, probabilities: np.ndarray, class_weight: str | None) -> Iterator[str]:
    """Says that labels, or nearly all that a model called name predicts of both classes, are of one class."""
    classes = np.unique(labels)
    if len(classes) < 2:
        yield f"All {len(labels):,} labels are {LABELS[classes[0]]}: neither AUC nor a threshold can be computed."
        return
    called = probabilities >= metrics.THRESHOLD
    for label, other in ((0, 1), (1, 0)):
        if (recall := (called == label)[labels == label].mean()) < _MIN_RECALL:
            text = f"{name} calls {(called == other).mean():.1%} of the cells {LABELS[other]} and recognizes only"
            advice = "it has learned little: train for more epochs, or with another recipe"
            if class_weight == "none" and np.bincount(labels).min() < _RARE * len(labels):
                advice += ", such as --class_weight=balanced"
            text = f"{text} {recall:.1%} of those that are {LABELS[label]}"
            yield f"{text}. If the training cells are like these, {advice}."


def _named(names: list[str], noun: str) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{quantity(len(names), noun)} ({shown})"
