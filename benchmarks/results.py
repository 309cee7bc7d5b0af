"""The table of the three models, as published and better, from the runs and the report that `make results` leaves.

    python -m benchmarks.results --folder=results

Reads `<folder>/report/metrics.json` and, for each of its models, `<folder>/runs/<model>/run.json`. A run folder is
named `<recipe>-<seed>`; runs of one recipe share a row: the mean over its seeds and, in parentheses, their range.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from pipeline.command import run
from pipeline.errors import InputError
from trainers import run_dir

_FOLDER = flags.DEFINE_string("folder", None, "Folder with the runs and the report.", required=True)
_HEADINGS = ("recipe", "seeds", "epochs", "accuracy", "AUC", "accuracy, undisputed", "AUC, undisputed", "s/epoch", "MB")
_UNDISPUTED = "undisputed"  # of an entry: its metrics without the disputed cells


def main() -> None:
    """Prints the table as Markdown."""
    folder = Path(_FOLDER.value)
    try:
        entries = json.loads((folder / "report" / "metrics.json").read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--folder={folder} has no report ({error}); give the folder of make results") from error
    print("\n".join(table(entries, folder / "runs")))


def table(entries: dict[str, dict[str, Any]], runs: Path) -> list[str]:
    """The lines of the table.

    Args:
      entries: `models` of `metrics.json`, by the name of the run's folder.
      runs: where these folders are.
    """
    by_recipe: dict[str, list[str]] = {}
    for name in entries:
        by_recipe.setdefault(name.rpartition("-")[0], []).append(name)
    lines = [f"| {' | '.join(_HEADINGS)} |", "|---" * len(_HEADINGS) + "|"]
    for recipe, names in by_recipe.items():
        records = [run_dir.read(str(runs / name)) for name in names]
        columns = [
            recipe,
            ", ".join(str(record["seed"]) for record in records),
            _mean_and_range([len(run_dir.read_history(runs / name / run_dir.HISTORY)) for name in names], 0),
        ]
        for of_cells in (lambda entry: entry, lambda entry: entry.get(_UNDISPUTED)):
            for metric in ("accuracy", "auc"):
                parts = [of_cells(entries[name]) for name in names]
                columns.append(_mean_and_range([part[metric]["value"] for part in parts], 4) if all(parts) else "")
        columns.append(_mean_and_range([record["timings"]["seconds_per_epoch"] for record in records], 1))
        columns.append(f"{(runs / names[0] / run_dir.MODEL).stat().st_size / 1e6:.1f}")
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def _mean_and_range(values: Sequence[float], digits: int) -> str:
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if min(values) == max(values) else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


if __name__ == "__main__":
    run(main)
