"""Evaluates runs: predictions first, then metrics, then a folder with the report. Run folders are only read."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from etils import epath

from pipeline import storage
from pipeline.cells import patient_noun
from pipeline.errors import InputError
from pipeline.records import layout
from pipeline.terminal import printable
from trainers import run_dir
from trainers.data import DataSet
from trainers.evaluation import disputed_labels
from trainers.evaluation.metrics import label_issues
from trainers.evaluation.metrics.label_issues import LabelIssue
from trainers.evaluation.predictions import ModelPredictions, predict_runs
from trainers.evaluation.report import metrics_json, warnings, writer
from trainers.evaluation.runs import ModelRuns
from trainers.evaluation_flags import Options

METRICS = "metrics.json"
LABEL_ISSUES = "suspected_label_errors.csv"
_LOCK = "evaluate.lock"
_PARTIAL = ".partial-"
_PLOTS = ("metrics.png", "roc.png", "suspected_label_errors.png")
_FILES_OF_A_MODEL = (
    "model_card_{}.md",
    "{}_confusion.png",
    "{}_learning_curves.png",
    "{}_mistakes.png",
    "{}_patient_strip.png",
    "{}_reliability.png",
)


def evaluate(grouped: Sequence[ModelRuns], data_set: DataSet, options: Options, output_dir: str) -> str:
    """Evaluates all models on the same cells and writes the report.

    Args:
      grouped: the runs of each model.
      data_set, options: the cells, and the flags.
      output_dir: folder of the report; the numbers appear there first, each file once it is complete.

    Returns:
      the table for the terminal, the warnings, and where the report is.

    Raises:
      InputError: if a model does not fit the data, or the folder cannot be written; nothing is in it then.
    """
    for name, kind in ((run_dir.RUN, "run"), (layout.MANIFEST, "data set")):
        if (Path(output_dir) / name).exists():
            raise InputError(f"--output_dir={output_dir} is the folder of a {kind}: it has {name}; give another")
    with run_dir.lock(output_dir, "--output_dir", _LOCK):
        return _evaluate(grouped, data_set, options, Path(output_dir))


def _evaluate(grouped: Sequence[ModelRuns], data_set: DataSet, options: Options, destination: Path) -> str:
    models = [predict_runs(item, data_set, options.batch_size, options.test_time_flips) for item in grouped]
    sums = {model.name: metrics_json.sum_by_patient(model) for model in models}
    entries = {model.name: metrics_json.build_entry(model, sums[model.name], options) for model in models}
    report_warnings = warnings.find(models, data_set.config, data_set.manifest, is_nlm=data_set.is_nlm)
    issues = _label_issues(models)
    contents = {
        "models": entries,
        "comparisons": [metrics_json.compare(*pair, options) for pair in combinations(sums.items(), 2)],
        "warnings": [warning._asdict() for warning in report_warnings],
        "suspected_label_errors": len(issues),
    }
    if disputed := options.disputed_labels:
        found = disputed_labels.count_found(disputed, issues, models[0].predictions.filenames)
        contents["disputed_labels"] = {"sha256": disputed.sha256, "num_cells": len(disputed.labels), "found": found}
    try:
        for killed in destination.glob(f"{_PARTIAL}*"):  # nobody else is at work here
            shutil.rmtree(killed)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=destination) as partial:
            folder = Path(partial)
            (folder / METRICS).write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n")
            label_issues.write(issues, folder / LABEL_ISSUES)
            _remove_report(destination, [*entries, *_earlier_models(destination)])
            _move_files(folder, destination)  # the numbers first
            failures = writer.write(folder, models, contents, issues, data_set, options)
            _move_files(folder, destination)
    except OSError as error:
        raise InputError(f"--output_dir={destination} cannot be written: {error}; give another") from error
    lines = disputed_labels.as_lines(contents)
    lines += [f"{warning.severity}: {warning.text}" for warning in report_warnings]
    lines += [f"warning: {text}" for text in failures.values()]
    paths = [destination / name for name in (METRICS, writer.REPORT) if name not in failures]
    table = metrics_json.as_table(entries, patient_noun(data_set.manifest["settings"]))
    return "\n".join([table, *map(printable, [*lines, *paths])])


def _earlier_models(destination: Path) -> list[str]:
    """The models of an earlier evaluation into the same folder."""
    try:
        return list(json.loads(storage.read_file(epath.Path(destination) / METRICS))["models"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # none, or not one of ours
        return []


def _remove_report(destination: Path, models: Sequence[str]) -> None:
    """Removes the files of a report on models of some names: they show other numbers."""
    names = [pattern.format(writer.slug_of(model)) for model in models for pattern in _FILES_OF_A_MODEL]
    for name in (writer.REPORT, *_PLOTS, *names):
        (destination / name).unlink(missing_ok=True)


def _move_files(folder: Path, destination: Path) -> None:
    for path in sorted(folder.iterdir()):
        shutil.move(path, destination / path.name)


def _label_issues(models: Sequence[ModelPredictions]) -> list[LabelIssue]:
    """By the mean probability of all models, whose cells are the same but in an order of their own."""
    orders = [np.argsort(model.predictions.filenames) for model in models]
    probabilities = [model.predictions.probabilities[order] for model, order in zip(models, orders, strict=True)]
    labels, _, filenames, patient_ids = (column[orders[0]] for column in models[0].predictions)
    return label_issues.find(labels, np.mean(probabilities, axis=0), filenames, patient_ids)
