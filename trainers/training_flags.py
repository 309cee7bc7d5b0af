"""The flags that all trainers share, defined once; no TensorFlow here, so that `--help` is quick.

The defaults are the original's recipe; `trainers/flagfiles/<model>.flags` is the better one. A flag's name is its
name everywhere: in `Options`, in `run.json`, in the functions that it reaches.
"""

import math
from typing import Any, NamedTuple

from absl import flags

from pipeline.errors import InputError
from pipeline.splits.configs import CONFIGS
from trainers import export_formats
from trainers.augmentation.ranges import FILLS, FLIPS, Ranges

MODELS = ("basic_cnn", "vgg_frozen", "vgg_ft")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
INPUT_MODES = ("auto", "resident", "mapped", "streaming")
OPTIMIZERS = ("adam", "rmsprop")
SCHEDULES = ("constant", "plateau", "cosine")
CLASS_WEIGHTS = ("none", "balanced")
JIT_COMPILE = ("auto", "true", "false")
DISTRIBUTE = ("auto", "none", "mirrored")
VGG_INPUTS = ("imagenet", "original")
_DEFAULT_CONFIG = next(iter(CONFIGS))
_SPLITS = (("train_split", "train"), ("validation_split", "validation"), ("test_split", "test"))


class Options(NamedTuple):
    """The value of every training flag, by the flag's name; those of the VGGs are None for other models."""

    data_dir: str
    config: str
    train_split: str
    validation_split: str
    test_split: str
    run_dir: str
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    schedule: str
    warmup_epochs: float
    early_stopping_patience: int
    ema_momentum: float
    label_smoothing: float
    dropout_rate: float
    class_weight: str
    rotation_degrees: float
    zoom: float
    shift: float
    shear_degrees: float
    flip: str
    fill: str
    stain_gain: float
    stain_offset: float
    stain_contrast: float
    stain_hue_degrees: float
    seed: int
    precision: str
    jit_compile: str
    steps_per_execution: int
    distribute: str
    input: str
    checkpoint_minutes: float
    export: list[str]
    vgg_weights: str | None = None
    vgg_input: str | None = None

    @property
    def ranges(self) -> Ranges:
        """The flags of augmentation."""
        return Ranges(*(getattr(self, name) for name in Ranges._fields))


def define(
    *,
    optimizer: str,
    learning_rate: float,
    schedule: str = "plateau",
    ranges: Ranges = Ranges(),  # noqa: B008 - immutable
    is_vgg: bool = False,
) -> None:
    """Defines the flags for a trainer's main module, with the original's values of that model as defaults."""
    _define_data()
    _define_recipe(optimizer, learning_rate, schedule)
    _define_augmentation(ranges)
    _define_hardware()
    if is_vgg:
        flags.DEFINE_string(
            "vgg_weights",
            "imagenet",
            "imagenet (Keras downloads them once), a Keras weights file, an .npz by layer name, or none.",
        )
        flags.DEFINE_enum(
            "vgg_input",
            "imagenet",
            VGG_INPUTS,
            "imagenet: BGR, mean-centred, as the weights expect; original: BGR/255.",
        )


def _define_data() -> None:
    flags.DEFINE_string("data_dir", None, "Root of the data sets, as given to pipeline.preprocess.", required=True)
    flags.DEFINE_string("run_dir", None, "Folder of this run: model, history, curves.", required=True)
    flags.DEFINE_enum("config", _DEFAULT_CONFIG, list(CONFIGS), "Config of the data set.")
    flags.DEFINE_string("train_split", None, "TFDS split expression to train on; 'train' unless the config is folds.")
    flags.DEFINE_string("validation_split", None, "TFDS split expression that chooses the best epoch; 'validation'.")
    flags.DEFINE_string("test_split", None, "TFDS split expression that is kept for trainers.evaluate; 'test'.")
    flags.DEFINE_enum(
        "input",
        "auto",
        INPUT_MODES,
        "resident: all cells in memory; mapped: memory maps of local shards; streaming: read while training; auto: "
        "the first of these that is possible.",
    )


def _define_recipe(optimizer: str, learning_rate: float, schedule: str) -> None:
    flags.DEFINE_integer("epochs", 25, "Number of epochs, at most.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Cells a step.", lower_bound=1)
    flags.DEFINE_enum("optimizer", optimizer, OPTIMIZERS, "Of the weights.")
    flags.DEFINE_float("learning_rate", learning_rate, "Of the optimizer, at its highest.", lower_bound=1e-12)
    flags.DEFINE_float("weight_decay", 0.0, "Share of the weights taken away a step, times the rate.", lower_bound=0.0)
    flags.DEFINE_enum(
        "schedule",
        schedule,
        SCHEDULES,
        "plateau: halved when the validation loss stands still for 2 epochs; cosine: down to nothing over all epochs.",
    )
    flags.DEFINE_float(
        "warmup_epochs", 0.0, "Epochs over which --schedule=cosine rises from nothing first.", lower_bound=0.0
    )
    flags.DEFINE_integer(
        "early_stopping_patience",
        0,
        "Stop after so many epochs without a lower validation loss; 0: never.",
        lower_bound=0,
    )
    flags.DEFINE_float(
        "ema_momentum",
        0.0,
        "Judge and save a moving average of the weights, of this momentum a step; 0: the weights themselves.",
        lower_bound=0.0,
        upper_bound=0.99999,
    )
    flags.DEFINE_float(
        "label_smoothing", 0.0, "Labels are moved by half of this towards ½.", lower_bound=0.0, upper_bound=0.5
    )
    flags.DEFINE_float("dropout_rate", 0.3, "Of the two dense layers.", lower_bound=0.0, upper_bound=0.95)
    flags.DEFINE_enum(
        "class_weight", "none", CLASS_WEIGHTS, "balanced: both classes count the same, however many cells they have."
    )
    flags.DEFINE_integer(
        "seed", 42, "Decides on initial weights, order, dropout, augmentation.", lower_bound=0, upper_bound=2**31 - 1
    )


def _define_augmentation(ranges: Ranges) -> None:
    for name, upper_bound, meaning in (
        ("rotation_degrees", 180.0, "Turn by up to ± this."),
        ("zoom", 0.9, "Stretch each axis by up to ± this share."),
        ("shift", 1.0, "Move each way by up to ± this share of the side."),
        ("shear_degrees", 80.0, "Shear by up to ± this."),
        ("stain_gain", 0.9, "Each channel times up to 1 ± this."),
        ("stain_offset", 1.0, "Each channel plus up to ± this share of 255."),
        ("stain_contrast", 0.9, "Each channel's contrast times up to 1 ± this."),
        ("stain_hue_degrees", 180.0, "Turn the hue by up to ± this."),
    ):
        flags.DEFINE_float(name, getattr(ranges, name), meaning, lower_bound=0.0, upper_bound=upper_bound)
    flags.DEFINE_enum("flip", ranges.flip, FLIPS, "Axes that are flipped for half of the cells.")
    flags.DEFINE_enum("fill", ranges.fill, FILLS, "What comes in from beyond the border.")


def _define_hardware() -> None:
    flags.DEFINE_enum(
        "precision",
        "auto",
        PRECISIONS,
        "Of the layers but the last; auto: bfloat16 or float16 on a GPU, bfloat16 on a processor that gains by it.",
    )
    flags.DEFINE_enum("jit_compile", "auto", JIT_COMPILE, "Compile the step by XLA; auto: on a GPU.")
    flags.DEFINE_integer("steps_per_execution", 1, "Steps that the device takes in one call.", lower_bound=1)
    flags.DEFINE_enum("distribute", "auto", DISTRIBUTE, "mirrored: all GPUs of this machine; auto: if it has several.")
    flags.DEFINE_float(
        "checkpoint_minutes", 10.0, "Keep a checkpoint that often, and at each epoch's end.", lower_bound=0.0
    )
    flags.DEFINE_list("export", [], f"Also write the best model in these forms: {', '.join(export_formats.NAMES)}.")


def read() -> Options:
    """The flags' values, splits filled in.

    Raises:
      InputError: if the config has no split of the default name and none was given, or flags contradict each other.
    """
    known = flags.FLAGS
    values: dict[str, Any] = {name: known[name].value for name in Options._fields if name in known}
    names = CONFIGS[values["config"]].splits
    for flag, default in _SPLITS:
        if values[flag] is None:
            if default not in names:
                raise InputError(
                    f"--{flag} is missing; --config={values['config']} has the splits {', '.join(names)}: give a TFDS "
                    f"split expression such as {names[0]}+{names[1]}"
                )
            values[flag] = default
    options = Options(**values)
    _check(options)
    return options


def _check(options: Options) -> None:
    for name, value in options._asdict().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"--{name}={value} is no finite number")
    export_formats.check(options.export, "export")
    if options.warmup_epochs and options.schedule != "cosine":
        raise InputError(
            f"--warmup_epochs={options.warmup_epochs:g} goes with --schedule=cosine; got --schedule={options.schedule}"
        )
    if options.warmup_epochs >= options.epochs:
        raise InputError(
            f"--warmup_epochs={options.warmup_epochs:g} leaves nothing of --epochs={options.epochs}; give fewer"
        )
