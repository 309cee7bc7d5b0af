"""Evaluates runs: predictions first, then metrics, then a folder with the report. Run folders are only read."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline.cells import patient_noun
from pipeline.errors import InputError
from pipeline.records import layout
from pipeline.terminal import printable
from trainers import run_dir
from trainers.data import DataSet
from trainers.evaluation.metrics import label_issues
from trainers.evaluation.metrics.label_issues import LabelIssue
from trainers.evaluation.predictions import ModelPredictions, predict_runs
from trainers.evaluation.report import metrics_json, warnings, writer
from trainers.evaluation.runs import ModelRuns
from trainers.evaluation_flags import Options

METRICS = "metrics.json"
LABEL_ISSUES = "suspected_label_errors.csv"
_PARTIAL = ".partial-"


def evaluate(grouped: Sequence[ModelRuns], data_set: DataSet, options: Options, output_dir: str) -> str:
    """Evaluates all models, each with its runs, on the same cells, and writes the report into a folder.

    The numbers appear there first, each file once it is complete. Returns what the terminal shows. Raises InputError if
    a model does not fit the data, or the folder cannot be written; nothing is in it then.
    """
    for name, kind in ((run_dir.RUN, "run"), (layout.MANIFEST, "data set")):
        if (Path(output_dir) / name).exists():
            raise InputError(f"--output_dir={output_dir} is the folder of a {kind}: it has {name}; give another")
    with run_dir.lock(output_dir, "--output_dir", "evaluate.lock"):
        return _evaluate(grouped, data_set, options, Path(output_dir))


def _evaluate(grouped: Sequence[ModelRuns], data_set: DataSet, options: Options, destination: Path) -> str:
    models = [predict_runs(item, data_set, options.batch_size, options.test_time_flips) for item in grouped]
    report_warnings = warnings.find(models, data_set.config, data_set.manifest, is_nlm=data_set.is_nlm)
    issues = _label_issues(models)
    contents = metrics_json.build(models, options) | {
        "warnings": [warning._asdict() for warning in report_warnings],
        "suspected_label_errors": len(issues),
    }
    if disputed := options.disputed_labels:
        found = label_issues.count_disputed(issues, disputed.labels, models[0].predictions.filenames)
        contents["disputed_labels"] = {"sha256": disputed.sha256, "num_cells": len(disputed.labels), "found": found}
    try:
        for killed in destination.glob(f"{_PARTIAL}*"):  # nobody else is at work here
            shutil.rmtree(killed)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=destination) as partial:
            folder = Path(partial)
            (folder / METRICS).write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n")
            label_issues.write(issues, folder / LABEL_ISSUES)
            models_shown = list(contents["models"])
            with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):  # none, or not one of ours
                models_shown += map(str, json.loads((destination / METRICS).read_bytes())["models"])
            for name in {name for model in models_shown for name in writer.files_of(model)}:
                (destination / name).unlink(missing_ok=True)  # of an earlier report: it shows other numbers
            _move_files(folder, destination)  # the numbers first
            failures = writer.write(folder, models, contents, issues, data_set, options)
            _move_files(folder, destination)
    except OSError as error:
        raise InputError(f"--output_dir={destination} cannot be written: {error}; give another") from error
    lines = [f"{warning.severity}: {warning.text}" for warning in report_warnings]
    lines += [f"warning: {text}" for text in failures.values()]
    lines += [str(destination / name) for name in (METRICS, writer.REPORT) if name not in failures]
    table = metrics_json.as_table(contents["models"], patient_noun(data_set.manifest["settings"]))
    return "\n".join([table, *map(printable, lines)])


def _move_files(folder: Path, destination: Path) -> None:
    for path in sorted(folder.iterdir()):
        shutil.move(path, destination / path.name)


def _label_issues(models: Sequence[ModelPredictions]) -> list[LabelIssue]:
    """By the mean probability of all models, whose cells are the same but in an order of their own."""
    orders = [np.argsort(model.predictions.filenames) for model in models]
    probabilities = [model.predictions.probabilities[order] for model, order in zip(models, orders, strict=True)]
    labels, _, filenames, patient_ids = (column[orders[0]] for column in models[0].predictions)
    return label_issues.find(labels, np.mean(probabilities, axis=0), filenames, patient_ids)
