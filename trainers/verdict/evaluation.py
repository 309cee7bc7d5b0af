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
from trainers.evaluation_flags import Options
from trainers.verdict import cautions, entry, judgement, label_errors, pages, table
from trainers.verdict.bootstrap import Resampled
from trainers.verdict.candidates import Candidate
from trainers.verdict.data_set import DataSet
from trainers.verdict.judged import Judged

METRICS = "metrics.json"
SUSPECTS = "suspected_label_errors.csv"


def evaluate(candidates: Sequence[Candidate], data_set: DataSet, options: Options, output_dir: str) -> str:
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
        judgement.judge(candidate, data_set, options.batch_size, options.test_time_flips) for candidate in candidates
    ]
    resampled = [entry.resample(item, options.num_resamples, options.bootstrap_seed) for item in judged]
    entries = {
        item.name: entry.build(item, values, options.num_resamples, options.bootstrap_seed, options.prevalence)
        for item, values in zip(judged, resampled, strict=True)
    }
    found = cautions.find_all(judged, data_set.config)
    suspects = _suspects(judged)
    contents = {
        "models": entries,
        "comparisons": _comparisons(judged, resampled),
        "cautions": cautions.as_json(found),
        "suspected_label_errors": len(suspects),
    }
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=destination) as partial:
        folder = Path(partial)
        (folder / METRICS).write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n")
        label_errors.write(suspects, folder / SUSPECTS)
        pages.write(folder, judged, contents, suspects, data_set, options)
        for path in sorted(folder.iterdir()):
            shutil.move(path, destination / path.name)
    lines = [f"{caution.severity}: {caution.text}" for caution in found]
    return "\n".join([table.render(entries), *lines, str(destination / METRICS), str(destination / pages.REPORT)])


def _comparisons(judged: Sequence[Judged], resampled: Sequence[dict[str, Resampled]]) -> list[dict[str, Any]]:
    """All pairs of models; they have the same cells, see `candidates.plan`."""
    named = [(item.name, values) for item, values in zip(judged, resampled, strict=True)]
    return [entry.compare(one, other) for one, other in itertools.combinations(named, 2)]


def _suspects(judged: Sequence[Judged]) -> list[label_errors.Suspect]:
    """By the mean probability of all models, whose cells are the same in an order of their own."""
    orders = [np.argsort(item.predictions.filenames) for item in judged]
    mean = np.mean([item.predictions.probabilities[order] for item, order in zip(judged, orders, strict=True)], axis=0)
    labels, _, filenames, patient_ids = (column[orders[0]] for column in judged[0].predictions)
    return label_errors.find(labels, mean, filenames, patient_ids)


def _make_folder(output_dir: str) -> Path:
    path = Path(output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir={output_dir} cannot be made: {error}; give another") from error
    return path
