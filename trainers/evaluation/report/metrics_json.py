"""The models and comparisons of `metrics.json`, and as a table for a terminal. Pure."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.label_list import LabelList
from pipeline.terminal import printable, quantity
from trainers import image_statistics
from trainers.evaluation.metrics import bootstrap, metrics, thresholds
from trainers.evaluation.metrics.bootstrap import Sums
from trainers.evaluation.predictions import ModelPredictions, Predictions
from trainers.evaluation_flags import Options


def build(models: Sequence[ModelPredictions], options: Options) -> dict[str, Any]:
    """`models`, an entry by name, and `comparisons`: paired differences, the first model minus the second."""
    sums = {model.name: _sum_by_patient(model.predictions) for model in models}
    return {
        "models": {model.name: _entry(model, sums[model.name], options) for model in models},
        "comparisons": [
            {"models": list(pair), "difference": _estimate([sums[name] for name in pair], options)}
            for pair in combinations(sums, 2)
        ],
    }


def _sum_by_patient(cells: Predictions) -> Sums:
    return Sums(cells.labels, cells.probabilities, cells.patient_ids)


def _entry(model: ModelPredictions, by_patient: Sums, options: Options) -> dict[str, Any]:
    labels, probabilities, _, patient_ids = model.predictions
    by_cell = _estimate([Sums(labels, probabilities, np.arange(len(labels)))], options)
    predictions = probabilities >= metrics.THRESHOLD
    counts, calibration = metrics.count_by_patient(labels, predictions, patient_ids), None
    if model.is_calibrated:
        calibration = {
            "temperatures": [fitted.temperature for fitted in model.thresholds],
            "before": _calibration_errors(labels, probabilities),
            "after": _calibration_errors(labels, model.calibrated_probabilities),
        }
    entry = {
        "split": model.model_runs.split,
        **_size(model.predictions),
        "confusion": metrics.confusion(labels, probabilities),
        **_estimate([by_patient], options),
        "ci95_by_cell": {name: item["ci95"] for name, item in by_cell.items()},
        "class_weighted": metrics.class_weighted(labels, predictions),
        "operating_points": _operating_points(model, options),
        "calibration": calibration,
        "patients": counts,
        "smear": metrics.smear(counts, options.prevalence),
        "folds": _folds(model),
        "leak": model.leak,
        "external": model.leak["is_external"],
        "unlike_training": None if model.unlike is None else image_statistics.count(model.unlike),
        "test_time_flips": options.test_time_flips,
    }
    if options.disputed_labels:
        entry["undisputed"] = _undisputed(model, options, options.disputed_labels)
    return entry


def _calibration_errors(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    values = bootstrap.compute(labels, probabilities)
    return {"log_loss": metrics.log_loss(labels, probabilities), "brier": values["brier"], "ece": values["ece"]}


def _size(cells: Predictions) -> dict[str, int]:
    return {"num_cells": len(cells.labels), "num_patients": len(set(cells.patient_ids.tolist()) - {""})}


def _undisputed(model: ModelPredictions, options: Options, disputed_labels: LabelList) -> dict[str, Any]:
    """The metrics without the disputed cells, and how many of the errors are disputed."""
    disputed = np.isin(model.predictions.filenames, list(disputed_labels.labels))
    cells = Predictions(*(column[~disputed] for column in model.predictions))
    if len(np.unique(cells.labels)) < 2:
        text = f"{disputed_labels.name} leaves cells of one class only in {model.model_runs.split}"
        raise InputError(f"{text}; expected undisputed cells of both classes: leave the flag out")
    is_error = (model.predictions.probabilities >= metrics.THRESHOLD) != (model.predictions.labels == 1)
    return {
        **_size(cells),
        "num_disputed": int(disputed.sum()),
        "num_errors": int(is_error.sum()),
        "num_disputed_errors": int((is_error & disputed).sum()),
        "confusion": metrics.confusion(cells.labels, cells.probabilities),
        **_estimate([_sum_by_patient(cells)], options),
    }


def _estimate(models: list[Sums], options: Options, names: Iterable[str] = metrics.NAMES) -> dict[str, dict[str, Any]]:
    estimates = bootstrap.estimate(models, options.num_resamples, names)
    return {name: item._asdict() for name, item in estimates.items()}


def _operating_points(model: ModelPredictions, options: Options) -> dict[str, Any]:
    """Those that every run has, each run's cells by its own threshold."""
    labels, probabilities, _, patient_ids = model.predictions
    points: dict[str, Any] = {}
    for name in thresholds.NAMES:
        values = [fitted.thresholds[name] for fitted in model.thresholds if name in fitted.thresholds]
        if len(values) == len(model.thresholds):
            predictions = (probabilities >= np.array(values)[model.run_index]).astype(np.float64)
            sums, names = Sums(labels, predictions, patient_ids), ("sensitivity", "specificity", "precision")
            chosen_on = None if name == thresholds.DEFAULT else [fitted.split for fitted in model.thresholds]
            points[name] = {"thresholds": values, "chosen_on": chosen_on}
            points[name] |= {"confusion": metrics.confusion(labels, predictions)} | _estimate([sums], options, names)
    return points


def _folds(model: ModelPredictions) -> dict[str, Any] | None:
    """Mean and standard deviation over the folds, as the literature reports cross-validation; None for one run."""
    if len(model.model_runs.runs) < 2:
        return None
    labels, probabilities, *_ = model.predictions
    masks = [model.run_index == number for number in np.unique(model.run_index)]
    by_fold = [bootstrap.compute(labels[mask], probabilities[mask]) for mask in masks]
    folds = {}
    for name in metrics.NAMES:
        known = [value for fold in by_fold if (value := fold[name]) is not None]
        mean, sd = (float(np.mean(known)), float(np.std(known, ddof=1))) if len(known) == len(masks) else (None, None)
        folds[name] = {"mean": mean, "sd": sd, "values": [fold[name] for fold in by_fold]}
    return folds


def as_table(entries: dict[str, dict[str, Any]], noun: str) -> str:
    """The entries as a table for a terminal, one column per model, then the means over folds."""
    columns: dict[str, dict[str, Any]] = {}
    notes = []
    for model, entry in entries.items():
        columns[model] = entry
        if undisputed := entry.get("undisputed"):
            columns[f"{model}, undisputed"] = undisputed
            errors = f"{undisputed['num_disputed_errors']:,} of {quantity(undisputed['num_errors'], 'error')}"
            notes.append(f"{model}: {errors} on disputed cells; the split has {undisputed['num_disputed']:,}")
        if folds := entry["folds"]:
            notes.append(f"{model}: mean ± standard deviation over {len(folds['auc']['values'])} folds")
            notes += [f"{name:<18}{_number(folds[name]['mean'])} ± {_number(folds[name]['sd'])}" for name in folds]
    width = max(24, *(len(name) + 2 for name in columns))
    rows = {name: [_with_interval(**item[name]) for item in columns.values()] for name in metrics.NAMES}
    for name in ("tn", "fp", "fn", "tp"):
        rows[name] = [f"{item['confusion'][name]:,}" for item in columns.values()]
    first = next(iter(entries.values()))
    patients = f"unknown {noun}s; no intervals over {noun}s"
    if first["num_patients"]:
        patients = f"{quantity(first['num_patients'], noun)}; 95 % intervals over {noun}s"
    lines = [f"{first['split']}: {quantity(first['num_cells'], 'cell')} of {patients}"]
    for title, texts in ({"": list(columns)} | rows).items():
        lines.append(f"{title:<18}" + "".join(f"{text:>{width}}" for text in texts))
    return "\n".join(map(printable, lines + notes))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _with_interval(value: float | None, ci95: list[float] | None) -> str:
    return _number(value) + (f" ({ci95[0]:.3f}–{ci95[1]:.3f})" if ci95 else " " * 14)
