"""Trains an architecture of yours; everything else is as for the project's three models.

    python -m trainers.custom --model=my_module:my_cnn --data_dir=data --run_dir=runs/my_cnn

`my_cnn(image_size_px, *, dropout_rate)` returns an uncompiled Keras model that takes uint8 RGB images [batch, size,
size, 3] in 0…255 and gives the probability of `parasitized`, float32 [batch, 1]. See docs/python.md.
"""

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
    function = _MODEL.value.partition(":")[2]
    if not function.isidentifier() or function in training_flags.MODELS:
        expected = "expected such as my_module:my_cnn, with a name that none of the project's models has"
        raise InputError(f"--model={_MODEL.value} is no module:function; {expected}")
    from trainers.training.main import main  # takes a second, in which `run` answers to Ctrl-C

    return main(function)


if __name__ == "__main__":
    run(_main, flag_groups={"model": ["model"], **_GROUPS})
