"""Intervals by resampling patients or, to show the difference, single cells. Pure, seeded, vectorised.

The cells of a patient share a slide and a stain, so they are not independent: resampling cells gives intervals that are
far too narrow. The cluster bootstrap (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section
3.8) resamples patients with all their cells, and assumes only that patients are independent.

The interval is the estimate ± t · (standard deviation of the resamples) on the logit scale, t with (patients - 1)
degrees of freedom. Percentiles of the resamples would be simpler, but with 60 patients and metrics near 1 they cover
the truth in 87 to 92 % of simulated data sets instead of 95; this covers in 94 to 95 (`test_bootstrap.py`).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from trainers.evaluation.metrics import metrics

_LEVEL = 0.95
_CELLS_PER_BLOCK = 4_000_000  # resamples are weighted in blocks, about 32 MB per temporary array

Interval = list[float] | None
"""Lower and upper end of a 95 % interval; None where the resamples do not vary, so that there is none."""


class Resampled(NamedTuple):
    """The values of one metric.

    Attributes:
      value: of all cells.
      resamples: float64 [resamples]; NaN where the metric is undefined, such as for a resample of one class.
      num_clusters: number of patients (or cells) that are resampled.
    """

    value: float
    resamples: np.ndarray
    num_clusters: int


class Sums:
    """What all metrics consist of, summed by cluster, so that weighting clusters is cheap: scikit-learn cannot.

    Args:
      labels: int [cells].
      probabilities: float [cells] in 0…1.
      cluster: int [cells], the cluster (patient or cell) of each cell, from 0 on.
      threshold: a cell is predicted parasitized from here on.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, cluster: np.ndarray, threshold: float) -> None:
        is_positive, predicted = labels == 1, probabilities >= threshold
        self.num_clusters = int(cluster.max()) + 1
        # tn, fp, fn, tp by cluster
        self._confusion = self._by_cluster(cluster, 2 * is_positive + predicted, np.ones(len(labels)), 4)
        self._squared_error = np.bincount(cluster, (probabilities - labels) ** 2, self.num_clusters)
        bins = metrics.assign_bins(probabilities)
        self._excess = self._by_cluster(cluster, bins, probabilities - labels, metrics.NUM_BINS)
        order = np.argsort(-probabilities, kind="stable")
        self._cluster, self._is_positive = cluster[order], is_positive[order].astype(np.float64)
        # Cells of equal probability are predicted alike: sums are taken at the last cell of each value.
        self._last = np.append(np.flatnonzero(np.diff(probabilities[order])), len(labels) - 1)

    def _by_cluster(self, cluster: np.ndarray, column: np.ndarray, values: np.ndarray, num_columns: int) -> np.ndarray:
        sums = np.zeros((self.num_clusters, num_columns))
        np.add.at(sums, (cluster, column), values)
        return sums

    def compute(self, weights: np.ndarray, names: Iterable[str] = metrics.NAMES) -> dict[str, np.ndarray]:
        """Metrics under many weightings.

        Args:
          weights: float64 [weightings, clusters], at least 0.
          names: which of `metrics.NAMES`.

        Returns:
          float64 [weightings] by name; NaN where a metric is undefined.
        """
        names = set(names)
        with np.errstate(divide="ignore", invalid="ignore"):
            tn, fp, fn, tp = (weights @ self._confusion).T
            num_cells = tn + fp + fn + tp
            sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
            product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
            values = {
                "accuracy": (tn + tp) / num_cells,
                "sensitivity": sensitivity,
                "specificity": specificity,
                "precision": np.where(tp + fp > 0, tp / (tp + fp), 0.0),  # as in scikit-learn
                "f1": np.where(tp + fp + fn > 0, 2 * tp / (2 * tp + fp + fn), 0.0),
                "balanced_accuracy": (sensitivity + specificity) / 2,
                "mcc": np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(product), 0.0),
                "brier": weights @ self._squared_error / num_cells,
            }
            if "ece" in names:
                values["ece"] = np.abs(weights @ self._excess).sum(axis=1) / num_cells
            if names & {"auc", "average_precision"}:
                values |= self._of_ranks(weights)
        return {name: values[name] for name in metrics.NAMES if name in names}

    def _of_ranks(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        by_cell = weights[:, self._cluster]
        above = np.cumsum(by_cell, axis=1)[:, self._last]  # weight of what is predicted parasitized at each threshold
        tp = np.cumsum(by_cell * self._is_positive, axis=1)[:, self._last]
        fp = above - tp
        step = np.diff(tp, axis=1, prepend=0)
        before = np.pad(fp, ((0, 0), (1, 0)))[:, :-1]
        positives, negatives = tp[:, -1], fp[:, -1]
        wins = (step * (negatives[:, None] - (fp + before) / 2)).sum(axis=1)
        precision = np.divide(tp, above, out=np.zeros_like(tp), where=above > 0)
        return {"auc": wins / (positives * negatives), "average_precision": (step * precision).sum(axis=1) / positives}


def resample(
    labels: np.ndarray,
    probabilities: np.ndarray,
    clusters: np.ndarray,
    num_resamples: int,
    seed: int = 0,
    names: Iterable[str] = metrics.NAMES,
) -> dict[str, Resampled]:
    """Recomputes metrics on clusters resampled with replacement.

    The resamples depend on the seed and the number of clusters alone, so two models on the same cells have the same
    resamples and can be compared pair by pair.

    Args:
      labels: int [cells], 1 is parasitized.
      probabilities: float [cells] in 0…1, of being parasitized.
      clusters: [cells], the patient of each cell, or a number of its own for each cell.
      num_resamples: number of resamples.
      seed: of the random numbers.
      names: which of `metrics.NAMES`.
    """
    names = list(names)
    _, cluster = np.unique(clusters, return_inverse=True)
    sums = Sums(labels, probabilities, cluster, metrics.THRESHOLD)
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS_PER_BLOCK // len(labels))
    parts = [
        sums.compute(sample_counts(rng, sums.num_clusters, min(block, num_resamples - start)), names)
        for start in range(0, num_resamples, block)
    ]
    values = sums.compute(np.ones((1, sums.num_clusters)), names)
    return {
        name: Resampled(float(values[name][0]), np.concatenate([part[name] for part in parts]), sums.num_clusters)
        for name in names
    }


def sample_counts(rng: np.random.Generator, num_clusters: int, num_resamples: int) -> np.ndarray:
    """How often each cluster is in each resample: float64 [resamples, clusters], rows summing to `num_clusters`."""
    sampled = rng.integers(num_clusters, size=(num_resamples, num_clusters))
    sampled += np.arange(num_resamples)[:, None] * num_clusters
    counts = np.bincount(sampled.ravel(), minlength=num_resamples * num_clusters)
    return counts.reshape(num_resamples, num_clusters).astype(np.float64)


def interval(resampled: Resampled, num_cells: int, lowest: float = 0.0) -> Interval:
    """The 95 % interval of a metric with values in `lowest`…1 (-1 for the MCC): see the module.

    Values at the very ends are moved inwards by half a cell.
    """

    def to_logit(values: np.ndarray) -> np.ndarray:
        margin = 0.5 / num_cells
        return special.logit(np.clip((values - lowest) / (1 - lowest), margin, 1 - margin))

    reach = _reach(to_logit(resampled.resamples), resampled.num_clusters)
    if not reach:
        return None
    ends = to_logit(np.array(resampled.value)) + np.array([-reach, reach])
    return [float(end) for end in lowest + (1 - lowest) * special.expit(ends)]


def difference(one: Resampled, other: Resampled) -> tuple[float, Interval]:
    """How much larger a metric is for one model than for another on the same cells, with the paired 95 % interval."""
    value = one.value - other.value
    reach = _reach(one.resamples - other.resamples, one.num_clusters)
    return value, [value - reach, value + reach] if reach else None


def _reach(resamples: np.ndarray, num_clusters: int) -> float:
    """Half the width of the interval; 0 if the defined resamples do not vary or are too few."""
    defined = resamples[np.isfinite(resamples)]
    if len(defined) < 2 or np.ptp(defined) < 1e-12:
        return 0.0
    return float(stats.t.ppf((1 + _LEVEL) / 2, max(1, num_clusters - 1)) * np.std(defined, ddof=1))
