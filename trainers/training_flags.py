"""The flags that all trainers share, defined once; no TensorFlow here, so that `--help` is quick."""

from typing import NamedTuple

from absl import flags

from pipeline.errors import InputError
from pipeline.split import CONFIGS

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
INPUT_MODES = ("auto", "resident", "mapped", "streaming")
_DEFAULT_CONFIG = next(iter(CONFIGS))


class Options(NamedTuple):
    """The value of every training flag, by the flag's name."""

    data_dir: str
    config: str
    train_split: str
    validation_split: str
    test_split: str
    run_dir: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    precision: str
    input: str
    max_corrupt_records: int


def define(*, epochs: int, batch_size: int, learning_rate: float) -> None:
    """Defines the flags for a trainer's main module, with its defaults."""
    flags.DEFINE_string("data_dir", None, "Root of the data sets, as given to pipeline.preprocess.", required=True)
    flags.DEFINE_string("run_dir", None, "Folder of this run: model, history, curves.", required=True)
    flags.DEFINE_enum("config", _DEFAULT_CONFIG, list(CONFIGS), "Config of the data set.")
    flags.DEFINE_string("train_split", None, "TFDS split expression to train on; 'train' unless the config is folds.")
    flags.DEFINE_string("validation_split", None, "TFDS split expression that chooses the best epoch; 'validation'.")
    flags.DEFINE_string("test_split", None, "TFDS split expression that is kept for trainers.evaluate; 'test'.")
    flags.DEFINE_integer("epochs", epochs, "Number of epochs.", lower_bound=1)
    flags.DEFINE_integer("batch_size", batch_size, "Cells a step.", lower_bound=1)
    flags.DEFINE_float("learning_rate", learning_rate, "Of the optimizer, at the start.", lower_bound=1e-12)
    flags.DEFINE_integer(
        "seed", 42, "Decides on initial weights, order and dropout.", lower_bound=0, upper_bound=2**31 - 1
    )
    flags.DEFINE_enum(
        "precision",
        "auto",
        PRECISIONS,
        "Of the layers but the last; auto is bfloat16 or float16 on a GPU, else float32.",
    )
    flags.DEFINE_enum(
        "input",
        "auto",
        INPUT_MODES,
        "resident: all cells in memory; mapped: memory maps of local shards; streaming: read while training; auto: "
        "the first of these that is possible.",
    )
    flags.DEFINE_integer("max_corrupt_records", 0, "Damaged records to skip before the run stops.", lower_bound=0)


def read() -> Options:
    """The flags' values, splits filled in.

    Raises:
      InputError: if the config has no split of the default name and none was given.
    """
    values = {name: flags.FLAGS[name].value for name in Options._fields}
    names = CONFIGS[values["config"]].splits
    for flag, default in (("train_split", "train"), ("validation_split", "validation"), ("test_split", "test")):
        if values[flag] is None:
            if default not in names:
                raise InputError(
                    f"--{flag} is missing; --config={values['config']} has the splits {', '.join(names)}: give a TFDS "
                    f"split expression such as {names[0]}+{names[1]}"
                )
            values[flag] = default
    return Options(**values)
