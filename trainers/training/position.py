"""Where a run is, in epochs and steps."""

import dataclasses


@dataclasses.dataclass
class TrainStep:
    """Where a run is.

    Attributes:
      epoch: the epoch under way, from 0.
      step_in_epoch: steps of it that are done.
      steps_per_epoch: trained steps an epoch.
    """

    epoch: int
    step_in_epoch: int
    steps_per_epoch: int

    @property
    def step(self) -> int:
        """Steps over all epochs."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch
