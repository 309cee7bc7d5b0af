"""What it gains to compute a frozen backbone's features once: both ways of training `vgg_frozen`, on the same cells."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from benchmarks.harness import measurement
from trainers.data import Split
from trainers.input_pipeline import batching
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.models import architectures, features

EPOCHS = 25  # as the original trains
_RECOMPUTED, _ONCE = f"{EPOCHS} epochs, recomputed", f"{EPOCHS} epochs, features computed once"


def compare(
    split: Split, manifest: dict[str, Any], batch_size: int, seed: int, jit_compile: bool, repeats: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Times both ways, in turn; of the recomputing one, 1 of the 25 equal epochs.

    Extraction and the head's 25 epochs are timed whole, the tracing of their steps included; so is that of the
    recomputed epoch, once for all.

    Args:
      split: cells to train on.
      manifest: of the split's data set.
      batch_size: cells a step.
      seed: of the order.
      jit_compile: whether XLA compiles.
      repeats: of each way.

    Returns:
      cases and ratios, see `measurement.write`.
    """
    order = ShuffleOrder(split.num_cells, batch_size, seed)

    def recompute() -> float:
        model = architectures.vgg_frozen(split.image_size_px)
        model.compile("rmsprop", "binary_crossentropy", jit_compile=jit_compile)
        batches = batching.training_batches(split, order, 2, "resident")
        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        started = time.perf_counter()
        model.fit(batches, steps_per_epoch=order.steps_per_epoch, epochs=2, verbose=0, callbacks=[clock], shuffle=False)
        first, second = ends[0] - started, ends[1] - ends[0]
        return first + (EPOCHS - 1) * second

    def compute_once() -> float:
        backbone, head = features.split_backbone(architectures.vgg_frozen(split.image_size_px))
        head.compile("rmsprop", "binary_crossentropy", jit_compile=jit_compile)
        with tempfile.TemporaryDirectory() as cache:
            started = time.perf_counter()
            computed = features.extract(
                backbone,
                split,
                manifest,
                Path(cache),
                vgg_input="imagenet",
                batch_size=batch_size,
                jit_compile=jit_compile,
            )
            batches = features.training_batches(computed, order, EPOCHS)
            head.fit(batches, steps_per_epoch=order.steps_per_epoch, epochs=EPOCHS, verbose=0, shuffle=False)
            return time.perf_counter() - started

    works: dict[str, Callable[[], float]] = {_RECOMPUTED: recompute, _ONCE: compute_once}
    runs: dict[str, list[measurement.Measurement]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            runs[name].append(measurement.measure_here(work))
    cases = [measurement.case(name, EPOCHS * split.num_cells, runs[name]) for name in works]
    pairs = zip(runs[_RECOMPUTED], runs[_ONCE], strict=True)
    return cases, {"recomputed to computed once": round(statistics.median(a.seconds / b.seconds for a, b in pairs), 2)}
