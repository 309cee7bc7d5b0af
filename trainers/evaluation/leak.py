"""Whether a model is judged on patients that its training has seen. Pure."""

from collections.abc import Iterable
from typing import Any

from trainers import run_dir

TRAINED_ON, CHOSEN_BY = "train_patients", "validation_patients"


def check(run: run_dir.Run, patient_ids: Iterable[str], fingerprint: str) -> dict[str, Any]:
    """Compares the patients of a split with those that a run keeps in `run.json`.

    Args:
      run: see `trainers.run_dir`.
      patient_ids: of the cells that are judged.
      fingerprint: of the source that their data set was made from.

    Returns:
      is_external: whether the data set was made from another source than the run's;
      train_patients, validation_patients: those of the split that the weights were fitted on, and that the epoch was
      chosen by, sorted; None if patients are unknown, so that nobody can tell.
    """
    judged = set(patient_ids)
    data = run["data"]

    def seen(kind: str) -> list[str] | None:
        kept = set(data.get(kind, [""]))
        return None if "" in kept | judged else sorted(kept & judged)

    return {"is_external": data["fingerprint"] != fingerprint, **{kind: seen(kind) for kind in (TRAINED_ON, CHOSEN_BY)}}


def merge(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The findings of several runs, such as those of the folds, as one."""
    found = list(found)
    return {
        "is_external": any(item["is_external"] for item in found),
        **{
            kind: None
            if any(item[kind] is None for item in found)
            else sorted(set().union(*(item[kind] for item in found)))
            for kind in (TRAINED_ON, CHOSEN_BY)
        },
    }


def sentence(name: str, found: dict[str, Any]) -> str | None:
    """What `check` found, for people; None if all is well.

    Args:
      name: the model.
      found: see `check`.
    """
    trained_on, chosen_by = found[TRAINED_ON], found[CHOSEN_BY]
    if trained_on is None:
        return f"{name}: no leak check, since its patients are unknown (an older run, or cells without patients)"
    if not trained_on and not chosen_by:
        return None
    parts = []
    if trained_on:
        parts.append(f"was trained on {_patients(trained_on)} of this split")
    if chosen_by:
        parts.append(f"had its best epoch chosen on {_patients(chosen_by)} of it")
    text = f"{name} {' and '.join(parts)}: its figures are too good, and say little about new patients"
    if found["is_external"]:
        text += " (the source is another one; this holds if the same names mean the same people)"
    return text


def _patients(names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} patient{'s' if len(names) > 1 else ''} ({shown})"
