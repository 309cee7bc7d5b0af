"""What `run.json` may hold: a run's folder may come from others, or from a disk that fails."""

import math
from collections.abc import Callable
from typing import Any

from pipeline.cells import BACKGROUNDS
from pipeline.records.manifest import compute_checksum
from pipeline.splits.configs import CONFIGS
from trainers.image_statistics import PERCENTILES, STATISTICS


def _is_number(value: object, at_least: float = 0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and at_least <= value < math.inf


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value, at_least=1)


def _is_numbers(value: object, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(_is_number(item, -1e308) for item in value)


def _is_ranges(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == set(STATISTICS)
        and all(_is_numbers(bounds, 2) for bounds in value.values())
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


_TEXTS = "flags.train_split flags.validation_split flags.test_split data.dataset data.source data.fingerprint"
_TEXTS += " data.content_digest versions.keras"
_COUNTS = "flags.epochs flags.batch_size data.num_train_cells data.num_validation_cells best_epoch"
_IS_VALID: dict[str, Callable[[Any], bool]] = {  # what is read of `run.json`
    **dict.fromkeys(("flags", "data.settings", "files"), _is_dict),
    **dict.fromkeys(_TEXTS.split(), _is_text),
    **dict.fromkeys(_COUNTS.split(), _is_count),
    **dict.fromkeys(("seed", "flags.learning_rate", "timings.seconds"), _is_number),
    **dict.fromkeys(("data.train_patients", "data.validation_patients"), _is_texts),
    "model": lambda value: isinstance(value, str) and value.isidentifier(),
    "status": lambda value: value in ("unfinished", "finished"),
    "backend": lambda value: value in ("tensorflow", "jax"),
    "flags.config": lambda value: value in tuple(CONFIGS),
    "data.settings.background": lambda value: value in BACKGROUNDS,
    "data.is_nlm": lambda value: isinstance(value, bool),
    "image_statistics.ranges": _is_ranges,
    "image_statistics.swapped": lambda value: _is_numbers(value, len(PERCENTILES) + 1),
    "input.mode": lambda value: value in ("device", "resident", "mapped", "streaming", "features"),
    "hardware.policy": lambda value: value in ("float32", "mixed_bfloat16", "mixed_float16"),
}
_OPTIONAL = "files best_epoch data.settings.background data.is_nlm image_statistics.ranges image_statistics.swapped"
_OPTIONAL += " input.mode hardware.policy"  # not before some step, or not in every data set


def check(run: Any) -> None:
    """Raises ValueError if a value of `run.json` is none that a trainer writes."""
    if not isinstance(run, dict):
        raise ValueError(f"it holds a {type(run).__name__}, expected an object")
    if run.pop("checksum", None) != compute_checksum(run):
        raise ValueError("its checksum is missing or does not fit: it has been changed")
    for entry, is_valid in _IS_VALID.items():
        value: Any = run
        for name in entry.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not (is_valid(value) or (value is None and entry in _OPTIONAL.split())):
            raise ValueError(f"{entry} is missing" if value is None else f"{entry} is {value!r:.60}, out of range")
