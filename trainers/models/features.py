"""Features of a frozen backbone: computed once per split, stored in a file, and trained on in batches.

The file is named by everything that decides them, and ends with their SHA-256: if it does not fit, it is made again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pipeline import storage
from pipeline.errors import InputError
from pipeline.terminal import progress_bar, say
from trainers.data import Split
from trainers.input_pipeline import batching
from trainers.input_pipeline.shuffle_order import ShuffleOrder

_MAX_FLOAT16 = float(np.finfo(np.float16).max)


class Parts(NamedTuple):
    """A model in two parts, which share their layers with it: training one trains the others."""

    backbone: keras.Model  # uint8 RGB [batch, size, size, 3] -> [batch, num_features] in the policy's compute dtype
    head: keras.Model  # of the model's name: float16 [batch, num_features] -> probabilities float32 [batch, 1]


class Features(NamedTuple):
    """The features of a split, memory-mapped, in the order of its records."""

    values: np.ndarray  # float16 [cells, num_features]
    labels: np.ndarray  # int64 [cells]


def split_backbone(model: keras.Model, jit_compile: bool = False) -> Parts:
    """Splits a model of `architectures` behind its flattened features; `jit_compile`: XLA compiles the backbone."""
    names = [layer.name for layer in model.layers]
    flattened = model.get_layer("flatten").output
    features = keras.Input(flattened.shape[1:], dtype="float16", name="features")
    x = features
    for name in names[names.index("flatten") + 1 :]:
        x = model.get_layer(name)(x)
    backbone = keras.Model(model.input, flattened, name=f"{model.name}_backbone")
    backbone.compile(jit_compile=jit_compile)
    return Parts(backbone, keras.Model(features, x, name=model.name))


def extract(
    backbone: keras.Model, split: Split, cache: Path, *, vgg_input: str | None, batch_size: int = 64
) -> Features:
    """Runs a backbone of `Parts`, built with `vgg_input`, once over a split, unless the cache folder has its features.

    Raises InputError if a feature is beyond float16's range, or a shard cannot be read.
    """
    identity = fingerprint(backbone, split, vgg_input) | {"batch_size": batch_size}
    path = cache / f"{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]}.rows"
    row = np.dtype([("label", np.int64), ("features", np.float16, backbone.output_shape[-1:])])
    num_bytes = split.num_cells * row.itemsize
    if _is_intact(path, num_bytes):
        say(f"features of {split.expression}: computed before, in {path}")
    else:
        print(f"features of {split.expression}: {split.num_cells} cells go through the frozen layers once")
        cache.mkdir(parents=True, exist_ok=True)
        _write(path, row, backbone, split, batch_size)
    rows = np.memmap(path, row, "r", shape=(split.num_cells,))
    return Features(rows["features"], rows["label"])


def fingerprint(backbone: keras.Model, split: Split, vgg_input: str | None) -> dict[str, Any]:
    """Everything that decides features, as JSON values: digests for weights and data."""
    return {
        "backbone": digest(backbone),
        "num_features": backbone.output_shape[-1],
        "vgg_input": vgg_input,
        "precision": sorted({layer.dtype_policy.name for layer in backbone.layers if layer.weights}),
        "records": [[shard["sha256"] for shard in split.shards], split.skips, split.takes],
    }


def digest(backbone: keras.Model) -> str:
    """The sha256 of all weights."""
    weights = hashlib.sha256()
    for weight in backbone.weights:
        weights.update(np.ascontiguousarray(weight.numpy()).data)
    return weights.hexdigest()


def training_batches(
    features: Features, order: ShuffleOrder, starts: tf.data.Dataset, finish: batching.Finish = lambda _, *batch: batch
) -> tf.data.Dataset:
    """Batches as of `evaluation_batches`, in the order of `batching.training_batches`."""
    return batching.gathered_batches(lambda rows: _gather(features, rows), features.labels, order, starts, finish)


def evaluation_batches(features: Features, batch_size: int) -> tf.data.Dataset:
    """Every cell once, in the order of the records: batches of (float16 [n, num_features], int64 [n])."""
    rows = tf.data.Dataset.from_tensor_slices((np.arange(len(features.labels)), features.labels)).batch(batch_size)
    return batching.with_options(rows.map(lambda rows, labels: (_gather(features, rows), labels)).prefetch(2))


def _gather(features: Features, rows: tf.Tensor) -> tf.Tensor:
    values = tf.numpy_function(lambda rows: features.values[rows], [rows], tf.float16)
    return tf.ensure_shape(values, [None, features.values.shape[1]])


def _write(path: Path, row: np.dtype, backbone: keras.Model, split: Split, batch_size: int) -> None:
    digest = hashlib.sha256()
    with (
        storage.open_atomic(path) as file,
        batching.reading(split),
        progress_bar(split.num_cells, f"features of {split.expression}", "images") as bar,
    ):
        for image, label, *_ in batching.evaluation_batches(split, batch_size):
            values = np.asarray(backbone.predict_on_batch(image.numpy()), np.float32)
            if not (np.abs(values) <= _MAX_FLOAT16).all():
                text = f"features reach {np.abs(values).max():.3g}, beyond float16's {_MAX_FLOAT16:.0f}"
                raise InputError(f"{text}; check --vgg_weights, or give --vgg_input=original")
            rows = np.empty(len(values), row)
            rows["features"], rows["label"] = values, label.numpy()
            file.write(rows.tobytes())
            digest.update(rows.tobytes())
            bar.update(len(values))
        file.write(digest.digest())


def _is_intact(path: Path, num_bytes: int) -> bool:
    """Whether there is a file of that many bytes and the checksum that they have."""
    digest = hashlib.sha256()
    if not path.exists() or path.stat().st_size != num_bytes + digest.digest_size:
        return False
    content = np.memmap(path, np.uint8, "r")
    digest.update(content[:num_bytes].data)
    return digest.digest() == content[num_bytes:].tobytes()
