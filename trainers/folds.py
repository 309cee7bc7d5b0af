"""Cross-validation over the config `folds`: which of them a run may see. No TensorFlow needed."""

from collections.abc import Sequence

from pipeline.errors import InputError
from pipeline.splits.configs import CONFIGS, NUM_FOLDS
from trainers.evaluation.runs import FOLDS

_OURS = ("train_split", "validation_split", "test_split", "run_dir")


def trainer_flags(fold: int) -> list[str]:
    """The trainer's flags that say which folds it may see, for the run that is judged on one of them.

    Args:
      fold: the one that is judged, from 0 on; the next one chooses the epoch, the others train.
    """
    names = CONFIGS[FOLDS].splits
    test, validation, *train = (names[(fold + i) % NUM_FOLDS] for i in range(NUM_FOLDS))
    return [
        f"--config={FOLDS}",
        f"--train_split={'+'.join(sorted(train))}",
        f"--validation_split={validation}",
        f"--test_split={test}",
    ]


def check_trainer_flags(arguments: Sequence[str]) -> list[str]:
    """The flags that go to the trainer; `--config`, which its flagfile may hold, is overridden.

    Raises:
      InputError: for anything else, and for flags that are decided here.
    """
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("--"):
            raise InputError(f"got the argument {argument!r}; expected flags in the form --flag=value")
        if name in _OURS:
            raise InputError(f"--{name} is decided by the fold; leave it out")
    return [argument for argument in arguments if not argument.startswith("--config=")]
