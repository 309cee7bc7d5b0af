"""Frozen means computed once: a split and a backbone in, features on disk and batches of them out.

The features lie in a folder whose name is a fingerprint of all that decides on them, so that nothing stale is ever
read; what was computed before a kill is kept. Batches come in the order of `trainers.input_pipeline.batching`.
"""

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from pipeline.errors import InputError
from pipeline.progress import progress_bar
from trainers.input_pipeline import batching, streaming
from trainers.input_pipeline.corruption import DamagedRecords
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.input_pipeline.splits import Split, part
from trainers.models.feature_file import FeatureFile

_BLOCK_CELLS = 512  # so many at most are computed again after a kill: half a minute on two CPU cores
_PARALLEL_BATCHES = 2
_PREFETCHED_BATCHES = 4
_MAX_FLOAT16 = float(np.finfo(np.float16).max)


class Features(NamedTuple):
    """The features of a split, in the order of its records.

    Attributes:
      values: float16 [cells, num_features], memory-mapped.
      labels: int64 [cells], memory-mapped.
      is_damaged: bool [cells]; these rows hold zeros and come in no batch.
    """

    values: np.ndarray
    labels: np.ndarray
    is_damaged: np.ndarray


def extract(
    backbone: keras.Model,
    split: Split,
    manifest: dict[str, Any],
    cache: Path,
    *,
    vgg_input: str | None,
    batch_size: int = 64,
    jit_compile: bool = False,
    damaged: DamagedRecords | None = None,
) -> Features:
    """Runs a backbone once over a split, or finds what it gave before.

    Args:
      backbone: uint8 RGB [batch, size, size, 3] -> features [batch, num_features]; compiled here.
      split: what to run it over.
      manifest: of the split's data set.
      cache: folder for the features of any number of splits and backbones; for one process at a time.
      vgg_input: what the backbone was built with.
      batch_size: cells a step.
      jit_compile: whether XLA compiles the backbone.
      damaged: how many damaged records to skip; by default the first one raises.

    Raises:
      InputError: if a feature is beyond float16's range, or the cache cannot be written. What is wrong with a shard is
        raised as by `batching.evaluation_batches`; see `batching.explain`.
    """
    damaged = damaged or DamagedRecords()
    is_damaged = _find_damaged(split, damaged)
    identity = fingerprint(backbone, split, manifest, vgg_input, is_damaged) | {"batch_size": batch_size}
    folder = Path(cache) / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    block_cells = max(_BLOCK_CELLS // batch_size, 1) * batch_size
    file = FeatureFile(folder, identity, split.num_cells, backbone.output_shape[-1], block_cells)
    missing = file.missing()
    num_known = split.num_cells - sum(stop - start for start, stop in missing)
    print(f"features of {split.expression}: {num_known} of {split.num_cells} cells are in {folder}")
    if missing:
        backbone.compile(jit_compile=jit_compile)
        with (
            tempfile.TemporaryDirectory(prefix="tfds_malaria-") as copies,
            progress_bar(split.num_cells, f"features of {split.expression}", "images", initial=num_known) as bar,
        ):
            whole = streaming.without_damage(split, damaged, Path(copies)) if is_damaged.any() else split
            for start, values, labels in _compute(backbone, whole, missing, batch_size, block_cells, bar):
                rows = slice(start, start + block_cells)
                file.write(start, _with_gaps(values, is_damaged[rows]), _with_gaps(labels, is_damaged[rows]))
    return Features(*file.columns(), is_damaged)


def fingerprint(
    backbone: keras.Model, split: Split, manifest: dict[str, Any], vgg_input: str | None, is_damaged: np.ndarray
) -> dict[str, Any]:
    """What decides on features: JSON values, digests for weights and data. For the arguments see `extract`."""
    weights = hashlib.sha256()
    for weight in backbone.weights:
        weights.update(np.ascontiguousarray(weight.numpy()).data)
    sha256 = {shard["file"]: shard["sha256"] for entry in manifest["splits"].values() for shard in entry["shards"]}
    shards = [Path(file).name for file in split.files]
    return {
        "backbone": weights.hexdigest(),
        "vgg_input": vgg_input,
        "precision": sorted({layer.dtype_policy.name for layer in backbone.layers if layer.weights}),
        "source": manifest["source"]["fingerprint"],
        "image_size_px": split.image_size_px,
        "split": split.expression,
        "records": [
            [shard, sha256[shard], skip, take]
            for shard, skip, take in zip(shards, split.skips, split.takes, strict=True)
        ],
        "damaged": np.flatnonzero(is_damaged).tolist(),
    }


def training_batches(features: Features, order: ShuffleOrder, epochs: int, start_step: int = 0) -> tf.data.Dataset:
    """Shuffled batches of all epochs in a row: the features of what `batching.training_batches` has there.

    Args:
      features: of the training split.
      order: seed, batch size, and which slice of each batch this host takes.
      epochs: number of epochs.
      start_step: batches to leave out at the start, at no cost.

    Returns:
      a data set of (float16 [n, num_features], int64 [n]).
    """
    steps = tf.data.Dataset.range(start_step, epochs * order.steps_per_epoch)
    return _batches(features, steps, order.rows)


def evaluation_batches(features: Features, batch_size: int) -> tf.data.Dataset:
    """Every cell once, in the order of the records.

    Returns:
      a data set of (float16 [n, num_features], int64 [n]).
    """
    num_cells = len(features.labels)
    starts = tf.data.Dataset.range(0, num_cells, batch_size)
    return _batches(features, starts, lambda start: tf.range(start, tf.minimum(start + batch_size, num_cells)))


def _batches(features: Features, numbers: tf.data.Dataset, rows_of: Any) -> tf.data.Dataset:
    values, labels, is_damaged = features
    num_features = values.shape[1]

    def copy(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = rows[~is_damaged[rows]]
        return values[rows], labels[rows]

    def gather(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features, labels = tf.numpy_function(copy, [rows_of(number)], (tf.float16, tf.int64))
        return tf.ensure_shape(features, [None, num_features]), tf.ensure_shape(labels, [None])

    batches = numbers.map(gather, num_parallel_calls=_PARALLEL_BATCHES, deterministic=True)
    return batching.with_options(batches.prefetch(_PREFETCHED_BATCHES))


def _find_damaged(split: Split, damaged: DamagedRecords) -> np.ndarray:
    if not damaged.at_most:
        return np.zeros(split.num_cells, bool)  # reading will tell
    found = streaming.find_damage(split, damaged)
    return np.concatenate(
        [
            np.isin(np.arange(skip, skip + take), numbers)
            for numbers, skip, take in zip(found, split.skips, split.takes, strict=True)
        ]
    )


def _compute(
    backbone: keras.Model, split: Split, missing: list[tuple[int, int]], batch_size: int, block_cells: int, bar: tqdm
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The first row, float16 features and int64 labels of each missing block, whatever was missing before it."""

    def predict(image: tf.Tensor) -> np.ndarray:
        if not len(image):  # all of them damaged
            return np.zeros((0, backbone.output_shape[-1]), np.float16)
        values = np.asarray(backbone.predict_on_batch(image.numpy()), np.float32)
        if not (np.abs(values) <= _MAX_FLOAT16).all():
            raise InputError(
                f"features reach {np.abs(values).max():.3g}, beyond float16's {_MAX_FLOAT16:.0f}; check --vgg_weights, "
                "or give --vgg_input=original"
            )
        bar.update(len(values))
        return values.astype(np.float16)

    for start, stop in _joined(missing):
        batches = batching.evaluation_batches(part(split, start, stop), batch_size)
        computed = ((predict(image), label.numpy()) for image, label, *_ in batches)
        for first in range(start, stop, block_cells):
            columns = zip(*itertools.islice(computed, block_cells // batch_size), strict=True)
            values, labels = map(np.concatenate, columns)
            yield first, values, labels


def _joined(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of rows, each as long as possible: reading starts once for each."""
    joined: list[tuple[int, int]] = []
    for start, stop in blocks:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def _with_gaps(column: np.ndarray, is_damaged: np.ndarray) -> np.ndarray:
    """Puts zeros where damaged records were left out."""
    if len(column) == len(is_damaged):
        return column
    result = np.zeros((len(is_damaged), *column.shape[1:]), column.dtype)
    result[~is_damaged] = column
    return result
