"""The flags that all trainers share, defined once; no TensorFlow here, so that `--help` is quick.

The defaults are the original's recipe; `trainers/flagfiles/<model>.flags` is the better one. A flag has the same name
in `Options`, in `run.json`, and in the functions that it reaches.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from pipeline.errors import InputError
from pipeline.splits.configs import CONFIGS
from trainers import export_formats
from trainers.augmentation.ranges import FILLS, FLIPS, LIMITS, Ranges

MODELS = ("basic_cnn", "vgg_frozen", "vgg_ft")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
INPUT_MODES = ("auto", "device", "resident", "mapped", "streaming")
SPLITS = (("train_split", "train"), ("validation_split", "validation"), ("test_split", "test"))


class Options(NamedTuple):
    """The values of the training flags by name; those of another model's flags are None."""

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
    gce_q: float
    dropout_rate: float
    class_weight: str
    ranges: Ranges  # of augmentation: a flag each
    seed: int
    precision: str
    jit_compile: str
    steps_per_execution: str
    distribute: str
    hosts: list[str]
    host_index: int
    input: str
    checkpoint_minutes: float
    export: list[str]
    vgg_weights: str | None = None
    vgg_input: str | None = None
    model: str | None = None

    def by_flag(self) -> dict[str, Any]:
        """The value of every flag by its name, as `run.json` holds them."""
        values = self._asdict()
        return {**values.pop("ranges")._asdict(), **values}


def define(
    *,
    optimizer: str,
    learning_rate: float,
    schedule: str = "plateau",
    ranges: Ranges = Ranges(),  # noqa: B008 - immutable
    is_vgg: bool = False,
) -> dict[str, list[str]]:
    """Defines the flags for a trainer's main module, with the original's values of that model as defaults.

    Returns the groups of `--help`: heading -> names of flags.
    """
    groups: dict[str, list[str]] = {}
    known = set(flags.FLAGS)
    for heading, define_group in {
        "data": _define_data,
        "recipe": lambda: _define_recipe(optimizer, learning_rate, schedule, is_vgg),
        "augmentation": lambda: _define_augmentation(ranges),
        "hardware": _define_hardware,
        "output": _define_output,
    }.items():
        define_group()
        groups[heading] = [name for name in flags.FLAGS if name not in known]
        known |= set(groups[heading])
    return groups


def _define(name: str, default: Any, values: Sequence[Any], meaning: str) -> None:
    """Defines a flag with a default: text with the values that it may have, or a number with its bounds."""
    if isinstance(default, str):
        flags.DEFINE_enum(name, default, values, meaning)
    else:
        define_number = flags.DEFINE_integer if isinstance(default, int) else flags.DEFINE_float
        define_number(name, default, meaning, *values)


def _define_data() -> None:
    flags.DEFINE_string("data_dir", None, "Root of the data sets, as given to pipeline.preprocess.", required=True)
    _define("config", next(iter(CONFIGS)), list(CONFIGS), "Config of the data set: how its splits are made.")
    uses = ("to train on", "that choose the best epoch and the thresholds", "to keep for trainers.evaluate")
    for (name, default), use in zip(SPLITS, uses, strict=True):
        meaning = f"TFDS split expression of the cells {use}. Default: {default}; --config=folds has no default."
        flags.DEFINE_string(name, None, meaning)
    meaning = (
        "How cells are read. device: all of them in the device's memory; resident: all of them in memory; mapped: from "
        "memory maps of local shards; streaming: record by record, for object stores; auto: the first of these that is "
        "possible, device only on a GPU where a quarter of its free memory suffices."
    )
    _define("input", "auto", INPUT_MODES, meaning)


def _define_recipe(optimizer: str, learning_rate: float, schedule: str, is_vgg: bool) -> None:
    _define("epochs", 25, (1, None), "Maximum number of epochs.")
    _define("batch_size", 64, (1, None), "Cells per training step, over all devices.")
    _define("optimizer", optimizer, ("adam", "rmsprop"), "Keras optimizer.")
    _define("learning_rate", learning_rate, (1e-12, None), "Peak learning rate.")
    _define("weight_decay", 0.0, (0.0, None), "Decoupled weight decay; 0 for none.")
    meaning = (
        "Learning rate schedule. constant: keep it; plateau: halve it when the validation loss has not improved for 2 "
        "epochs; cosine: decay it to 0 over all epochs."
    )
    _define("schedule", schedule, ("constant", "plateau", "cosine"), meaning)
    meaning = "Epochs over which the learning rate first rises from 0; only with --schedule=cosine."
    _define("warmup_epochs", 0.0, (0.0, None), meaning)
    meaning = "Stop after this many epochs without a lower validation loss; 0 never stops early."
    _define("early_stopping_patience", 0, (0, None), meaning)
    meaning = (
        "Validate and save an exponential moving average of the weights, with this momentum per step; 0 for the "
        "weights themselves."
    )
    _define("ema_momentum", 0.0, (0.0, 0.99999), meaning)
    _define("label_smoothing", 0.0, (0.0, 0.5), "Label smoothing, as in Keras's losses; 0 for none.")
    meaning = (
        "Exponent q of generalized cross-entropy, which wrong labels disturb less the nearer q is to 1; 0 for binary "
        "cross-entropy."
    )
    _define("gce_q", 0.0, (0.0, 1.0), meaning)
    _define("dropout_rate", 0.3, (0.0, 0.95), "Dropout rate after each of the two dense layers.")
    meaning = "Class weights in the loss. balanced: each class has the same total, however many cells it has."
    _define("class_weight", "none", ("none", "balanced"), meaning)
    meaning = "Random seed of the initial weights, the order of the cells, dropout and augmentation."
    _define("seed", 42, (0, 2**31 - 1), meaning)
    if is_vgg:
        meaning = (
            "Pretrained weights of the convolutions: imagenet (Keras downloads them once), the path of a Keras weights "
            "file or of an .npz with layer names, or none."
        )
        flags.DEFINE_string("vgg_weights", "imagenet", meaning)
        meaning = (
            "How VGG-19 gets its pixels. imagenet: BGR minus ImageNet's mean, as the pretrained weights expect; "
            "original: BGR/255, as in the original."
        )
        _define("vgg_input", "imagenet", ("imagenet", "original"), meaning)


def _define_augmentation(ranges: Ranges) -> None:
    for name, (upper_bound, meaning) in LIMITS.items():
        _define(name, float(getattr(ranges, name)), (0.0, upper_bound), f"{meaning}; 0 for none.")
    _define("flip", ranges.flip, FLIPS, "Axes along which each cell is flipped at random, with probability ½.")
    _define("fill", ranges.fill, FILLS, "Pixels from beyond the border: black, or like the nearest pixel.")


def _define_hardware() -> None:
    meaning = (
        "Compute dtype of all layers except the output. auto: bfloat16 or float16 on GPUs that have it, bfloat16 on "
        "CPUs where the model is faster with it."
    )
    _define("precision", "auto", PRECISIONS, meaning)
    meaning = "Whether XLA compiles the training step. auto: on GPUs."
    _define("jit_compile", "auto", ("auto", "true", "false"), meaning)
    meaning = (
        "Training steps per call of the compiled function, a number or auto: 1 on CPUs, 32 on GPUs. More of them "
        "reduce the overhead per step; checkpoints, progress and stops are at the ends of calls."
    )
    flags.DEFINE_string("steps_per_execution", "auto", meaning)
    meaning = "Devices that share a batch. none: one; mirrored, auto: all GPUs; hosts: those of several hosts, on JAX."
    _define("distribute", "auto", ("auto", "none", "mirrored", "hosts"), meaning)
    flags.DEFINE_list("hosts", [], "All hosts, the first with a port, such as node0:7000,node1.")
    _define("host_index", 0, (0, None), "Which of --hosts this one is, from 0; the first writes the run's folder.")


def _define_output() -> None:
    meaning = "Folder of this run, for its model, history and curves: new, empty, or of the run to continue."
    flags.DEFINE_string("run_dir", None, meaning, required=True)
    meaning = "Minutes between checkpoints within an epoch; each epoch ends with one, too."
    _define("checkpoint_minutes", 10.0, (0.0, None), meaning)
    flags.DEFINE_list("export", [], f"Other formats to write the best model in: {', '.join(export_formats.NAMES)}.")


def read() -> Options:
    """The flags' values, with the default splits filled in; InputError if there are none, or flags contradict."""
    given: dict[str, Any] = {name: flags.FLAGS[name].value for name in flags.FLAGS}
    values = {name: given[name] for name in Options._fields if name in given}
    values["ranges"] = Ranges(**{name: given[name] for name in Ranges._fields})
    splits = CONFIGS[values["config"]].splits
    for flag, default in SPLITS:
        if values[flag] is None:
            if default not in splits:
                text = f"--{flag} is missing; --config={values['config']} has the splits {', '.join(splits)}"
                raise InputError(f"{text}: give a TFDS split expression such as {splits[0]}+{splits[1]}")
            values[flag] = default
    options = Options(**values)
    for name, value in options.by_flag().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"--{name}={value} is NaN or infinite; expected a finite number")
    export_formats.check(options.export, "export")
    steps = options.steps_per_execution
    if steps != "auto" and not (steps.isdecimal() and int(steps)):
        raise InputError(f"--steps_per_execution={steps} is not a count of steps; expected auto or a number from 1 on")
    if options.warmup_epochs and options.schedule != "cosine":
        text = f"--warmup_epochs={options.warmup_epochs:g} needs --schedule=cosine"
        raise InputError(f"{text}; got --schedule={options.schedule}")
    for name in ("margin", "stain_density"):
        if getattr(options.ranges, name) and not options.ranges.surroundings:
            raise InputError(f"--{name} changes cells with --surroundings alone; expected --surroundings above 0")
    if options.warmup_epochs >= options.epochs:
        text = f"--warmup_epochs={options.warmup_epochs:g} leaves nothing of --epochs={options.epochs}"
        raise InputError(f"{text}; give fewer")
    return options
