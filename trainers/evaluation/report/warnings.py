"""What a reader of the report must know before reading its numbers. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trainers.evaluation import leak
from trainers.evaluation.model_predictions import ModelPredictions

FEW_PATIENTS = 30
"""Below it the report warns; at 60 the intervals were simulated to cover as they should."""


FEW_VALIDATION_PATIENTS = 10


SEVERITIES = ("leak", "caution", "note")


class Caution(NamedTuple):
    """A sentence above the numbers.

    Attributes:
      severity: one of `SEVERITIES`.
      text: for people.
    """

    severity: str
    text: str


def find(judged: ModelPredictions, config: str) -> list[Caution]:
    """All that speaks against taking a model's numbers at face value."""
    found = []
    patient_ids = judged.predictions.patient_ids
    if config == "by_cell":
        were = "were" if any(patient_ids) else "may have been"
        found.append(
            Caution("leak", f"The cells are split one by one (by_cell): patients of the test {were} trained on too.")
        )
    if text := leak.sentence(judged.name, judged.leak):
        is_leak = judged.leak[leak.TRAINED_ON] or judged.leak[leak.CHOSEN_BY]
        found.append(Caution("leak" if is_leak else "caution", f"{text}."))
    if judged.leak["is_external"]:
        found.append(Caution("note", f"External data for {judged.name}: it was trained on cells of another source."))
    found += _of_patients(judged.predictions.labels, patient_ids)
    if few := [item for item in judged.choices if item.split and 0 < item.num_patients < FEW_VALIDATION_PATIENTS]:
        found.append(
            Caution(
                "caution",
                f"Thresholds and temperature of {judged.name} were chosen on few validation patients "
                f"({min(item.num_patients for item in few)}): what they promise there need not hold here.",
            )
        )
    if not all(choice.split for choice in judged.choices):
        found.append(
            Caution(
                "note",
                f"No validation split of {judged.name} is at hand: only the threshold 0.5 is reported, and no "
                "temperature.",
            )
        )
    if any(member.run["status"] != "finished" for member in judged.candidate.members):
        found.append(Caution("caution", f"{judged.name} is not trained to its end: this is its best epoch so far."))
    return found


def find_all(judged: Sequence[ModelPredictions], config: str) -> list[Caution]:
    """Those of several models, each sentence once, the gravest first."""
    found = dict.fromkeys(caution for item in judged for caution in find(item, config))
    return sorted(found, key=lambda caution: SEVERITIES.index(caution.severity))


def _of_patients(labels: np.ndarray, patient_ids: np.ndarray) -> list[Caution]:
    known = set(patient_ids.tolist()) - {""}
    if not known:
        return [Caution("caution", "No patients are known: there are intervals over cells only, which are too narrow.")]
    infected = set(patient_ids[labels == 1].tolist()) - {""}
    uninfected = known - infected
    if len(known) >= FEW_PATIENTS:
        return []
    return [
        Caution(
            "caution",
            f"Few patients: {len(known)} ({len(infected)} infected, {len(uninfected)} not). Another draw of patients "
            f"could give quite other numbers; below {FEW_PATIENTS} even the intervals are rough.",
        )
    ]


def as_json(cautions: list[Caution]) -> list[dict[str, Any]]:
    """For `metrics.json`."""
    return [caution._asdict() for caution in cautions]
