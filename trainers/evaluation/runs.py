"""Which runs are evaluated together: run folders in, models to compare out. No TensorFlow needed."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import InputError
from trainers import run_dir
from trainers.data import DataSet, Split, overlap

FOLDS = "folds"
LEAKS = ("train_patients", "validation_patients")


class Run(NamedTuple):
    """A run and the cells that it is tested on.

    Attributes:
      path: its folder.
      record: its `run.json`.
      expression: the split expression.
    """

    path: str
    record: run_dir.Run
    expression: str

    @property
    def folder_name(self) -> str:
        """Name of its folder."""
        return Path(self.path).resolve().name


class ModelRuns(NamedTuple):
    """One model, or the folds of one.

    Attributes:
      name: the model's name, or the folder's where two share a model.
      runs: one run; several for a cross-validation, whose out-of-fold predictions are pooled.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def split(self) -> str:
        """The split expressions of all runs, joined by `+`."""
        return "+".join(run.expression for run in self.runs)


def group(run_dirs: Sequence[str], config: str | None, split: str | None) -> tuple[str, list[ModelRuns]]:
    """Reads the runs and groups them by model.

    Args:
      run_dirs: folders of trainers.
      config: of the data set; that of the runs if None.
      split: expression for all runs; if None each run's `--test_split`. Runs of the config `folds` with different test
        splits are pooled by model and parent folder.

    Returns:
      the config, and the models in the order of the runs.

    Raises:
      InputError: if a folder is no run or has no model yet, or the runs do not fit together.
    """
    if not run_dirs:
        raise InputError("--run_dirs is empty; expected one or more folders of trainers")
    if len({str(Path(path).resolve()) for path in run_dirs}) < len(run_dirs):
        raise InputError(f"--run_dirs={','.join(run_dirs)} names a folder twice; expected different runs")
    records = {path: run_dir.read(path) for path in run_dirs}
    for path in records:
        if not (Path(path) / run_dir.MODEL).exists():
            raise InputError(f"{path} has no {run_dir.MODEL} yet; run its trainer first")
    config = config or _common(records.values(), "config")
    test_splits = {record["flags"]["test_split"] for record in records.values()}
    if split is None and config == FOLDS and len(test_splits) > 1:
        return config, _pooled([Run(path, record, record["flags"]["test_split"]) for path, record in records.items()])
    split = split or _common(records.values(), "test_split")
    single = [Run(path, record, split) for path, record in records.items()]
    names = _names([run.record["model"] for run in single], [run.folder_name for run in single])
    return config, [ModelRuns(name, (run,)) for name, run in zip(names, single, strict=True)]


def _pooled(folds: list[Run]) -> list[ModelRuns]:
    groups: dict[tuple[str, Path], list[Run]] = {}
    for run in folds:
        groups.setdefault((run.record["model"], Path(run.path).resolve().parent), []).append(run)
    for (model, folder), runs in groups.items():
        splits = [run.expression for run in runs]
        if len(set(splits)) < len(splits):
            raise InputError(
                f"two runs of {model} in {folder} share a --test_split ({', '.join(sorted(splits))}); expected one run "
                "per fold: name the cells to evaluate on by --split, or give one run per fold"
            )
    if len({frozenset(run.expression for run in runs) for runs in groups.values()}) > 1:
        raise InputError(
            "the models have runs of different folds; expected the same folds of each, so that they are evaluated on "
            "the same cells"
        )
    names = _names([model for model, _ in groups], [folder.name for _, folder in groups])
    return [
        ModelRuns(name, tuple(sorted(runs, key=lambda run: run.expression)))
        for name, runs in zip(names, groups.values(), strict=True)
    ]


def _common(records: Iterable[run_dir.Run], flag: str) -> str:
    values = {record["flags"][flag] for record in records}
    if len(values) > 1:
        deciding = "--split" if flag == "test_split" else f"--{flag}"
        raise InputError(f"the runs differ in their --{flag}: {', '.join(sorted(values))}; choose one by {deciding}")
    return values.pop()


def _names(models: list[str], folders: list[str]) -> list[str]:
    names = [model if models.count(model) == 1 else folder for model, folder in zip(models, folders, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(
            f"--run_dirs has runs of the same model in folders of the same name ({', '.join(sorted(names))}), which "
            "the report could not tell apart; rename a folder"
        )
    return names


def open_splits(data_set: DataSet, model_runs: ModelRuns) -> list[Split]:
    """Opens the split of each run of a model.

    Raises:
      InputError: if an expression names no split or no cells, or two runs share cells.
    """
    splits = [data_set.open_split(run.expression) for run in model_runs.runs]
    for one, other in combinations(splits, 2):
        if shared := overlap(one, other):
            raise InputError(
                f"the test splits {one.expression} and {other.expression} of the runs share {shared} cells; expected "
                "disjoint ones, so that they can be pooled"
            )
    return splits


def find_leak(record: run_dir.Run, patient_ids: Iterable[str], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Finds test patients that the training has seen, and whether its data set was another one.

    Args:
      record: `run.json`, which names the patients of training and validation.
      patient_ids: of the test cells.
      identity: of their data set, see `data.DataSet.identity`.

    Returns:
      is_external: whether the data set was made from another source than the run's;
      data_differences: how it differs from the run's otherwise, see `run_dir.data_differences`; of an external one only
        what surrounds the cells;
      train_patients, validation_patients: test patients that the weights were fitted on, and that the best epoch was
      chosen on, sorted; None if patients are unknown, or were told from other parts of the same file names.
    """
    test_patients, data = set(patient_ids), record["data"]
    is_external = data["fingerprint"] != identity["fingerprint"]
    regex = identity["settings"]["patient_regex"]
    has_other_ids = not is_external and data["settings"]["patient_regex"] != regex

    def seen(kind: str) -> list[str] | None:
        patients = set(data[kind])
        return None if has_other_ids or "" in patients | test_patients else sorted(patients & test_patients)

    differences = [] if is_external else run_dir.data_differences(data, identity)
    backgrounds = [settings.get("background", "keep") for settings in (data["settings"], identity["settings"])]
    if is_external and backgrounds[0] != backgrounds[1]:
        differences = ["its data set's background was {}, is {}".format(*backgrounds)]
    return {
        "is_external": is_external,
        "data_differences": differences,
        **{kind: seen(kind) for kind in LEAKS},
    }


def merge_leaks(leaks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The leaks of several runs, such as those of the folds, as one."""

    def merged(kind: str) -> list[str] | None:
        if any(leak[kind] is None for leak in leaks):
            return None
        return sorted(set().union(*(leak[kind] for leak in leaks)))

    is_external = any(leak["is_external"] for leak in leaks)
    return {"is_external": is_external, **{kind: merged(kind) for kind in ("data_differences", *LEAKS)}}
