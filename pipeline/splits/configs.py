"""Assigns every cell to a split: pure, and deterministic in the seed.

`by_patient` and `folds` keep all cells of a patient in one split. They share a stain and a slide, so the metrics of a
model that has trained on some of them are optimistic on the others.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.cells import LABELS, SPLITS
from pipeline.errors import InputError
from pipeline.splits.grouped import assign_groups

FRACTIONS = {"train": 0.63, "validation": 0.07, "test": 0.30}
"""The original's fractions of cells: 30 % test, then 10 % of the rest for validation."""

NUM_FOLDS = 5
_FOLD_FRACTIONS = {f"fold_{i}": 1 / NUM_FOLDS for i in range(NUM_FOLDS)}


class SplitConfig(NamedTuple):
    """A config of the data set: how cells are split."""

    description: str  # one sentence for people
    splits: tuple[str, ...]  # names, in their order
    assign: Callable[[np.ndarray, np.ndarray, Sequence[str], int], np.ndarray] | None  # see `assign_patients`
    needs_patients: bool  # whether a cell without a patient is an error


def seeded_hash(seed: int, key: str) -> bytes:
    """A hash to sort by: the same on every machine and Python version, unlike `hash`."""
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest()


def assign_by_cell(labels: np.ndarray, patients: np.ndarray, patient_ids: Sequence[str], seed: int) -> np.ndarray:
    """The original's procedure on sorted names, patients ignored; arguments as in `assign_patients`.

    Parasitized files, then uninfected ones, are shuffled by `DataFrame.sample(frac=1)`, then split twice by
    scikit-learn's `train_test_split`, 30 % and 10 % (D. Sarkar, "Detecting Malaria with Deep Learning", 2019).
    On the NLM's 27,558 cells this gives 17,361 / 1,929 / 8,268.
    Raises InputError if there are too few cells for three splits.
    """
    from sklearn.model_selection import train_test_split  # takes 1.5 s, which the other configs do not need

    if len(labels) < 10:
        raise InputError(f"got {len(labels)} cells, too few to split; expected at least 10: add cells")
    parasitized_first = np.argsort(-labels.astype(np.int64), kind="stable")
    shuffled = parasitized_first[np.random.RandomState(seed).permutation(len(labels))]
    rest, test = train_test_split(shuffled, test_size=0.3, random_state=seed)
    train, validation = train_test_split(rest, test_size=0.1, random_state=seed)
    splits = np.empty(len(labels), np.int64)
    splits[train], splits[validation], splits[test] = range(len(FRACTIONS))
    return splits


def assign_patients(
    labels: np.ndarray, patients: np.ndarray, patient_ids: Sequence[str], seed: int, fractions: Mapping[str, float]
) -> np.ndarray:
    """Complete patients into splits of the given fractions of cells, see `assign_groups`.

    Args:
      labels, patients: int [cells], sorted by file name: index into `LABELS` and into `patient_ids`.
      patient_ids: each once.
      seed: decides on the split.
      fractions: split -> fraction of the cells.

    Returns:
      int [cells], the index of each cell's split.

    Raises:
      InputError: if too few patients have cells of a class.
    """
    # In hash order, so that the split is random in the patients but the same for any listing of them.
    in_order = sorted(range(len(patient_ids)), key=lambda patient: seeded_hash(seed, patient_ids[patient]))
    counts = np.bincount(patients.astype(np.int64) * len(LABELS) + labels, minlength=len(patient_ids) * len(LABELS))
    table = counts.reshape(-1, len(LABELS))[in_order]
    for label, name in enumerate(LABELS):
        with_label = int((table[:, label] > 0).sum())
        if with_label < len(fractions):
            raise InputError(
                f"too few patients to split: {with_label} of {len(patient_ids)} patients have {name} cells; expected "
                f"at least {len(fractions)}, one for each of {', '.join(fractions)}; add patients, check "
                "--patient_regex, or use --config=by_cell"
            )
    split_of = np.empty(len(patient_ids), np.int64)
    split_of[in_order] = assign_groups(table, list(fractions.values()))
    return split_of[patients]


CONFIGS: Mapping[str, SplitConfig] = {
    "by_patient": SplitConfig(
        "63 % train, 7 % validation, 30 % test, stratified; no patient is in two splits.",
        tuple(FRACTIONS),
        partial(assign_patients, fractions=FRACTIONS),
        needs_patients=True,
    ),
    "by_cell": SplitConfig(
        "The original procedure: cells are split one by one, so a patient's cells are in every split.",
        tuple(FRACTIONS),
        assign_by_cell,
        needs_patients=False,
    ),
    "folds": SplitConfig(
        "Five stratified folds for cross-validation; no patient is in two folds.",
        tuple(_FOLD_FRACTIONS),
        partial(assign_patients, fractions=_FOLD_FRACTIONS),
        needs_patients=True,
    ),
    "given": SplitConfig(
        "The source's own splits, those of train, validation and test that it has; a patient may be in several.",
        SPLITS,
        None,
        needs_patients=False,
    ),
}
"""The configs of the data set by name; the first is the default."""
