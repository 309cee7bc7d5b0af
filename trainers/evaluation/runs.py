"""What is evaluated together: run folders and a list of cells, checked as far as that goes without TensorFlow."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cells import LABELS
from pipeline.errors import InputError
from pipeline.label_list import LabelList, fault
from pipeline.records import index, manifest
from pipeline.terminal import quantity
from trainers import run_dir
from trainers.data import DataSet, Split, overlap

FOLDS = "folds"
_LEAKS = ("train_patients", "validation_patients")


class Run(NamedTuple):
    """A run and the cells that it is tested on."""

    path: str  # of its folder
    record: run_dir.Run  # its `run.json`
    expression: str  # of the split

    @property
    def folder_name(self) -> str:
        return Path(self.path).resolve().name


class ModelRuns(NamedTuple):
    """One model, or the folds of one."""

    name: str  # the model's, or the folder's where two share a model
    runs: tuple[Run, ...]  # several for a cross-validation, whose out-of-fold predictions are pooled

    @property
    def split(self) -> str:  # the split expressions of all runs
        return "+".join(run.expression for run in self.runs)


def group(run_dirs: Sequence[str], config: str | None, split: str | None) -> tuple[str, list[ModelRuns]]:
    """Reads runs, and returns their config, and them by model; config and split are those of the runs if None.

    Runs of the config `folds` with different test splits are pooled by model and parent folder. Raises InputError if a
    folder is no run, or the runs do not fit together.
    """
    if len({str(Path(path).resolve()) for path in run_dirs}) < max(1, len(run_dirs)):
        raise InputError(f"--run_dirs={','.join(run_dirs)} names no folder, or one twice; expected different runs")
    records = {path: run_dir.read(path) for path in run_dirs}
    config = config or _common(records.values(), "config")
    runs = [Run(path, record, split or record["flags"]["test_split"]) for path, record in records.items()]
    if config == FOLDS and len({run.expression for run in runs}) > 1:
        return config, _pooled(runs)
    if split is None:
        _common(records.values(), "test_split")
    names = _names([run.record["model"] for run in runs], [run.folder_name for run in runs])
    return config, [ModelRuns(name, (run,)) for name, run in zip(names, runs, strict=True)]


def _pooled(folds: list[Run]) -> list[ModelRuns]:
    groups: dict[tuple[str, Path], list[Run]] = {}
    for run in sorted(folds, key=lambda run: run.expression):
        groups.setdefault((run.record["model"], Path(run.path).resolve().parent), []).append(run)
    splits = {group: [run.expression for run in runs] for group, runs in groups.items()}
    for (model, folder), expressions in splits.items():
        if len(set(expressions)) < len(expressions):
            text = f"two runs of {model} in {folder} share a --test_split ({', '.join(expressions)})"
            raise InputError(f"{text}; give one run per fold, or the cells to evaluate on by --split")
    if len(set(map(tuple, splits.values()))) > 1:
        raise InputError("the models have runs of different folds; expected the same folds of each")
    names = _names([model for model, _ in groups], [folder.name for _, folder in groups])
    return [ModelRuns(name, tuple(runs)) for name, runs in zip(names, groups.values(), strict=True)]


def _common(records: Iterable[run_dir.Run], flag: str) -> str:
    values = {record["flags"][flag] for record in records}
    if len(values) > 1:
        deciding = "--split" if flag == "test_split" else f"--{flag}"
        raise InputError(f"the runs differ in their --{flag}: {', '.join(sorted(values))}; choose one by {deciding}")
    return values.pop()


def _names(models: list[str], folders: list[str]) -> list[str]:
    names = [model if models.count(model) == 1 else folder for model, folder in zip(models, folders, strict=True)]
    if len(set(names)) < len(names):
        text = f"--run_dirs has runs of the same model in folders of the same name ({', '.join(sorted(names))})"
        raise InputError(f"{text}, which the report could not tell apart; rename a folder")
    return names


def open_splits(data_set: DataSet, model_runs: ModelRuns) -> list[Split]:
    """Opens the split of each run; raises InputError if one is no split, has no cells, or two share cells."""
    splits = [data_set.open_split(run.expression) for run in model_runs.runs]
    for one, other in combinations(splits, 2):
        if shared := overlap(one, other):
            text = f"the test splits {one.expression} and {other.expression} of the runs share"
            raise InputError(f"{text} {quantity(shared, 'cell')}; expected disjoint ones, so that they can be pooled")
    return splits


def check_disputed(disputed: LabelList | None, data_set: DataSet) -> None:
    """Raises InputError, with a line of the list, if a data set has not such a cell or published it otherwise.

    A list may be longer than a split. Cells that `--label_overrides` has left out or corrected count as published.
    """
    if disputed is None:
        return
    published = {
        cell.filename: LABELS[cell.label]
        for shard in manifest.shards(data_set.manifest)
        for cell in index.read_without_images(str(data_set.directory / shard["file"]), 0, shard["num_records"])
    }
    published |= data_set.manifest.get("label_overrides", {}).get("published", {})
    disputed.check_known(published)
    for filename, label in disputed.labels.items():
        if label != published[filename]:
            reason = f"published_label is {label}, but {filename!r} was published as {published[filename]}"
            raise fault(disputed.name, disputed.lines[filename], f"{reason}; expected a list for the same cells")


def find_leak(record: run_dir.Run, patient_ids: Iterable[str], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Finds test patients that the training of a `run.json` has seen, and how the test cells' data set differs.

    Returns is_external: whether that is from another source than the run's; data_differences: the others, none of an
    external one; train_patients, validation_patients: test patients that the weights were fitted on, and that the best
    epoch was chosen on; None if they are unknown, or named by another regex.
    """
    test_patients, data, settings = set(patient_ids), record["data"], identity["settings"]
    is_external = data["fingerprint"] != identity["fingerprint"]
    has_other_ids = not is_external and data["settings"]["patient_regex"] != settings["patient_regex"]
    # What surrounds an external one's cells is judged by `image_statistics`: masked box crops are like cells on black.
    differences = [] if is_external else run_dir.data_differences(data, identity)
    leak: dict[str, Any] = {"is_external": is_external, "data_differences": differences}
    for kind in _LEAKS:
        is_unknown = has_other_ids or "" in test_patients | set(data[kind])
        leak[kind] = None if is_unknown else sorted(test_patients & set(data[kind]))
    return leak


def merge_leaks(leaks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The leaks of several runs, such as those of the folds, as one."""
    merged: dict[str, Any] = {"is_external": any(leak["is_external"] for leak in leaks)}
    for kind in ("data_differences", *_LEAKS):
        values = [leak[kind] for leak in leaks]
        merged[kind] = None if None in values else sorted(set().union(*values))
    return merged
