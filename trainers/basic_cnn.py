"""Trains the original's CNN from scratch (15,102,529 parameters).

    python -m trainers.basic_cnn --flagfile=basic_cnn.flags --data_dir=data --run_dir=runs/basic_cnn

On two CPU cores an epoch takes about a minute for 6,000 cells. The same command again continues a run that was stopped.
"""

from absl import flags

from pipeline.command import run
from trainers import training_flags

_GROUPS = training_flags.define(optimizer="adam", learning_rate=1e-3)
flags.adopt_module_key_flags(training_flags)


def _main() -> int | None:
    from trainers.training.main import main  # takes a second, in which `run` answers to Ctrl-C

    return main("basic_cnn")


if __name__ == "__main__":
    run(_main, flag_groups=_GROUPS)
