"""Statistics of the training images, which a run keeps, and the images that are unlike them. Pure.

Each statistic of an image is compared with its range in a sample of the training split. A swap of red and blue leaves
most of them in their range; a linear classifier on the colours of training cells, as they are and swapped, tells it.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.terminal import quantity

SAMPLE_CELLS = 2000  # training cells that the statistics are computed on
MAX_SIDE_PX = 512  # larger image files are no crops of one cell: the NLM's have at most 394 px
WHOLE_IMAGE = "a whole smear or photograph, not one cell"  # the reason for those, and for more detail than a cell has

_COLOUR, _BLURRED = "unusual colour", "blurred"
LIGHT_BORDER = "light border, as of cells cut out by box: pipeline.preprocess --background=black masks it"
_ADVICE = "whole smears are out of scope: cut single cells out first, with Cellpose, StarDist or a watershed"
_OUTSIDE = {  # statistic -> reason below, and above the range
    "border": ("dark border", LIGHT_BORDER),
    "brightness": ("too dark", "too bright"),
    "chroma": ("grey", _COLOUR),
    "detail": (_BLURRED, WHOLE_IMAGE),
    "red_to_green": (_COLOUR, _COLOUR),
    "blue_to_green": (_COLOUR, _COLOUR),
}
STATISTICS = tuple(_OUTSIDE)
PERCENTILES = tuple(range(30, 101, 5))  # of the pixels' red minus blue, by which swapped channels are recognized
_MANY = 0.05  # of cells like the training cells about 0.01 are unlike them
_LIGHT = 0.4  # of 1; darker is the border of a blurred cell on black
_BLANK = 0.03  # standard deviation over mean of all pixels; the faintest cells have 0.06
_TAIL = 1.0  # percent of the sample beyond each end; its distance from the median times _REACH is the range
_REACH, _MARGIN = 2.0, 0.05
_FALSE_SWAPS = 1.0  # percent of the sample, by patients that the classifier has not seen
_MIN_PATIENTS = 20  # the colours of fewer say too little about others'; nothing is called swapped then


def fit(images: np.ndarray, patient_ids: np.ndarray) -> dict[str, Any]:
    """Computes the statistics of a sample of training cells, uint8 RGB [n, size, size, 3], and their patients, str [n].

    Returns `ranges`, by `STATISTICS`, and `swapped`, the classifier's weights and limit, chosen on unseen patients.
    """
    from sklearn.linear_model import LogisticRegression  # seconds of imports
    from sklearn.model_selection import GroupKFold, cross_val_predict

    ranges = {}
    for name, values in _measure(images).items():
        low, median, high = np.percentile(values, [_TAIL, 50, 100 - _TAIL])
        reach = _REACH * np.array([low - median, high - median]) + [-_MARGIN, _MARGIN]
        ranges[name] = (median + reach).tolist()
    colours = _red_minus_blue(images)
    both, is_swapped = np.concatenate([colours, -colours]), np.repeat([0, 1], len(colours))
    weights, limit = np.zeros(len(PERCENTILES)), 0.0
    if len(np.unique(patient_ids)) >= _MIN_PATIENTS:
        classifier = LogisticRegression(C=0.1, fit_intercept=False, max_iter=1000)
        folds = GroupKFold(5).split(both, is_swapped, np.tile(patient_ids, 2))
        scores = cross_val_predict(classifier, both, is_swapped, cv=list(folds), method="decision_function")
        limit = max(limit, np.percentile(scores[: len(images)], 100 - _FALSE_SWAPS))
        weights = classifier.fit(both, is_swapped).coef_[0]
    return {"num_cells": len(images), "ranges": ranges, "swapped": [*weights.tolist(), float(limit)]}


def of_run(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The statistics in a `run.json`, if it has any; runs with `--surroundings` accept a light border."""
    statistics = record.get("image_statistics")
    return statistics and statistics | {"has_surroundings": bool(record["flags"].get("surroundings"))}


def find_unlike(images: np.ndarray, statistics: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """Reasons why each of some images, uint8 RGB [n, size, size, 3], is unlike the cells of `fit`: none for most."""
    if statistics is None or not len(images):
        return [()] * len(images)
    reasons, is_swapped = _outside(images, statistics)
    contrasts = images[:, ::4, ::4].std((1, 2)).mean(1) / (images[:, ::4, ::4].mean((1, 2, 3)) + 1)
    for row, contrast in enumerate(contrasts):
        if contrast < _BLANK:
            reasons[row] = ("blank",)
        elif reasons[row] and _outside(255 - images[row : row + 1], statistics) == ([()], [False]):
            reasons[row] = ("inverted",)
        elif reasons[row] == (LIGHT_BORDER,) and statistics.get("has_surroundings"):
            reasons[row] = ()
        elif LIGHT_BORDER in reasons[row]:  # it makes colours and sharpness unlike, too
            reasons[row] = tuple(reason for reason in reasons[row] if reason not in (_COLOUR, _BLURRED))
        elif is_swapped[row] and set(reasons[row]) <= {_COLOUR}:  # what else is unlike has other colours, too
            reasons[row] = ("red and blue swapped (BGR)",)
    return reasons


def count(unlike: Counter[tuple[str, ...]]) -> dict[str, Any]:
    """Counts images by reason, the most frequent first, from a count of what `find_unlike` returns."""
    by_reason: Counter[str] = Counter()
    for reasons, num_images in unlike.items():
        by_reason.update(dict.fromkeys(reasons, num_images))
    return {"num_cells": unlike.total() - unlike[()], "reasons": dict(by_reason.most_common())}


def summarize(unlike: Counter[tuple[str, ...]]) -> str:
    """A sentence where many images are unlike the training cells, "" where few are; see `count`."""
    num_unlike, by_reason = count(unlike).values()
    if num_unlike <= _MANY * unlike.total():
        return ""
    counts = "; ".join(f"{num_images:,} {reason}" for reason, num_images in by_reason.items())
    text = f"{num_unlike:,} of {quantity(unlike.total(), 'image')} are unlike the cells of the training split"
    text = f"{text}, so their probabilities may mean nothing ({counts})"
    return f"{text}; {_ADVICE}" if WHOLE_IMAGE in by_reason else text


def _outside(images: np.ndarray, statistics: Mapping[str, Any]) -> tuple[list[tuple[str, ...]], list[bool]]:
    """Reasons of each image whose statistics are out of their ranges, and whether red and blue seem to be swapped."""
    reasons: list[dict[str, None]] = [{} for _ in images]
    for name, values in _measure(images).items():
        low, high = statistics["ranges"][name]
        high = max(high, _LIGHT) if name == "border" else high
        for row in np.flatnonzero((values < low) | (values > high)):
            reasons[row][_OUTSIDE[name][int(values[row] > high)]] = None
    *weights, limit = statistics["swapped"]
    return [tuple(row) for row in reasons], (_red_minus_blue(images) @ np.array(weights) > limit).tolist()


def _measure(images: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of images, float [n] each. All but the border's are logarithms, since brightness multiplies."""
    size, quarter = images.shape[1], images.shape[1] // 4
    ring = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    centre = images[:, quarter : size - quarter, quarter : size - quarter].astype(np.float32)
    red, green, blue = np.log(centre.mean((1, 2)) + 1).T
    greens = images[..., 1].astype(np.int16)
    detail = np.abs(np.diff(greens, 2, axis=1)).sum((1, 2)) / max(1, size * (size - 2)) / (greens.max((1, 2)) + 1)
    return {
        "border": np.median(ring, axis=1).mean(1) / 255,
        "brightness": np.log(centre.mean((1, 2, 3)) + 1),
        "chroma": np.log((centre.max(3) - centre.min(3)).mean((1, 2)) + 1),
        "detail": np.log(detail + 1e-3),
        "red_to_green": red - green,
        "blue_to_green": blue - green,
    }


def _red_minus_blue(images: np.ndarray) -> np.ndarray:
    """Float [n, percentiles]: how much lighter red is than blue; swapped channels change the sign."""
    red, blue = (np.sort(images[:, ::2, ::2, channel].reshape(len(images), -1)) for channel in (0, 2))
    places = np.array(PERCENTILES) * (red.shape[1] - 1) // 100
    return (red[:, places].astype(np.float32) - blue[:, places]) / 32
