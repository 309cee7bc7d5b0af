"""Trains an architecture of yours; everything else is as for the project's three models.

    python -m trainers.custom --model=my_module:my_cnn --data_dir=data --run_dir=runs/my_cnn

`my_cnn(image_size_px, *, dropout_rate)` returns an uncompiled Keras model that takes uint8 RGB images [batch, size,
size, 3] in 0…255 and gives the probability of `parasitized`, float32 [batch, 1]. See docs/python.md.
"""

import importlib.util
from contextlib import suppress

from absl import flags

from pipeline.command import run
from pipeline.errors import InputError
from trainers import training_flags

_GROUPS = training_flags.define(optimizer="adam", learning_rate=1e-3)
_MODEL = flags.DEFINE_string(
    "model", None, "Module and function that build the model: my_module:my_cnn.", required=True
)
flags.adopt_module_key_flags(training_flags)


def _main() -> int | None:
    """Checks what is quick to check of --model, then trains."""
    module, _, function = _MODEL.value.partition(":")
    is_there = False
    with suppress(ImportError, ValueError):
        is_there = importlib.util.find_spec(module) is not None
    if not is_there or not function.isidentifier() or function in training_flags.MODELS:
        raise InputError(
            f"--model={_MODEL.value} is no module:function that can be imported; expected such as my_module:my_cnn, "
            "with my_module.py in the current folder and a name that none of the project's models has"
        )
    from trainers.training.main import main  # takes a second, in which `run` answers to Ctrl-C

    return main(function)


if __name__ == "__main__":
    run(_main, flag_groups={"model": ["model"], **_GROUPS})
