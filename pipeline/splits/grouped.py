"""Assigns complete groups (patients) to splits."""

from collections.abc import Sequence

import numpy as np

_NUM_STARTS = 20
_GOOD_ENOUGH = 1e-6  # about 0.03 % of a class in a 7 % split
_MAX_EXCHANGED = 200  # groups per split to try exchanges with: more take seconds and come no closer
_WEIGHT_OF_PATIENTS = 0.1  # compared with 1 for the cells of a class
_PENALTY_FOR_LACKING_A_CLASS = 100.0


def assign_groups(counts: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Assigns groups to splits so that every class comes as close to its fractions as whole groups allow.

    Groups are cut into splits in the given order. Then single groups are moved and pairs exchanged between splits,
    best first, as long as that lowers the sum over splits and classes of
    (fraction reached - fraction wanted)² / fraction wanted. The best of twenty starts is returned. Healthy and
    infected patients are two more, lightly weighted classes, so that healthy patients are in every split. The
    arithmetic is elementwise on exact counts, so every machine finds the same split.

    scikit-learn's StratifiedGroupKFold only makes folds of equal size; ten folds put together to 70/30, then to
    90/10, end at fractions such as 58/8/33 on 60 real patients.

    Args:
      counts: int [groups, classes], the number of cells.
      fractions: what each split should have of every class; they sum to 1.

    Returns:
      int [groups], the index of each group's split. No split lacks a class, provided that there are two classes
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
