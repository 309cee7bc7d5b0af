"""Assigns every cell to a split: pure, and deterministic in the seed.

`by_patient` and `folds` keep all cells of a patient in one split. They share a stain and a slide, so the metrics of a
model that has trained on some of them are optimistic on the others.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.cells import LABELS, Cell
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
    assign: Callable[[Sequence[Cell], int], list[str]]  # (cells sorted by file name, seed) -> split of each cell
    needs_patients: bool  # whether a cell without a patient is an error


def seeded_hash(seed: int, key: str) -> bytes:
    """A hash to sort by: the same on every machine and Python version, unlike `hash`."""
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest()


def assign_by_cell(cells: Sequence[Cell], seed: int) -> list[str]:
    """The original's procedure on sorted names, patients ignored.

    Parasitized files, then uninfected ones, are shuffled by `DataFrame.sample(frac=1)`, then split twice by
    scikit-learn's `train_test_split`, 30 % and 10 % (D. Sarkar, "Detecting Malaria with Deep Learning", 2019).
    On the NLM's 27,558 cells this gives 17,361 / 1,929 / 8,268.
    Raises InputError if there are too few cells for three splits.
    """
    from sklearn.model_selection import train_test_split  # takes 1.5 s, which the other configs do not need

    if len(cells) < 10:
        raise InputError(f"got {len(cells)} cells, too few to split; expected at least 10: add cells")
    parasitized_first = sorted(range(len(cells)), key=lambda i: (-cells[i].label, i))
    shuffled = np.array(parasitized_first)[np.random.RandomState(seed).permutation(len(cells))]
    rest, test = train_test_split(shuffled, test_size=0.3, random_state=seed)
    train, validation = train_test_split(rest, test_size=0.1, random_state=seed)
    splits = np.empty(len(cells), dtype=object)
    splits[train], splits[validation], splits[test] = "train", "validation", "test"
    return splits.tolist()


def assign_patients(cells: Sequence[Cell], seed: int, fractions: Mapping[str, float]) -> list[str]:
    """Complete patients into splits of the given fractions of cells, see `assign_groups`.

    Raises InputError if too few patients have cells of a class.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(LABELS))
    for cell in cells:
        counts[cell.patient_id][cell.label] += 1
    # In hash order, so that the split is random in the patients but the same for any listing of them.
    patients = sorted(counts, key=lambda patient: seeded_hash(seed, patient))
    table = np.array([counts[patient] for patient in patients], dtype=np.int64).reshape(-1, len(LABELS))
    for label, name in enumerate(LABELS):
        with_label = int((table[:, label] > 0).sum())
        if with_label < len(fractions):
            raise InputError(
                f"too few patients to split: {with_label} of {len(patients)} patients have {name} cells; expected at "
                f"least {len(fractions)}, one for each of {', '.join(fractions)}; add patients, check "
                "--patient_regex, or use --config=by_cell"
            )
    names = list(fractions)
    split_of = dict(zip(patients, assign_groups(table, list(fractions.values())), strict=True))
    return [names[split_of[cell.patient_id]] for cell in cells]


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
}
"""The configs of the data set by name; the first is the default."""
