"""From candidates to a folder with the whole verdict."""

import itertools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from trainers.evaluation import predict_runs
from trainers.evaluation.data_set import DataSet
from trainers.evaluation.metrics import label_issues
from trainers.evaluation.metrics.bootstrap import Resampled
from trainers.evaluation.model_predictions import ModelPredictions
from trainers.evaluation.report import console, html, metrics_json, warnings
from trainers.evaluation.runs import ModelRuns
from trainers.evaluation_flags import Options

METRICS = "metrics.json"
SUSPECTS = "suspected_label_errors.csv"


def evaluate(candidates: Sequence[ModelRuns], data_set: DataSet, options: Options, output_dir: str) -> str:
    """Judges all candidates and writes the report.

    Args:
      candidates: what to judge.
      data_set: on which cells.
      options: see `evaluation_flags`.
      output_dir: folder of the report; its files appear once all of them are made.

    Returns:
      the table for people, and where the report is.

    Raises:
      InputError: if a model does not fit the data, or the folder cannot be written; nothing is in it then.
    """
    destination = _make_folder(output_dir)
    judged = [
        predict_runs.judge(candidate, data_set, options.batch_size, options.test_time_flips) for candidate in candidates
    ]
    resampled = [metrics_json.resample(item, options.num_resamples, options.bootstrap_seed) for item in judged]
    entries = {
        item.name: metrics_json.build(item, values, options.num_resamples, options.bootstrap_seed, options.prevalence)
        for item, values in zip(judged, resampled, strict=True)
    }
    found = warnings.find_all(judged, data_set.config)
    suspects = _suspects(judged)
    contents = {
        "models": entries,
        "comparisons": _comparisons(judged, resampled),
        "cautions": warnings.as_json(found),
        "suspected_label_errors": len(suspects),
    }
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=destination) as partial:
        folder = Path(partial)
        (folder / METRICS).write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n")
        label_issues.write(suspects, folder / SUSPECTS)
        html.write(folder, judged, contents, suspects, data_set, options)
        for path in sorted(folder.iterdir()):
            shutil.move(path, destination / path.name)
    lines = [f"{caution.severity}: {caution.text}" for caution in found]
    return "\n".join([console.render(entries), *lines, str(destination / METRICS), str(destination / html.REPORT)])


def _comparisons(judged: Sequence[ModelPredictions], resampled: Sequence[dict[str, Resampled]]) -> list[dict[str, Any]]:
    """All pairs of models; they have the same cells, see `candidates.plan`."""
    named = [(item.name, values) for item, values in zip(judged, resampled, strict=True)]
    return [metrics_json.compare(one, other) for one, other in itertools.combinations(named, 2)]


def _suspects(judged: Sequence[ModelPredictions]) -> list[label_issues.Suspect]:
    """By the mean probability of all models, whose cells are the same in an order of their own."""
    orders = [np.argsort(item.predictions.filenames) for item in judged]
    mean = np.mean([item.predictions.probabilities[order] for item, order in zip(judged, orders, strict=True)], axis=0)
    labels, _, filenames, patient_ids = (column[orders[0]] for column in judged[0].predictions)
    return label_issues.find(labels, mean, filenames, patient_ids)


def _make_folder(output_dir: str) -> Path:
    path = Path(output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir={output_dir} cannot be made: {error}; give another") from error
    return path
