"""From candidates to a folder with the whole verdict."""

import itertools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError
from trainers.evaluation_flags import Options
from trainers.verdict import cautions, entry, judgement, table
from trainers.verdict.bootstrap import Resampled
from trainers.verdict.candidates import Candidate
from trainers.verdict.data_set import DataSet
from trainers.verdict.judged import Judged

METRICS = "metrics.json"


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
    found = list(dict.fromkeys(caution for item in judged for caution in cautions.find(item, data_set.config)))
    contents = {
        "models": entries,
        "comparisons": _comparisons(judged, resampled),
        "cautions": cautions.as_json(found),
    }
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=destination) as partial:
        folder = Path(partial)
        (folder / METRICS).write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n")
        for path in sorted(folder.iterdir()):
            shutil.move(path, destination / path.name)
    lines = [f"{caution.severity}: {caution.text}" for caution in found]
    return "\n".join([table.render(entries), *lines, str(destination / METRICS)])


def _comparisons(judged: Sequence[Judged], resampled: Sequence[dict[str, Resampled]]) -> list[dict]:
    """All pairs of models; they have the same cells, see `candidates.plan`."""
    named = [(item.name, values) for item, values in zip(judged, resampled, strict=True)]
    return [entry.compare(one, other) for one, other in itertools.combinations(named, 2)]


def _make_folder(output_dir: str) -> Path:
    path = Path(output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir={output_dir} cannot be made: {error}; give another") from error
    return path
