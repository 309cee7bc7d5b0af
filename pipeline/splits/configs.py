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

FRACTIONS = {"train": 0.63, "validation": 0.07, "test": 0.30}  # the original's: 30 % test, 10 % of the rest validation
NUM_FOLDS = 5
_FOLD_FRACTIONS = {f"fold_{i}": 1 / NUM_FOLDS for i in range(NUM_FOLDS)}

_NUM_STARTS = 20
_GOOD_ENOUGH = 1e-6  # about 0.03 % of a class in a 7 % split
_MAX_EXCHANGED = 200  # groups per split to try exchanges with: more take seconds and come no closer
_WEIGHT_OF_PATIENTS = 0.1  # compared with 1 for the cells of a class
_PENALTY_FOR_LACKING_A_CLASS = 100.0


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

    `labels` and `patients` are int [cells], sorted by file name: indices into `LABELS` and into `patient_ids`. Returns
    the index of each cell's split, int [cells]. Raises InputError if too few patients have cells of a class.
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


def assign_groups(counts: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Assigns groups to splits so that every class comes as close to its fractions as whole groups allow.

    Groups are cut into splits in the given order. Then single groups are moved and pairs exchanged between splits,
    best first, as long as that lowers the sum over splits and classes of
    (fraction reached - fraction wanted)² / fraction wanted. The best of twenty starts is returned. Healthy and
    infected patients are two more, lightly weighted classes, so that healthy patients are in every split. The
    arithmetic is elementwise on exact counts, so every machine finds the same split.

    Takes numbers of cells, int [groups, classes], and what each split should have of every class, which sums to 1.
    Returns the index of each group's split, int [groups]. No split lacks a class, provided that there are two classes
    and each is in at least as many groups as there are splits.
    """
    problem = _Problem(counts, fractions)
    best_splits, best_cost = np.zeros(len(counts), np.int64), np.inf
    for start in range(min(_NUM_STARTS, len(counts))):
        splits = problem.cut(start * len(counts) // _NUM_STARTS)
        cost = problem.improve(splits)
        if cost < best_cost:
            best_splits, best_cost = splits, cost
        if best_cost < _GOOD_ENOUGH:
            break
    return best_splits


class _Problem:
    """What `assign_groups` minimizes: columns are the classes, then healthy and infected patients."""

    def __init__(self, counts: np.ndarray, fractions: Sequence[float]) -> None:
        infected = counts[:, 1:].any(axis=1)
        status = np.stack([~infected, infected], axis=1)[:, [not infected.all(), bool(infected.any())]]
        self.num_classes, self.fractions = counts.shape[1], np.array(fractions, np.float64)
        self.weights = [1.0] * self.num_classes + [_WEIGHT_OF_PATIENTS] * status.shape[1]
        self.table = np.concatenate([counts, status], axis=1).astype(np.int64)  # [groups, columns]
        self.totals = self.table.sum(axis=0)

    def cut(self, first: int) -> np.ndarray:
        """Cuts the groups, in order from `first` on, at the cumulated fractions of cells."""
        order = np.roll(np.arange(len(self.table)), -first)
        cells = self.table[order, : self.num_classes].sum(axis=1)
        middles = np.cumsum(cells) - cells / 2
        splits = np.empty(len(order), np.int64)
        splits[order] = np.searchsorted(np.cumsum(self.fractions)[:-1] * cells.sum(), middles)
        return splits

    def cost(self, split: int, columns: Sequence[np.ndarray]) -> np.ndarray:
        """The cost of a split for candidate contents: one int array per column, all of one shape."""
        fraction = self.fractions[split]
        cost = np.zeros(np.shape(columns[0]))
        for column, content in enumerate(columns):
            deviation = content / self.totals[column] - fraction
            cost += self.weights[column] * deviation * deviation / fraction
            if column < self.num_classes:
                cost += _PENALTY_FOR_LACKING_A_CLASS * (content == 0)
        return cost

    def improve(self, splits: np.ndarray) -> float:
        """Moves and exchanges groups in place until nothing lowers the cost; returns the cost."""
        contents = np.stack([self.table[splits == s].sum(axis=0) for s in range(len(self.fractions))])
        while True:
            costs = [float(self.cost(s, content)) for s, content in enumerate(contents)]
            total = sum(costs)
            best_gain, best_change = 1e-12, None
            for source in range(len(self.fractions)):
                for target in range(len(self.fractions)):
                    gain, change = self._best_change(splits, contents, source, target)
                    gain += costs[source] + costs[target]
                    if change is not None and gain > best_gain:
                        best_gain, best_change = gain, (source, target, *change)
            if best_change is None or total < _GOOD_ENOUGH:
                return total
            source, target, leaving, entering = best_change
            moved = self.table[leaving] - (self.table[entering] if entering is not None else 0)
            contents[source] -= moved
            contents[target] += moved
            splits[leaving] = target
            if entering is not None:
                splits[entering] = source

    def _best_change(
        self, splits: np.ndarray, contents: np.ndarray, source: int, target: int
    ) -> tuple[float, tuple[int, int | None] | None]:
        """The best group to move from source to target, alone or in exchange: (minus the new cost, groups)."""
        leaving, entering = np.flatnonzero(splits == source), np.flatnonzero(splits == target)
        if source == target or not len(leaving):
            return -np.inf, None

        def best_of(moved: list[np.ndarray]) -> tuple[float, int]:
            old = zip(contents[source], contents[target], moved, strict=True)
            left, right = zip(*((a - m, b + m) for a, b, m in old), strict=True)
            cost = self.cost(source, left) + self.cost(target, right)
            index = int(cost.argmin())
            return -float(cost.flat[index]), index

        best, index = best_of(list(self.table[leaving].T))
        change: tuple[int, int | None] = (int(leaving[index]), None)
        leaving, entering = leaving[:_MAX_EXCHANGED], entering[:_MAX_EXCHANGED]
        if source < target and len(entering):
            moved = self.table[leaving][:, None] - self.table[entering][None]
            exchanged, index = best_of(list(np.moveaxis(moved, 2, 0)))
            if exchanged > best:
                i, j = divmod(index, len(entering))
                best, change = exchanged, (int(leaving[i]), int(entering[j]))
        return best, change


def _by_patient(description: str, fractions: Mapping[str, float]) -> SplitConfig:
    return SplitConfig(
        description, tuple(fractions), partial(assign_patients, fractions=fractions), needs_patients=True
    )


CONFIGS: Mapping[str, SplitConfig] = {
    "by_patient": _by_patient(
        "63 % train, 7 % validation, 30 % test, stratified; no patient is in two splits.", FRACTIONS
    ),
    "by_cell": SplitConfig(
        "The original procedure: cells are split one by one, so a patient's cells are in every split.",
        tuple(FRACTIONS),
        assign_by_cell,
        needs_patients=False,
    ),
    "folds": _by_patient("Five stratified folds for cross-validation; no patient is in two folds.", _FOLD_FRACTIONS),
    "given": SplitConfig(
        "The source's own splits, those of train, validation and test that it has; a patient may be in several.",
        SPLITS,
        None,
        needs_patients=False,
    ),
}
"""The configs of the data set by name; the first is the default."""
