"""Trains the original's third model: VGG-19, trainable from its fourth block on (20,321,793 of 22,647,361 parameters).

    python -m trainers.vgg_ft --flagfile=vgg_ft.flags --data_dir=data --run_dir=runs/vgg_ft

Use a GPU: two CPU cores train on about ten cells per second. The same command again continues a run that was stopped.
"""

from absl import flags

from pipeline.command import run
from trainers import training_flags
from trainers.augmentation.ranges import Ranges

_GROUPS = training_flags.define(
    optimizer="rmsprop",
    learning_rate=1e-5,
    schedule="constant",  # the original built its callbacks and never passed them on
    ranges=Ranges(rotation_degrees=25, zoom=0.05, shift=0.05, shear_degrees=0.05, flip="horizontal", fill="nearest"),
    is_vgg=True,
)
flags.adopt_module_key_flags(training_flags)


def _main() -> int | None:
    from trainers.training.main import main  # takes a second, in which `run` answers to Ctrl-C

    return main("vgg_ft")


if __name__ == "__main__":
    run(_main, flag_groups=_GROUPS)
