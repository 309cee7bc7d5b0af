"""Trains the original's second model: a frozen VGG-19 with a new head (22,647,361 parameters, 2,622,977 of them train).

    python -m trainers.vgg_frozen --flagfile=trainers/flagfiles/vgg_frozen.flags --data_dir=data \\
      --run_dir=runs/vgg_frozen

The frozen layers see each cell once: their output is kept in the run's folder, and the head is trained on it. With
augmentation they have to see every changed cell anew. The same command again continues a run that was stopped.
"""

import functools

from absl import flags

from pipeline.command import run
from trainers import training_flags
from trainers.training.main import launch

training_flags.define(optimizer="rmsprop", learning_rate=1e-4, is_vgg=True)
flags.adopt_module_key_flags(training_flags)

if __name__ == "__main__":
    run(functools.partial(launch, "vgg_frozen"))
