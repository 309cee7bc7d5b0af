"""What the calls mean for patients: counts by patient, false positives, and a smear of thousands of cells. Pure."""

from typing import Any, NamedTuple

import numpy as np

SMEAR_CELLS = 5000
"""Cells that a microscopist's thin-film count looks at, roughly."""


class PatientCounts(NamedTuple):
    """One patient's cells.

    Attributes:
      patient_id: the patient.
      num_uninfected, num_parasitized: cells by label.
      false_positives, true_positives: of these, how many were called parasitized.
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
        """Share of the parasitized cells that were called so; None without any."""
        return self.true_positives / self.num_parasitized if self.num_parasitized else None

    @property
    def false_positives_per_1000(self) -> float | None:
        """Of 1,000 uninfected cells; None without any."""
        return 1000 * self.false_positives / self.num_uninfected if self.num_uninfected else None


def count(labels: np.ndarray, calls: np.ndarray, patient_ids: np.ndarray) -> list[PatientCounts]:
    """Counts cells by patient, sorted by patient.

    Args:
      labels, calls: int [cells], 1 is parasitized.
      patient_ids: str [cells].
    """
    names, patient = np.unique(patient_ids, return_inverse=True)
    table = np.zeros((len(names), 2, 2), np.int64)
    np.add.at(table, (patient, labels.astype(int), calls.astype(int)), 1)
    return [
        PatientCounts(str(name), int(cells[0].sum()), int(cells[1].sum()), int(cells[0, 1]), int(cells[1, 1]))
        for name, cells in zip(names, table, strict=True)
    ]


def as_json(counts: list[PatientCounts]) -> list[dict[str, Any]]:
    """The table for `metrics.json`."""
    return [
        {
            **item._asdict(),
            "called_positive": item.false_positives + item.true_positives,
            "sensitivity": item.sensitivity,
            "false_positives_per_1000": item.false_positives_per_1000,
        }
        for item in counts
    ]


def smear(counts: list[PatientCounts], prevalence: float, num_cells: int = SMEAR_CELLS) -> dict[str, Any]:
    """What a smear would show if its cells were like those of the split.

    Predicted values of one cell by Bayes' theorem from the sensitivity of all parasitized cells and the
    false-positive rate of all uninfected ones; beside them the uninfected patients' own false-positive rates, whose
    spread decides on how few parasites a count can still show.

    Args:
      counts: see `count`; both classes present.
      prevalence: share of parasitized cells in the smear, in 0…1.
      num_cells: cells of the smear.

    Returns:
      true_positives, false_positives: expected numbers of cells; positive_predictive_value and
      negative_predictive_value of one cell, None where nothing is called so; uninfected_patients: false positives of
      each one's smear, None if there is no uninfected patient; hidden_below: the prevalence under which an infected
      patient's true positives are fewer than the most false positives of an uninfected patient; 1 if they always are.
    """
    totals = np.sum([item[1:] for item in counts], axis=0)
    sensitivity, false_positive_rate = totals[3] / totals[1], totals[2] / totals[0]
    true_positives = num_cells * prevalence * sensitivity
    false_positives = num_cells * (1 - prevalence) * false_positive_rate
    called_negative = num_cells - true_positives - false_positives
    rates = [item.false_positives / item.num_uninfected for item in counts if not item.is_infected]
    return {
        "num_cells": num_cells,
        "prevalence": prevalence,
        "true_positives": float(true_positives),
        "false_positives": float(false_positives),
        "positive_predictive_value": _share(true_positives, true_positives + false_positives),
        "negative_predictive_value": _share(num_cells * (1 - prevalence) * (1 - false_positive_rate), called_negative),
        "uninfected_patients": {
            "num_patients": len(rates),
            "min": num_cells * min(rates),
            "median": num_cells * float(np.median(rates)),
            "max": num_cells * max(rates),
        }
        if rates
        else None,
        "hidden_below": _hidden_below(max(rates), sensitivity) if rates else None,
    }


def _hidden_below(false_positive_rate: float, sensitivity: float) -> float:
    return min(1.0, false_positive_rate / sensitivity) if sensitivity else 1.0


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
