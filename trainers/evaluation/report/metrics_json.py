"""The entries of `metrics.json`: one per model, comparisons of two, and as a table for a terminal. Pure."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.label_list import LabelList
from pipeline.terminal import printable, quantity
from trainers import image_statistics
from trainers.evaluation.metrics import bootstrap, metrics, patients
from trainers.evaluation.metrics.bootstrap import Sums
from trainers.evaluation.metrics.thresholds import DEFAULT
from trainers.evaluation.predictions import ModelPredictions
from trainers.evaluation_flags import Options

_THRESHOLD_METRICS = ("sensitivity", "specificity", "precision")


def sum_by_patient(model: ModelPredictions) -> Sums:
    """What the metrics of a model consist of, summed by patient."""
    labels, probabilities, _, patient_ids = model.predictions
    return Sums(labels, probabilities, patient_ids)


def build_entry(model: ModelPredictions, by_patient: Sums, options: Options) -> dict[str, Any]:
    """Builds one model's entry, from its sums of `sum_by_patient`."""
    labels, probabilities, _, patient_ids = model.predictions
    by_cell = _estimate([Sums(labels, probabilities, np.arange(len(labels)))], options)
    predictions = probabilities >= metrics.THRESHOLD
    counts = patients.count(labels, predictions, patient_ids)
    return {
        "split": model.model_runs.split,
        "num_cells": len(labels),
        "num_patients": len(set(patient_ids.tolist()) - {""}),
        "confusion": metrics.confusion(labels, probabilities),
        **_estimate([by_patient], options),
        "ci95_by_cell": {name: item["ci95"] for name, item in by_cell.items()},
        "class_weighted": metrics.class_weighted(labels, predictions),
        "operating_points": _operating_points(model, options),
        "calibration": _calibration(model),
        "patients": counts,
        "smear": patients.smear(counts, options.prevalence),
        "folds": _folds(model),
        "leak": model.leak,
        "external": model.leak["is_external"],
        "unlike_training": None if model.unlike is None else image_statistics.count(model.unlike),
        "test_time_flips": model.test_time_flips,
        **({"undisputed": _undisputed(model, options, disputed)} if (disputed := options.disputed_labels) else {}),
    }


def _undisputed(model: ModelPredictions, options: Options, disputed_labels: LabelList) -> dict[str, Any]:
    """The metrics without the disputed cells, and how many of the errors are disputed."""
    disputed = np.isin(model.predictions.filenames, list(disputed_labels.labels))
    labels, probabilities, _, patient_ids = (column[~disputed] for column in model.predictions)
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"{disputed_labels.name} leaves cells of one class only in {model.model_runs.split}; expected "
            "undisputed cells of both classes: leave the flag out"
        )
    is_error = (model.predictions.probabilities >= metrics.THRESHOLD) != (model.predictions.labels == 1)
    return {
        "num_cells": len(labels),
        "num_patients": len(set(patient_ids.tolist()) - {""}),
        "num_disputed": int(disputed.sum()),
        "num_errors": int(is_error.sum()),
        "num_disputed_errors": int((is_error & disputed).sum()),
        "confusion": metrics.confusion(labels, probabilities),
        **_estimate([Sums(labels, probabilities, patient_ids)], options),
    }


def _estimate(models: list[Sums], options: Options, names: Iterable[str] = metrics.NAMES) -> dict[str, dict[str, Any]]:
    estimates = bootstrap.estimate(models, options.num_resamples, options.bootstrap_seed, names)
    return {name: item._asdict() for name, item in estimates.items()}


def _operating_points(model: ModelPredictions, options: Options) -> dict[str, Any]:
    labels, probabilities, _, patient_ids = model.predictions
    points = {}
    for name, cell_thresholds in model.cell_thresholds.items():
        predictions = (probabilities >= cell_thresholds).astype(np.float64)
        points[name] = {
            "thresholds": [fitted.thresholds[name] for fitted in model.thresholds],
            "chosen_on": [fitted.split for fitted in model.thresholds] if name != DEFAULT else None,
            "confusion": metrics.confusion(labels, predictions),
            **_estimate([Sums(labels, predictions, patient_ids)], options, _THRESHOLD_METRICS),
        }
    return points


def _calibration(model: ModelPredictions) -> dict[str, Any] | None:
    if not model.is_calibrated:
        return None
    labels, probabilities, *_ = model.predictions
    return {
        "temperatures": [fitted.temperature for fitted in model.thresholds],
        "before": metrics.calibration_errors(labels, probabilities),
        "after": metrics.calibration_errors(labels, model.calibrated_probabilities),
    }


def _folds(model: ModelPredictions) -> dict[str, Any] | None:
    """Mean and standard deviation over the folds, as the literature reports cross-validation; None for one run."""
    num_runs = len(model.model_runs.runs)
    if num_runs < 2:
        return None
    labels, probabilities, *_ = model.predictions
    masks = [model.run_index == number for number in range(num_runs)]
    by_fold = [metrics.compute(labels[mask], probabilities[mask]) for mask in masks]
    values = {name: [fold[name] for fold in by_fold] for name in metrics.NAMES}
    return {
        name: {"mean": float(np.mean(items)), "sd": float(np.std(items, ddof=1)), "values": items}
        for name, items in values.items()
    }


def compare(one: tuple[str, Sums], other: tuple[str, Sums], options: Options) -> dict[str, Any]:
    """Paired differences of two models, each a name and its `sum_by_patient`: the first minus the second."""
    return {"models": [one[0], other[0]], "difference": _estimate([one[1], other[1]], options)}


def as_table(entries: dict[str, dict[str, Any]], noun: str) -> str:
    """The entries as a table for a terminal: one line per metric, one column per model, then the means over folds.

    For the noun see `patient_noun`.
    """
    first = next(iter(entries.values()))

    def line(title: str, texts: Iterable[str]) -> str:
        return f"{title:<18}" + "".join(f"{text:>{width}}" for text in texts)

    columns: dict[str, dict[str, Any]] = {}
    for model, entry in entries.items():
        columns |= {model: entry} | ({f"{model}, undisputed": entry["undisputed"]} if "undisputed" in entry else {})
    width = max(24, *(len(name) + 2 for name in columns))
    patients = f"unknown {noun}s; no intervals over {noun}s"
    if first["num_patients"]:
        patients = f"{quantity(first['num_patients'], noun)}; 95 % intervals over {noun}s"
    lines = [f"{first['split']}: {quantity(first['num_cells'], 'cell')} of {patients}", line("", columns)]
    lines += [line(name, (_with_interval(**item[name]) for item in columns.values())) for name in metrics.NAMES]
    lines += [line(name, (f"{item['confusion'][name]:,}" for item in columns.values())) for name in first["confusion"]]
    for model, entry in entries.items():
        if undisputed := entry.get("undisputed"):
            lines.append(
                f"{model}: {undisputed['num_disputed_errors']:,} of {undisputed['num_errors']:,} errors are disputed "
                f"cells; the split has {undisputed['num_disputed']:,}"
            )
    for model, entry in entries.items():
        if folds := entry["folds"]:
            lines += ["", f"{model}: mean ± standard deviation over {len(folds['accuracy']['values'])} folds"]
            lines += [f"{name:<18}{folds[name]['mean']:.4f} ± {folds[name]['sd']:.4f}" for name in metrics.NAMES]
    return "\n".join(map(printable, lines))


def _with_interval(value: float, ci95: list[float] | None) -> str:
    return f"{value:.4f}" + (f" ({ci95[0]:.3f}–{ci95[1]:.3f})" if ci95 else " " * 14)
