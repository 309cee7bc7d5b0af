"""What predictions mean for patients: counts by patient, and what a smear of thousands of cells would show. Pure."""

from typing import Any

import numpy as np

_SMEAR_CELLS = 5000  # roughly what a microscopist counts in a thin film


def count(labels: np.ndarray, predictions: np.ndarray, patient_ids: np.ndarray) -> list[dict[str, Any]]:
    """Counts cells by patient, sorted by patient: the table of `metrics.json`.

    Labels and predictions are int [cells], 1 is parasitized; patient IDs str [cells]. Sensitivity is None without
    parasitized cells, false_positives_per_1000 without uninfected ones.
    """
    names, patient = np.unique(patient_ids, return_inverse=True)
    table = np.zeros((len(names), 2, 2), np.int64)
    np.add.at(table, (patient, labels.astype(int), predictions.astype(int)), 1)
    return [
        {
            "patient_id": name,
            "num_uninfected": tn + fp,
            "num_parasitized": fn + tp,
            "false_positives": fp,
            "true_positives": tp,
            "called_positive": fp + tp,
            "sensitivity": _ratio(tp, fn + tp),
            "false_positives_per_1000": _ratio(1000 * fp, tn + fp),
        }
        for name, ((tn, fp), (fn, tp)) in zip(names.tolist(), table.tolist(), strict=True)
    ]


def smear(counts: list[dict[str, Any]], prevalence: float) -> dict[str, Any]:
    """What a smear would show if its cells were like those of the split.

    Predictive values of one cell follow by Bayes' theorem from the sensitivity of all parasitized cells and the
    false-positive rate of all uninfected ones. How few parasites a count can still show depends on the spread of the
    false-positive rates of uninfected patients.

    Args:
      counts: see `count`; both classes present.
      prevalence: fraction of parasitized cells in the smear, in 0…1.

    Returns:
      true_positives, false_positives: expected numbers of cells; positive_predictive_value and
      negative_predictive_value of one cell, None where nothing is predicted so; uninfected_patients: false positives in
      a smear of each, None if there is no uninfected patient; hidden_below: the prevalence under which an infected
      patient's true positives are fewer than the most false positives of an uninfected patient; 1 if they always are.
    """
    sensitivity, false_positive_rate = (
        sum(row[part] for row in counts) / sum(row[total] for row in counts)
        for part, total in (("true_positives", "num_parasitized"), ("false_positives", "num_uninfected"))
    )
    true_positives = _SMEAR_CELLS * prevalence * sensitivity
    false_positives = _SMEAR_CELLS * (1 - prevalence) * false_positive_rate
    true_negatives = _SMEAR_CELLS * (1 - prevalence) * (1 - false_positive_rate)
    rates = np.array([row["false_positives"] / row["num_uninfected"] for row in counts if not row["num_parasitized"]])
    uninfected, hidden_below = None, None
    if len(rates):
        low, median, high = (_SMEAR_CELLS * float(rate) for rate in (rates.min(), np.median(rates), rates.max()))
        uninfected = {"num_patients": len(rates), "min": low, "median": median, "max": high}
        hidden_below = min(1.0, float(rates.max()) / sensitivity) if sensitivity else 1.0
    return {
        "num_cells": _SMEAR_CELLS,
        "prevalence": prevalence,
        "true_positives": true_positives,
        "false_positives": false_positives,
        "positive_predictive_value": _ratio(true_positives, true_positives + false_positives),
        "negative_predictive_value": _ratio(true_negatives, _SMEAR_CELLS - true_positives - false_positives),
        "uninfected_patients": uninfected,
        "hidden_below": hidden_below,
    }


def _ratio(part: float, total: float) -> float | None:
    return part / total if total > 0 else None
