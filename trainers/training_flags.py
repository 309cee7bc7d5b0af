"""The flags that all trainers share, defined once; no TensorFlow here, so that `--help` is quick.

The defaults are the original's recipe; `trainers/flagfiles/<model>.flags` is the better one. A flag has the same name
in `Options`, in `run.json`, and in the functions that it reaches.
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
) -> dict[str, list[str]]:
    """Defines the flags for a trainer's main module, with the original's values of that model as defaults.

    Returns:
      the groups of `--help`: heading -> names of flags.
    """
    groups = {}
    known = set(flags.FLAGS)
    for heading, define_group in (
        ("data", _define_data),
        ("recipe", lambda: _define_recipe(optimizer, learning_rate, schedule, is_vgg)),
        ("augmentation", lambda: _define_augmentation(ranges)),
        ("hardware", _define_hardware),
        ("output", _define_output),
    ):
        define_group()
        groups[heading] = [name for name in flags.FLAGS if name not in known]
        known |= set(groups[heading])
    return groups


def _define_data() -> None:
    flags.DEFINE_string("data_dir", None, "Root of the data sets, as given to pipeline.preprocess.", required=True)
    flags.DEFINE_enum("config", next(iter(CONFIGS)), list(CONFIGS), "Config of the data set: how its splits are made.")
    for (name, default), use in zip(
        _SPLITS,
        ("to train on", "that choose the best epoch and the thresholds", "to keep for trainers.evaluate"),
        strict=True,
    ):
        help_text = f"TFDS split expression of the cells {use}; {default} if not given, required for the config folds."
        flags.DEFINE_string(name, None, help_text)
    flags.DEFINE_enum(
        "input",
        "auto",
        INPUT_MODES,
        "How cells are read. resident: all of them in memory; mapped: from memory maps of local shards; streaming: "
        "record by record, for object stores; auto: the first of these that is possible.",
    )


def _define_recipe(optimizer: str, learning_rate: float, schedule: str, is_vgg: bool) -> None:
    flags.DEFINE_integer("epochs", 25, "Maximum number of epochs.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Cells per training step, over all devices.", lower_bound=1)
    flags.DEFINE_enum("optimizer", optimizer, ("adam", "rmsprop"), "Keras optimizer.")
    flags.DEFINE_float("learning_rate", learning_rate, "Peak learning rate.", lower_bound=1e-12)
    flags.DEFINE_float("weight_decay", 0.0, "Decoupled weight decay; 0 for none.", lower_bound=0.0)
    flags.DEFINE_enum(
        "schedule",
        schedule,
        ("constant", "plateau", "cosine"),
        "Learning rate schedule. plateau: halve it when the validation loss has not improved for 2 epochs; cosine: "
        "decay it to 0 over all epochs.",
    )
    flags.DEFINE_float(
        "warmup_epochs",
        0.0,
        "Epochs over which the learning rate first rises from 0; only with --schedule=cosine.",
        lower_bound=0.0,
    )
    flags.DEFINE_integer(
        "early_stopping_patience",
        0,
        "Stop after this many epochs without a lower validation loss; 0 never stops early.",
        lower_bound=0,
    )
    flags.DEFINE_float(
        "ema_momentum",
        0.0,
        "Validate and save an exponential moving average of the weights, with this momentum per step; 0 for the "
        "weights themselves.",
        lower_bound=0.0,
        upper_bound=0.99999,
    )
    flags.DEFINE_float(
        "label_smoothing", 0.0, "Label smoothing, as in Keras's losses; 0 for none.", lower_bound=0.0, upper_bound=0.5
    )
    flags.DEFINE_float(
        "dropout_rate", 0.3, "Dropout rate after each of the two dense layers.", lower_bound=0.0, upper_bound=0.95
    )
    flags.DEFINE_enum(
        "class_weight",
        "none",
        ("none", "balanced"),
        "Weights of the classes in the loss. balanced: both classes have the same total weight, however many cells "
        "they have.",
    )
    flags.DEFINE_integer(
        "seed",
        42,
        "Random seed of initial weights, order of the cells, dropout and augmentation.",
        lower_bound=0,
        upper_bound=2**31 - 1,
    )
    if is_vgg:
        flags.DEFINE_string(
            "vgg_weights",
            "imagenet",
            "Pretrained weights of the convolutions: imagenet (Keras downloads them once), the path of a Keras weights "
            "file or of an .npz with layer names, or none.",
        )
        flags.DEFINE_enum(
            "vgg_input",
            "imagenet",
            ("imagenet", "original"),
            "How VGG-19 gets its pixels. imagenet: BGR minus ImageNet's mean, as the pretrained weights expect; "
            "original: BGR/255, as in the original.",
        )


def _define_augmentation(ranges: Ranges) -> None:
    for name, upper_bound, meaning in (
        ("rotation_degrees", 180.0, "Rotate each cell by a random angle of up to ± this"),
        ("zoom", 0.9, "Stretch each axis by a random factor of 1 ± this"),
        ("shift", 1.0, "Shift each axis by a random part, up to ± this, of the image's side"),
        ("shear_degrees", 80.0, "Shear each cell by a random angle of up to ± this"),
        ("stain_gain", 0.9, "Multiply each color channel by a random factor of 1 ± this"),
        ("stain_offset", 1.0, "Add to each color channel a random part, up to ± this, of 255"),
        ("stain_contrast", 0.9, "Multiply the contrast of each color channel by a random factor of 1 ± this"),
        ("stain_hue_degrees", 180.0, "Rotate the hue by a random angle of up to ± this"),
    ):
        flags.DEFINE_float(
            name, getattr(ranges, name), f"{meaning}; 0 for none.", lower_bound=0.0, upper_bound=upper_bound
        )
    flags.DEFINE_enum("flip", ranges.flip, FLIPS, "Axes along which a cell is flipped with probability ½ each.")
    flags.DEFINE_enum("fill", ranges.fill, FILLS, "Pixels beyond the border: black, or the nearest pixel's color.")


def _define_hardware() -> None:
    flags.DEFINE_enum(
        "precision",
        "auto",
        PRECISIONS,
        "Compute dtype of all layers except the output. auto: bfloat16 or float16 on GPUs that have it, bfloat16 on "
        "CPUs where the model is faster with it.",
    )
    flags.DEFINE_enum(
        "jit_compile", "auto", ("auto", "true", "false"), "Whether XLA compiles the training step. auto: on GPUs."
    )
    flags.DEFINE_integer(
        "steps_per_execution",
        1,
        "Training steps per call of the compiled function; more cost less overhead per step.",
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "distribute",
        "auto",
        ("auto", "none", "mirrored"),
        "Devices that share each batch. mirrored: all GPUs of this machine; none: one device; auto: mirrored if there "
        "are several GPUs.",
    )


def _define_output() -> None:
    flags.DEFINE_string(
        "run_dir",
        None,
        "Folder of this run, for its model, history and curves: new, empty, or of the same run to continue.",
        required=True,
    )
    flags.DEFINE_float(
        "checkpoint_minutes",
        10.0,
        "Minutes between checkpoints within an epoch; there is one at each epoch's end, too.",
        lower_bound=0.0,
    )
    flags.DEFINE_list("export", [], f"Other formats to write the best model in: {', '.join(export_formats.NAMES)}.")


def read() -> Options:
    """The flags' values, with the default splits filled in.

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
            raise InputError(f"--{name}={value} is NaN or infinite; expected a finite number")
    export_formats.check(options.export, "export")
    if options.warmup_epochs and options.schedule != "cosine":
        raise InputError(
            f"--warmup_epochs={options.warmup_epochs:g} needs --schedule=cosine; got --schedule={options.schedule}"
        )
    if options.warmup_epochs >= options.epochs:
        raise InputError(
            f"--warmup_epochs={options.warmup_epochs:g} leaves nothing of --epochs={options.epochs}; give fewer"
        )
