"""The flags of a verdict, shared by `trainers.evaluate` and `trainers.cross_validate`."""

from typing import NamedTuple

from absl import flags


class Options(NamedTuple):
    """The value of every flag, by its name.

    Attributes:
      batch_size: cells a step.
      test_time_flips: whether probabilities are means over flips and quarter turns.
      num_resamples, bootstrap_seed: of the intervals.
      prevalence: share of parasitized cells in the smear that the report speaks of.
    """

    batch_size: int
    test_time_flips: bool
    num_resamples: int
    bootstrap_seed: int
    prevalence: float


def define() -> None:
    """Defines the flags for a main module."""
    flags.DEFINE_bool(
        "test_time_flips",
        False,
        "Mean probability over the 8 flips and quarter turns of a cell: 8 times the work.",
    )
    flags.DEFINE_integer("num_resamples", 2000, "Resamples of the bootstrap.", lower_bound=100, upper_bound=100_000)
    flags.DEFINE_integer("bootstrap_seed", 0, "Decides on the resamples.", lower_bound=0)
    flags.DEFINE_float(
        "prevalence",
        0.01,
        "Share of parasitized cells in the smear of 5,000 cells that the report calculates.",
        lower_bound=1e-6,
        upper_bound=1.0,
    )


def read(batch_size: int) -> Options:
    """The flags' values, and the batch size, which is a trainer's flag elsewhere."""
    return Options(batch_size, *(getattr(flags.FLAGS, name) for name in Options._fields[1:]))
