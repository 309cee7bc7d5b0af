"""A model's predictions with all that the report needs to judge them: between predicting and reporting."""

from typing import Any, NamedTuple

import numpy as np

from trainers.evaluation.metrics import calibration
from trainers.evaluation.metrics.operating_points import NAMES
from trainers.evaluation.metrics.thresholds import Choice
from trainers.evaluation.predictions import Predictions
from trainers.evaluation.runs import ModelRuns


class ModelPredictions(NamedTuple):
    """A candidate and what it said.

    Attributes:
      candidate: see `candidates.ModelRuns`.
      predictions: of all members, one after the other.
      member: int64 [cells], which member predicted each cell.
      choices: one a member.
      leak: see `leak.check`.
      test_time_flips: whether probabilities are means over flips and turns.
    """

    candidate: ModelRuns
    predictions: Predictions
    member: np.ndarray
    choices: tuple[Choice, ...]
    leak: dict[str, Any]
    test_time_flips: bool

    @property
    def name(self) -> str:
        """Key in `metrics.json`."""
        return self.candidate.name

    @property
    def scaled_probabilities(self) -> np.ndarray:
        """float64 [cells] in 0…1, each member's with its own temperature."""
        scaled = self.predictions.probabilities.copy()
        for number, choice in enumerate(self.choices):
            of_member = self.member == number
            scaled[of_member] = calibration.apply_temperature(scaled[of_member], choice.temperature)
        return scaled

    @property
    def thresholds(self) -> dict[str, np.ndarray]:
        """Threshold of each cell by operating point, float64 [cells]; points that every member has."""
        return {
            name: np.array([choice.thresholds[name] for choice in self.choices])[self.member]
            for name in NAMES
            if all(name in choice.thresholds for choice in self.choices)
        }
