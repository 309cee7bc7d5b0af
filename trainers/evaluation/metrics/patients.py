"""What predictions mean for patients: counts by patient, and what a smear of thousands of cells would show. Pure."""

from typing import Any, NamedTuple

import numpy as np

SMEAR_CELLS = 5000
"""Cells that a microscopist counts in a thin film, roughly."""


class PatientCounts(NamedTuple):
    """One patient's cells.

    Attributes:
      patient_id: the patient.
      num_uninfected, num_parasitized: cells by label.
      false_positives, true_positives: how many of these are predicted parasitized.
    """

    patient_id: str
    num_uninfected: int
    num_parasitized: int
    false_positives: int
    true_positives: int

    @property
    def is_infected(self) -> bool:
        """Whether any cell is labelled parasitized."""
        return self.num_parasitized > 0

    @property
    def sensitivity(self) -> float | None:
        """Fraction of the parasitized cells that are predicted so; None without any."""
        return self.true_positives / self.num_parasitized if self.num_parasitized else None

    @property
    def false_positives_per_1000(self) -> float | None:
        """Per 1,000 uninfected cells; None without any."""
        return 1000 * self.false_positives / self.num_uninfected if self.num_uninfected else None

    def as_json(self) -> dict[str, Any]:
        """The row for `metrics.json`."""
        return {
            **self._asdict(),
            "called_positive": self.false_positives + self.true_positives,
            "sensitivity": self.sensitivity,
            "false_positives_per_1000": self.false_positives_per_1000,
        }


def count(labels: np.ndarray, predictions: np.ndarray, patient_ids: np.ndarray) -> list[PatientCounts]:
    """Counts cells by patient, sorted by patient.

    Args:
      labels, predictions: int [cells], 1 is parasitized.
      patient_ids: str [cells].
    """
    names, patient = np.unique(patient_ids, return_inverse=True)
    table = np.zeros((len(names), 2, 2), np.int64)
    np.add.at(table, (patient, labels.astype(int), predictions.astype(int)), 1)
    return [
        PatientCounts(str(name), *cells.sum(axis=1).tolist(), *cells[:, 1].tolist())
        for name, cells in zip(names, table, strict=True)
    ]


def smear(counts: list[PatientCounts], prevalence: float, num_cells: int = SMEAR_CELLS) -> dict[str, Any]:
    """What a smear would show if its cells were like those of the split.

    Predictive values of one cell follow by Bayes' theorem from the sensitivity of all parasitized cells and the
    false-positive rate of all uninfected ones. How few parasites a count can still show depends on the spread of the
    false-positive rates of uninfected patients.

    Args:
      counts: see `count`; both classes present.
      prevalence: fraction of parasitized cells in the smear, in 0…1.
      num_cells: cells of the smear.

    Returns:
      true_positives, false_positives: expected numbers of cells; positive_predictive_value and
      negative_predictive_value of one cell, None where nothing is predicted so; uninfected_patients: false positives in
      a smear of each, None if there is no uninfected patient; hidden_below: the prevalence under which an infected
      patient's true positives are fewer than the most false positives of an uninfected patient; 1 if they always are.
    """
    num_uninfected, num_parasitized, num_false, num_true = np.sum([item[1:] for item in counts], axis=0)
    sensitivity, false_positive_rate = num_true / num_parasitized, num_false / num_uninfected
    true_positives = num_cells * prevalence * sensitivity
    false_positives = num_cells * (1 - prevalence) * false_positive_rate
    true_negatives = num_cells * (1 - prevalence) * (1 - false_positive_rate)
    rates = [item.false_positives / item.num_uninfected for item in counts if not item.is_infected]
    uninfected, hidden_below = None, None
    if rates:
        uninfected = {
            "num_patients": len(rates),
            "min": num_cells * min(rates),
            "median": num_cells * float(np.median(rates)),
            "max": num_cells * max(rates),
        }
        hidden_below = min(1.0, max(rates) / sensitivity) if sensitivity else 1.0
    return {
        "num_cells": num_cells,
        "prevalence": prevalence,
        "true_positives": float(true_positives),
        "false_positives": float(false_positives),
        "positive_predictive_value": _ratio(true_positives, true_positives + false_positives),
        "negative_predictive_value": _ratio(true_negatives, num_cells - true_positives - false_positives),
        "uninfected_patients": uninfected,
        "hidden_below": hidden_below,
    }


def _ratio(part: float, total: float) -> float | None:
    return float(part / total) if total > 0 else None
