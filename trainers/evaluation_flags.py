"""The flags of an evaluation, shared by `trainers.evaluate` and `trainers.cross_validate`."""

from typing import NamedTuple

from absl import flags

from pipeline import label_list
from pipeline.cells import LABELS
from pipeline.label_list import LabelList


class Options(NamedTuple):
    """The values of the flags below, by name, the batch size, and the list of disputed labels, if there is one."""

    batch_size: int
    test_time_flips: bool
    num_resamples: int
    prevalence: float
    disputed_labels: LabelList | None = None


def define_test_time_flips() -> None:
    """Defines the flag that `trainers.predict` has, too."""
    text = "Predict the mean probability over the 8 flips and quarter turns of a cell, at 8 times the work."
    flags.DEFINE_bool("test_time_flips", False, text)


def define_model() -> None:
    """Defines the flag of the commands that load models; its values are for `import_tensorflow`."""
    text = "Modules with layers of your own, as given to trainers.custom: my_module:my_cnn. They are imported first."
    flags.DEFINE_list("model", [], text)


def define() -> None:
    """Defines the flags for a main module."""
    define_test_time_flips()
    flags.DEFINE_integer("num_resamples", 2000, "Bootstrap resamples per interval.", 100, 100_000)
    text = "Fraction of parasitized cells in the smear of 5,000 cells that the report describes."
    flags.DEFINE_float("prevalence", 0.01, text, 1e-6, 1.0)
    text = "CSV file with the header filename,published_label: cells whose label experts dispute. All metrics are also "
    flags.DEFINE_string("disputed_labels", None, text + "computed without them.")


def read(batch_size: int) -> Options:
    """Reads the flags; raises InputError if `--disputed_labels` is no such list."""
    options = Options(batch_size, *(getattr(flags.FLAGS, name) for name in Options._fields[1:]))
    if (path := flags.FLAGS.disputed_labels) is None:
        return options
    return options._replace(disputed_labels=label_list.read("disputed_labels", path, "published_label", LABELS))
