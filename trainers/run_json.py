"""What `run.json` may hold: a run's folder may come from others, or from a disk that fails."""

import math
from collections.abc import Callable
from typing import Any

from pipeline.cells import BACKGROUNDS
from pipeline.records.manifest import compute_checksum
from pipeline.splits.configs import CONFIGS
from trainers.image_statistics import PERCENTILES, STATISTICS


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: object, at_least: float = 0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and at_least <= value < math.inf


def _is_integer(value: object, at_least: int = 0) -> bool:
    return isinstance(value, int) and _is_number(value, at_least)


def _is_numbers(value: object, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(_is_number(item, at_least=-math.inf) and item > -math.inf for item in value)
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_SCHEMA: dict[str, Callable[[Any], bool]] = {  # what is read of `run.json`
    "model": lambda value: _is_text(value) and value.isidentifier(),
    "status": lambda value: value in ("unfinished", "finished"),
    "backend": lambda value: value in ("tensorflow", "jax"),
    "seed": _is_integer,
    "flags": lambda value: isinstance(value, dict),
    "flags.config": lambda value: value in tuple(CONFIGS),
    "flags.train_split": _is_text,
    "flags.validation_split": _is_text,
    "flags.test_split": _is_text,
    "flags.epochs": lambda value: _is_integer(value, 1),
    "flags.batch_size": lambda value: _is_integer(value, 1),
    "flags.learning_rate": _is_number,
    "data.dataset": _is_text,
    "data.source": _is_text,
    "data.fingerprint": _is_text,
    "data.settings": lambda value: isinstance(value, dict),
    "data.content_digest": _is_text,
    "data.train_patients": _is_texts,
    "data.validation_patients": _is_texts,
    "data.num_train_cells": lambda value: _is_integer(value, 1),
    "data.num_validation_cells": lambda value: _is_integer(value, 1),
    "versions.keras": _is_text,
    "timings.seconds": _is_number,
}
_OPTIONAL: dict[str, Callable[[Any], bool]] = {  # not before some step, or not in every data set
    "data.settings.background": lambda value: value in BACKGROUNDS,
    "data.is_nlm": lambda value: isinstance(value, bool),
    "best_epoch": lambda value: _is_integer(value, 1),
    "image_statistics.ranges": lambda value: (
        isinstance(value, dict)
        and value.keys() == set(STATISTICS)
        and all(_is_numbers(bounds, 2) for bounds in value.values())
    ),
    "image_statistics.swapped": lambda value: _is_numbers(value, len(PERCENTILES) + 1),
    "input.mode": lambda value: value in ("device", "resident", "mapped", "streaming", "features"),
    "hardware.policy": lambda value: value in ("float32", "mixed_bfloat16", "mixed_float16"),
    "files": lambda value: isinstance(value, dict),
}


def check(run: Any) -> None:
    """Raises ValueError if a value of `run.json` is none that a trainer writes."""
    if not isinstance(run, dict):
        raise ValueError(f"it holds a {type(run).__name__}, expected an object")
    if run.pop("checksum", None) != compute_checksum(run):
        raise ValueError("its checksum is missing or does not fit: it has been changed")
    for entry, is_valid in (_SCHEMA | _OPTIONAL).items():
        value: Any = run
        for name in entry.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not (is_valid(value) or (value is None and entry in _OPTIONAL)):
            raise ValueError(f"{entry} is missing" if value is None else f"{entry} is {value!r:.60}, out of range")
