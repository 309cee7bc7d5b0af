"""A model's entry of `metrics.json`, and the comparison of two. Pure."""

from typing import Any

import numpy as np

from trainers.evaluation.metrics import bootstrap, calibration, metrics, operating_points, patients
from trainers.evaluation.metrics.bootstrap import Resampled
from trainers.evaluation.model_predictions import ModelPredictions

_CALL_METRICS = ("sensitivity", "specificity", "precision")

Entry = dict[str, Any]


def resample(judged: ModelPredictions, num_resamples: int, seed: int) -> dict[str, Resampled]:
    """All metrics of a model on resampled patients."""
    labels, probabilities, _, patient_ids = judged.predictions
    return bootstrap.resample(labels, probabilities, patient_ids, num_resamples=num_resamples, seed=seed)


def build(
    judged: ModelPredictions, resampled: dict[str, Resampled], num_resamples: int, seed: int, prevalence: float
) -> Entry:
    """One model's entry.

    Args:
      judged: what the model said.
      resampled: see `resample`.
      num_resamples, seed: of the other intervals.
      prevalence: see `patients.smear`.
    """
    labels, probabilities, _, patient_ids = judged.predictions
    known = len(set(patient_ids.tolist()) - {""})
    cells = np.arange(len(labels))
    by_cell = bootstrap.resample(labels, probabilities, cells, num_resamples=num_resamples, seed=seed)
    calls = probabilities >= metrics.THRESHOLD
    counts = patients.count(labels, calls, patient_ids)
    return {
        "split": judged.candidate.split,
        "num_cells": len(labels),
        "num_patients": known,
        "confusion": metrics.confusion(labels, probabilities),
        **{
            name: {"value": value, "ci95": _interval(resampled[name], name, len(labels))}
            for name, value in metrics.compute(labels, probabilities).items()
        },
        "ci95_by_cell": {name: _interval(item, name, len(labels)) for name, item in by_cell.items()},
        "class_weighted": metrics.class_weighted(labels, calls),
        "operating_points": _operating_points(judged, num_resamples, seed),
        "calibration": _calibration(judged),
        "patients": patients.as_json(counts),
        "smear": patients.smear(counts, prevalence),
        "folds": _folds(judged),
        "leak": judged.leak,
        "test_time_flips": judged.test_time_flips,
    }


def _interval(item: Resampled, name: str, num_cells: int) -> bootstrap.Interval:
    return bootstrap.interval(item, num_cells, lowest=-1.0 if name == "mcc" else 0.0)


def _operating_points(judged: ModelPredictions, num_resamples: int, seed: int) -> dict[str, Any]:
    labels, probabilities, _, patient_ids = judged.predictions
    found = {}
    for name, thresholds in judged.thresholds.items():
        calls = (probabilities >= thresholds).astype(np.float64)
        resampled = bootstrap.resample(
            labels, calls, patient_ids, num_resamples=num_resamples, seed=seed, names=_CALL_METRICS
        )
        found[name] = {
            "thresholds": [choice.thresholds[name] for choice in judged.choices],
            "chosen_on": [choice.split for choice in judged.choices] if name != operating_points.DEFAULT else None,
            "confusion": metrics.confusion(labels, calls),
            **{
                metric: {"value": item.value, "ci95": _interval(item, metric, len(labels))}
                for metric, item in resampled.items()
            },
        }
    return found


def _calibration(judged: ModelPredictions) -> dict[str, Any] | None:
    if not all(choice.split for choice in judged.choices):
        return None
    labels, probabilities = judged.predictions[:2]
    return {
        "temperatures": [choice.temperature for choice in judged.choices],
        "before": calibration.report(labels, probabilities),
        "after": calibration.report(labels, judged.scaled_probabilities),
    }


def _folds(judged: ModelPredictions) -> dict[str, Any] | None:
    """Mean and standard deviation over the members, as the literature reports cross-validation; None for one run."""
    if len(judged.candidate.members) < 2:
        return None
    labels, probabilities = judged.predictions[:2]
    by_fold = [
        metrics.compute(labels[judged.member == number], probabilities[judged.member == number])
        for number in range(len(judged.candidate.members))
    ]
    return {
        name: {
            "mean": float(np.mean([fold[name] for fold in by_fold])),
            "sd": float(np.std([fold[name] for fold in by_fold], ddof=1)),
            "values": [fold[name] for fold in by_fold],
        }
        for name in metrics.NAMES
    }


def compare(one: tuple[str, dict[str, Resampled]], other: tuple[str, dict[str, Resampled]]) -> dict[str, Any]:
    """Paired differences of two models on the same cells: the first minus the second.

    Args:
      one, other: name, and metrics on the same resamples of patients.
    """
    found = {}
    for name in metrics.NAMES:
        value, ends = bootstrap.difference(one[1][name], other[1][name])
        found[name] = {"value": value, "ci95": ends}
    return {"models": [one[0], other[0]], "difference": found}
