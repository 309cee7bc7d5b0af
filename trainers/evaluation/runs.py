"""Which runs are judged as what: run folders in, models to compare out. No TensorFlow needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from trainers import run_dir

FOLDS = "folds"


class Member(NamedTuple):
    """A run and the cells that it is judged on.

    Attributes:
      path: its folder.
      run: its `run.json`.
      expression: the split expression.
    """

    path: str
    run: run_dir.Run
    expression: str


class ModelRuns(NamedTuple):
    """What stands in the report under one name.

    Attributes:
      name: the model's name, or the folder's where two share a model.
      members: one run; several for a cross-validation, whose out-of-fold predictions are pooled.
    """

    name: str
    members: tuple[Member, ...]

    @property
    def model(self) -> str:
        """The trainer's name."""
        return self.members[0].run["model"]

    @property
    def split(self) -> str:
        """The split expression of all members together."""
        return "+".join(member.expression for member in self.members)


def plan(run_dirs: Sequence[str], config: str | None, split: str | None) -> tuple[str, list[ModelRuns]]:
    """Reads the runs and decides on what is judged.

    Args:
      run_dirs: folders of trainers.
      config: of the data set; that of the runs if None.
      split: expression for all runs; if None each run's `--test_split`. Runs of the config `folds` with different test
        splits are pooled by model and parent folder.

    Returns:
      the config, and the candidates in the order of the runs.

    Raises:
      InputError: if a folder is no run, has no model yet, or the runs do not fit together.
    """
    if not run_dirs:
        raise InputError("--run_dirs is empty; expected one or more folders of trainers")
    if len({str(Path(path).resolve()) for path in run_dirs}) < len(run_dirs):
        raise InputError(f"--run_dirs={','.join(run_dirs)} names a folder twice; expected different runs")
    runs = {path: run_dir.read(path) for path in run_dirs}
    for path in runs:
        if not (Path(path) / run_dir.MODEL).exists():
            raise InputError(f"{path} has no {run_dir.MODEL} yet; run its trainer first")
    config = config or _common(runs, "config")
    its_own = {path: run["flags"]["test_split"] for path, run in runs.items()}
    if split is None and config == FOLDS and len(set(its_own.values())) > 1:
        return config, _pooled(runs, its_own)
    split = split or _common(runs, "test_split")
    names = _names([run["model"] for run in runs.values()], [Path(path).resolve().name for path in runs])
    return config, [
        ModelRuns(name, (Member(path, run, split),)) for name, (path, run) in zip(names, runs.items(), strict=True)
    ]


def _pooled(runs: dict[str, run_dir.Run], test_splits: dict[str, str]) -> list[ModelRuns]:
    groups: dict[tuple[str, Path], list[Member]] = {}
    for path, run in runs.items():
        key = run["model"], Path(path).resolve().parent
        groups.setdefault(key, []).append(Member(path, run, test_splits[path]))
    for (model, folder), members in groups.items():
        splits = [member.expression for member in members]
        if len(set(splits)) < len(splits):
            raise InputError(
                f"two runs of {model} in {folder} share a --test_split ({', '.join(sorted(splits))}); expected a run a "
                "fold: say which cells to judge on by --split, or name one run a fold"
            )
    if len({frozenset(member.expression for member in members) for members in groups.values()}) > 1:
        raise InputError(
            "the models have runs of different folds; expected the same folds of each, so that they are judged on the "
            "same cells"
        )
    names = _names([model for model, _ in groups], [folder.name for _, folder in groups])
    return [
        ModelRuns(name, tuple(sorted(members, key=lambda member: member.expression)))
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _common(runs: dict[str, run_dir.Run], flag: str) -> str:
    values = {run["flags"][flag] for run in runs.values()}
    if len(values) > 1:
        given = "--split" if flag == "test_split" else f"--{flag}"
        raise InputError(f"the runs differ in their --{flag}: {', '.join(sorted(values))}; say which one by {given}")
    return values.pop()


def _names(models: list[str], folders: list[str]) -> list[str]:
    names = [model if models.count(model) == 1 else folder for model, folder in zip(models, folders, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(
            f"--run_dirs has runs of the same model in folders of the same name ({', '.join(sorted(names))}), which "
            "the report could not tell apart; rename a folder"
        )
    return names
