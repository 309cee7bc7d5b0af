"""Trains the original's second model: a frozen VGG-19 with a new head (22,647,361 parameters, 2,622,977 trainable).

    python -m trainers.vgg_frozen --flagfile=vgg_frozen.flags --data_dir=data --run_dir=runs/vgg_frozen

The frozen layers see each cell once: their features are stored in the run's folder, and the head is trained on those.
With augmentation the frozen layers see every cell in every epoch, since it is a new one each time. The same command
again continues a run that was stopped.
"""

from absl import flags

from pipeline.command import run
from trainers import training_flags

_GROUPS = training_flags.define(optimizer="rmsprop", learning_rate=1e-4, is_vgg=True)
flags.adopt_module_key_flags(training_flags)


def _main() -> int | None:
    from trainers.training.main import main  # takes a second, in which `run` answers to Ctrl-C

    return main("vgg_frozen")


if __name__ == "__main__":
    run(_main, flag_groups=_GROUPS)
