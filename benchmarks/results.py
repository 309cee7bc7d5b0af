"""The table of the three models, as published and better, from the runs and the report that `make results` leaves.

    python -m benchmarks.results --folder=results

A run folder is named `<recipe>-<seed>`; runs of one recipe share a row: the mean over its seeds and, in parentheses,
their range.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from benchmarks.harness import measurement
from pipeline.command import run
from pipeline.errors import InputError
from trainers import run_dir

_FOLDER = flags.DEFINE_string("folder", None, "Folder with the runs and the report.", required=True)
_HEADINGS = ("recipe", "seeds", "epochs", "accuracy", "AUC", "accuracy, undisputed", "AUC, undisputed", "s/epoch", "MB")


def main() -> None:
    """Prints the table as Markdown."""
    folder = Path(_FOLDER.value)
    try:
        models = json.loads((folder / "report" / "metrics.json").read_text(encoding="utf-8"))["models"]
    except OSError as error:
        raise InputError(f"--folder={folder} has no report ({error}); give the folder of make results") from error
    print(measurement.markdown(_HEADINGS, rows(models, folder / "runs")))


def rows(models: dict[str, dict[str, Any]], runs: Path) -> Iterator[list[str]]:
    """The cells of a row for each recipe; `models` are those of `metrics.json`, by the name of the run's folder."""
    for recipe in dict.fromkeys(name.rpartition("-")[0] for name in models):
        names = [name for name in models if name.rpartition("-")[0] == recipe]
        records = [run_dir.read(str(runs / name)) for name in names]
        histories = [run_dir.read_history(runs / name / run_dir.HISTORY) for name in names]
        row = [
            recipe,
            ", ".join(str(record["seed"]) for record in records),
            _mean_and_range(list(map(len, histories)), 0),
        ]
        for parts in ([models[name] for name in names], [models[name].get("undisputed", {}) for name in names]):
            for metric in ("accuracy", "auc"):
                row.append(_mean_and_range([part[metric]["value"] for part in parts], 4) if all(parts) else "")
        row.append(_mean_and_range([median(epoch["seconds"] for epoch in history) for history in histories], 1))
        yield [*row, f"{(runs / names[0] / run_dir.MODEL).stat().st_size / 1e6:.1f}"]


def _mean_and_range(values: Sequence[float], digits: int) -> str:
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if min(values) == max(values) else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


if __name__ == "__main__":
    run(main)
