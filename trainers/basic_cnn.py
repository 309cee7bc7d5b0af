"""Trains the original's CNN from scratch (15,102,529 parameters).

    python -m trainers.basic_cnn --flagfile=basic_cnn.flags --data_dir=data --run_dir=runs/basic_cnn

On two CPU cores an epoch takes about a minute for 6,000 cells. The same command again continues a run that was stopped.
"""

import functools

from absl import flags

from pipeline.command import run
from trainers import training_flags
from trainers.training.main import main

_GROUPS = training_flags.define(optimizer="adam", learning_rate=1e-3)
flags.adopt_module_key_flags(training_flags)

if __name__ == "__main__":
    run(functools.partial(main, "basic_cnn"), flag_groups=_GROUPS)
