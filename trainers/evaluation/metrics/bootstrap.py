"""Metrics with intervals over patients or, to show the difference, over single cells. Pure, seeded, vectorised.

The cells of a patient share a slide and a stain, so they are not independent: intervals over cells are far too narrow.
These leave out and resample patients with all their cells, and assume only that patients are independent.

An interval is estimate ± q · standard error, on the logit scale. The standard error is the jackknife's, which leaves
out one patient at a time. q is the larger of two 95 % quantiles: that of t with (effective number of patients - 1)
degrees of freedom, which knows that few patients may have most of the cells, and that of the studentised bootstrap
(Davison and Hinkley, "Bootstrap Methods and their Application", 1997, sections 2.4 and 3.8), which knows how skewed the
estimate is. How often this covers the truth is simulated in `test_bootstrap.py`.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from trainers.evaluation.metrics import metrics

_LEVEL = 0.95
_MAX_CLUSTERS = 500  # more are merged at random, which keeps the work small and the standard error to about 3 %
_WEIGHTS_PER_BLOCK = 1_000_000  # resamples are weighted in blocks, about 8 MB per temporary array
_MIN_RESAMPLES = 50  # with a standard error of their own, for a quantile of them


class Estimate(NamedTuple):
    """A metric, or a difference of two, as in `metrics.json`."""

    value: float | None  # of all cells; None where it is undefined, as precision is where no cell is called parasitized
    ci95: list[float] | None  # ends of the 95 % interval; None where leaving out clusters changes nothing


class Sums:
    """What all metrics consist of, summed by cluster, so that weighting clusters is cheap: scikit-learn cannot.

    Labels are int [cells], 1 is parasitized; probabilities float [cells] in 0…1, of being parasitized; clusters
    [cells], the patient of each cell, or a number of its own for each cell.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray) -> None:
        names, cluster = np.unique(clusters, return_inverse=True)
        self.num_clusters = min(len(names), _MAX_CLUSTERS)
        if len(names) > _MAX_CLUSTERS:
            cluster = np.random.default_rng(0).permutation(len(names))[cluster] % _MAX_CLUSTERS
        order = np.argsort(-probabilities, kind="stable")
        self._labels, self._probabilities, self._cluster = labels[order], probabilities[order], cluster[order]
        kind = 2 * (self._labels == 1) + (self._probabilities >= metrics.THRESHOLD)
        tn, fp, fn, tp = self._confusion = self._by_cluster(kind, np.ones(len(labels)), 4)
        self._negatives, self._positives = tn + fp, fn + tp
        num_cells = self._negatives + self._positives
        error = self._probabilities - self._labels
        self._excess = self._by_cluster(metrics.assign_bins(self._probabilities), error, metrics.NUM_BINS)
        self._ratios = {
            "accuracy": (tn + tp, num_cells),
            "sensitivity": (tp, self._positives),
            "specificity": (tn, self._negatives),
            "precision": (tp, tp + fp),
            "f1": (2 * tp, 2 * tp + fp + fn),
            "brier": (self._by_cluster(np.zeros_like(kind), error**2, 1)[0], num_cells),
        }
        self.linear_names = {*self._ratios, "auc"}  # metrics that `linearize` knows

    def _by_cluster(self, row: np.ndarray, values: np.ndarray, num_rows: int) -> np.ndarray:
        sums = np.zeros((num_rows, self.num_clusters))
        np.add.at(sums, (row, self._cluster), values)
        return sums

    @cached_property
    def _wins(self) -> np.ndarray:
        """Pairs in which a cluster's parasitized cell is above a cluster's uninfected one, ties half: [clusters]²."""
        is_positive = self._labels == 1
        above, owner = self._probabilities[is_positive], self._cluster[is_positive]
        wins = np.zeros((self.num_clusters, self.num_clusters))
        for cluster in range(self.num_clusters):
            below = self._probabilities[~is_positive & (self._cluster == cluster)][::-1]
            counts = sum(np.searchsorted(below, above, side) for side in ("left", "right"))
            wins[:, cluster] = np.bincount(owner, counts / 2, self.num_clusters)
        return wins

    def compute(self, name: str, weights: np.ndarray) -> np.ndarray:
        """One of `metrics.NAMES`, [weightings], NaN where undefined; weights are [weightings, clusters], at least 0."""
        if name in self.linear_names:
            return self.linearize(name, weights)[0]
        if name == "balanced_accuracy":
            return (self.compute("sensitivity", weights) + self.compute("specificity", weights)) / 2
        if name == "average_precision":
            return np.array([self._average_precision(by_cluster[self._cluster]) for by_cluster in weights])
        tn, fp, fn, tp = self._confusion @ weights.T
        if name == "mcc":
            product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
            return np.divide(tp * tn - fp * fn, np.sqrt(product), out=np.zeros_like(tp), where=product > 0)
        return np.abs(self._excess @ weights.T).sum(axis=0) / _or_nan(tn + fp + fn + tp)  # ece

    def _average_precision(self, weights: np.ndarray) -> float:
        # Cells of equal probability are predicted alike: sums are taken at the last cell of each value.
        last = np.append(np.flatnonzero(np.diff(self._probabilities)), len(weights) - 1)
        above, tp = np.cumsum(weights)[last], np.cumsum(weights * self._labels)[last]
        precision = np.divide(tp, above, out=np.zeros_like(tp), where=above > 0)
        return float(np.diff(tp, prepend=0) @ precision / tp[-1]) if tp[-1] else np.nan

    def linearize(self, name: str, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One of `linear_names`, and the first-order change by one more of each cluster, [weightings, clusters]."""
        if name == "auc":
            positives, negatives = (_or_nan(weights @ sums) for sums in (self._positives, self._negatives))
            wins, losses = weights @ self._wins.T, weights @ self._wins
            pairs = positives * negatives
            values = (wins * weights).sum(axis=1) / pairs
            share = self._positives / positives[:, None] + self._negatives / negatives[:, None]
            return values, (wins + losses) / pairs[:, None] - values[:, None] * share
        counts, sizes = self._ratios[name]
        total = _or_nan(weights @ sizes)[:, None]
        ratio = (weights @ counts)[:, None] / total
        return ratio[:, 0], (counts - ratio * sizes) / total

    def margin(self, name: str) -> float:
        """Half a cell (for the AUC, half a pair) as a fraction: values at the very ends are moved inwards by it."""
        if name == "auc":
            return 0.5 / (self._positives.sum() * self._negatives.sum())
        return 0.5 / max(1.0, self._ratios.get(name, self._ratios["accuracy"])[1].sum())

    def effective_number(self, name: str) -> float:
        """Number of clusters, less where few of them have most of the cells that a metric is about."""
        sizes = [self._ratios[name][1]] if name in self._ratios else [self._positives, self._negatives]
        return min(float(size.sum() ** 2 / max(1.0, (size**2).sum())) for size in sizes)


def _or_nan(totals: np.ndarray) -> np.ndarray:
    return np.where(totals > 0, totals, np.nan)


def compute(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """All metrics without intervals, None where one is undefined; for labels and probabilities see `Sums`."""
    sums = Sums(labels, probabilities, np.zeros(len(labels)))
    return {name: _or_none(sums.compute(name, np.ones((1, 1)))[0]) for name in metrics.NAMES}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def estimate(
    models: Sequence[Sums], num_resamples: int, names: Iterable[str] = metrics.NAMES, seed: int = 0
) -> dict[str, Estimate]:
    """Metrics with their intervals: of one model, or of one minus another on the same cells, paired by cluster."""
    num_clusters, rng = models[0].num_clusters, np.random.default_rng(seed)
    weights = np.vstack([np.ones(num_clusters), 1 - np.eye(num_clusters)])  # all clusters; without each of them
    values = {name: np.subtract.reduce([model.compute(name, weights) for model in models]) for name in names}
    resampled = {name: [np.empty((2, 0))] for name in values}
    block = max(1, _WEIGHTS_PER_BLOCK // num_clusters)
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)  # how often each cluster is in each resample:
        weights = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size).astype(np.float64)
        for name in models[0].linear_names & resampled.keys():
            pairs = zip(*(model.linearize(name, weights) for model in models), strict=True)
            value, influence = (np.subtract.reduce(pair) for pair in pairs)
            resampled[name].append(np.stack([value, np.sqrt((weights * influence**2).sum(axis=1))]))
    return {
        name: Estimate(_or_none(items[0]), _interval(models, name, items, np.concatenate(resampled[name], axis=1)))
        for name, items in values.items()
    }


def _interval(models: Sequence[Sums], name: str, values: np.ndarray, resampled: np.ndarray) -> list[float] | None:
    """The interval of values of all clusters and without each, and of resampled values and their standard errors."""
    lowest, margin = (-1.0 if name == "mcc" else 0.0), models[0].margin(name)

    def scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values on the logit scale, and its slope there; differences stay as they are."""
        if len(models) > 1:
            return values, np.ones_like(values)
        fractions = np.clip((values - lowest) / (1 - lowest), margin, 1 - margin)
        return special.logit(fractions), 1 / (fractions * (1 - fractions))

    scaled, _ = scale(values)
    left_out = scaled[1:][np.isfinite(scaled[1:])]
    if len(left_out) < 2 or np.ptp(left_out) < 1e-12:
        return None
    degrees = max(1.0, min(model.effective_number(name) for model in models) - 1)
    quantile = stats.t.ppf((1 + _LEVEL) / 2, degrees)
    resampled_values, slopes = scale(resampled[0])
    errors = resampled[1] * slopes
    studentized = (resampled_values - scaled[0])[errors > 1e-9] / errors[errors > 1e-9]
    if len(studentized) >= _MIN_RESAMPLES:
        quantile = max(quantile, np.quantile(np.abs(studentized), _LEVEL))
    ends = scaled[0] + quantile * np.sqrt((len(left_out) - 1) * np.var(left_out)) * np.array([-1, 1])
    return [float(end) for end in (ends if len(models) > 1 else lowest + (1 - lowest) * special.expit(ends))]
