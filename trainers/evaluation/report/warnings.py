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

SEVERITIES = ("leak", "warning", "note")
_MIN_PATIENTS = 30  # simulated down to 20, but real patients are less regular
_MIN_VALIDATION_PATIENTS = 10
_MIN_RECALL = 0.2  # of each class


class ReportWarning(NamedTuple):
    """A sentence above the numbers.

    Attributes:
      severity: one of `SEVERITIES`.
      text: the sentence.
    """

    severity: str
    text: str


def find(
    models: Sequence[ModelPredictions], config: str, manifest: Mapping[str, Any], *, is_nlm: bool = False
) -> list[ReportWarning]:
    """The warnings of some models, each sentence once, the most severe first.

    Args:
      models: the predictions.
      config, manifest, is_nlm: of the data set, see `DataSet`.
    """
    noun = patient_noun(manifest["settings"])
    warnings = dict.fromkeys(warning for model in models for warning in _of_model(model, config, noun))
    warnings |= dict.fromkeys(_of_labels(manifest, is_nlm=is_nlm))
    if num_differences := math.comb(len(models), 2) * len(metrics.NAMES):
        chance = "even if the models were equally good, about 1 in 20 would differ by chance"
        warnings[ReportWarning("note", f"The model comparison shows {num_differences} differences: {chance}.")] = None
    return sorted(warnings, key=lambda warning: SEVERITIES.index(warning.severity))


def _of_model(model: ModelPredictions, config: str, noun: str) -> Iterator[ReportWarning]:
    patients = set(model.predictions.patient_ids.tolist()) - {""}
    if config == "by_cell" and not model.leak["is_external"]:
        are = "are" if patients else "may be"
        yield ReportWarning(
            "leak", f"The data set is split by cell (by_cell): test {noun}s {are} in the training split."
        )
    yield from _of_leak(model.name, model.leak, noun)
    for text in _of_numbers(model, patients, noun):
        yield ReportWarning("warning", text)


def _of_numbers(model: ModelPredictions, patients: set[str], noun: str) -> Iterator[str]:
    labels, probabilities, _, patient_ids = model.predictions
    yield from of_one_class(model.name, labels, probabilities)
    if model.unlike and (text := image_statistics.summarize(model.unlike)):
        yield f"{model.name}: {text}."
    if not patients:
        yield "Patients are unknown: there are only intervals over cells, which are too narrow."
    elif len(patients) < _MIN_PATIENTS:
        num_infected = len(patients & set(patient_ids[labels == 1].tolist()))
        yield (
            f"Few {noun}s: {len(patients)} ({num_infected} infected, {len(patients) - num_infected} uninfected). Other "
            f"{noun}s could give quite different numbers; below {_MIN_PATIENTS} even the intervals are rough."
        )
    sizes = [fitted.num_patients for fitted in model.thresholds if fitted.num_patients and not fitted.not_fitted]
    fitted_on = patient_noun(model.model_runs.runs[0].record["data"]["settings"])
    if sizes and min(sizes) < _MIN_VALIDATION_PATIENTS:
        yield (
            f"Thresholds and temperature of {model.name} were fitted on few validation {fitted_on}s ({min(sizes)}): "
            "they may not transfer to this split."
        )
    for reason in dict.fromkeys(fitted.not_fitted for fitted in model.thresholds if fitted.not_fitted):
        yield f"Only the threshold 0.5 is reported for {model.name}, and no temperature: {reason}."
    if any(run.record["status"] != "finished" for run in model.model_runs.runs):
        yield f"Training of {model.name} has not finished: this is its best epoch so far."


def of_one_class(name: str, labels: np.ndarray, probabilities: np.ndarray) -> Iterator[str]:
    """Says that labels, or nearly all that a model called name predicts of both classes, are of one class."""
    classes = np.unique(labels)
    if len(classes) < 2:
        yield f"All {len(labels):,} labels are {LABELS[classes[0]]}: neither AUC nor a threshold can be computed."
        return
    called = probabilities >= metrics.THRESHOLD
    for label, other in ((0, 1), (1, 0)):
        if (recall := (called == label)[labels == label].mean()) < _MIN_RECALL:
            yield (
                f"{name} calls {(called == other).mean():.1%} of the cells {LABELS[other]} and recognizes "
                f"only {recall:.1%} of those that are {LABELS[label]}. If the training cells are like these, it has "
                "learned little: train for more epochs, or with another recipe."
            )


def _of_labels(manifest: Mapping[str, Any], *, is_nlm: bool) -> Iterator[ReportWarning]:
    if overrides := manifest.get("label_overrides"):
        yield ReportWarning(
            "warning",
            f"Labels are not as published: the list with the sha256 {manifest['settings']['label_overrides']} corrects "
            f"those of {quantity(overrides['num_corrected'], 'cell')} of the data set and leaves out "
            f"{overrides['num_excluded']}.",
        )
    if is_nlm:
        yield ReportWarning(
            "note",
            "Experts dispute about 5 % of the NLM's labels: if those are wrong, a model that is right about every "
            "cell has an accuracy of about 0.95. So an accuracy above 0.96 counts agreement with wrong labels, too, "
            "and does not show that a model recognizes more parasites.",
        )


def _of_leak(name: str, leak: dict[str, Any], noun: str) -> Iterator[ReportWarning]:
    trained, validated = leak["train_patients"], leak["validation_patients"]
    if trained is None or validated is None:
        yield ReportWarning(
            "warning",
            f"{name} cannot be checked for leaks: its patients are unknown (cells without patients, or "
            "another --patient_regex).",
        )
    elif trained or validated:
        parts = []
        if trained:
            parts.append(f"was trained on {_named(trained, noun)} of this split")
        if validated:
            parts.append(f"had its best epoch chosen on {_named(validated, noun)} of this split")
        text = f"{name} {' and '.join(parts)}: its metrics are too good, and say little about new patients"
        if leak["is_external"]:
            text += " (the source is another one; this holds if equal names mean the same patients)"
        yield ReportWarning("leak", f"{text}.")
    if leak["data_differences"]:
        text = f"The data set is not the one that {name} was trained on: {'; '.join(leak['data_differences'])}."
        yield ReportWarning("warning", text)
    if leak["is_external"]:
        yield ReportWarning("note", f"External data: {name} was trained on cells of another source.")


def _named(names: list[str], noun: str) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{quantity(len(names), noun)} ({shown})"
