"""What `pipeline.preprocess` is compared with; each baseline runs as a command of its own.

    python -m benchmarks.baselines.preprocess plain_processes cell_images out

Baselines read a folder with a folder of PNGs per class and print the seconds of their work, imports excluded.
"""

import importlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.cells import DEFAULT_CLASS_FOLDERS

_IMAGE_SIZE_PX = 125
_PROCESSES = 2
_SHARDS = 27
_TWO_PROCESSES = ("--direct_running_mode=multi_processing", f"--direct_num_workers={_PROCESSES}")


def _resized(path: Path) -> bytes:
    pixels = np.asarray(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB))
    return cv2.resize(pixels, (_IMAGE_SIZE_PX, _IMAGE_SIZE_PX), interpolation=cv2.INTER_CUBIC).tobytes()


def _resize_all(paths: Sequence[Path], output: Path) -> None:
    cv2.setNumThreads(1)
    with output.open("wb") as file:
        for path in paths:
            file.write(_resized(path))


def plain_processes(paths: Sequence[Path], output_dir: Path) -> None:
    """Decoding, resizing and writing the raw bytes, by two plain processes: what the pixels cost."""
    parts = [paths[i::_PROCESSES] for i in range(_PROCESSES)]
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("fork")) as pool:
        list(pool.map(_resize_all, parts, [output_dir / f"part{i}" for i in range(_PROCESSES)]))  # raises their errors


def plain_beam(paths: Sequence[Path], output_dir: Path, options: Sequence[str] = ()) -> None:
    """A Beam job as people write it, on the in-process FnApiRunner."""
    import apache_beam as beam
    import tensorflow as tf
    from apache_beam.options.pipeline_options import PipelineOptions

    def to_example(path: str) -> bytes:
        label = DEFAULT_CLASS_FOLDERS.index(Path(path).parent.name)
        feature = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[_resized(Path(path))])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            "filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[path.encode()])),
        }
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *options])) as pipeline:
        _ = (
            pipeline
            | beam.Create([str(path) for path in paths])
            | beam.Reshuffle()
            | beam.Map(to_example)
            | beam.io.WriteToTFRecord(str(output_dir / "cells"), num_shards=_SHARDS)
        )


def tfds_generator(paths: Sequence[Path], output_dir: Path) -> None:
    """A stock TFDS builder that copies the PNG files' bytes, without resizing, as TFDS's own `malaria` does."""
    import tensorflow_datasets as tfds

    class Cells(tfds.core.GeneratorBasedBuilder):
        """The cells."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=list(DEFAULT_CLASS_FOLDERS)),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
            for path in paths:
                yield path.name, {"image": path, "label": path.parent.name}

    Cells(data_dir=output_dir).download_and_prepare()


_BEAM = ("apache_beam", "tensorflow")
BASELINES: Mapping[str, tuple[Callable[[Sequence[Path], Path], None], Sequence[str]]] = {
    "plain_processes": (plain_processes, ()),
    "plain_beam": (plain_beam, _BEAM),
    "plain_beam_two_processes": (partial(plain_beam, options=_TWO_PROCESSES), _BEAM),
    "tfds_generator": (tfds_generator, ("tensorflow_datasets",)),
}
"""What runs, and the modules that are imported outside of the clock."""

if __name__ == "__main__":
    baseline, source, output = sys.argv[1:]
    files = sorted(Path(source).glob("*/*.png"))
    Path(output).mkdir()
    function, modules = BASELINES[baseline]
    for module in modules:
        importlib.import_module(module)
    started = time.perf_counter()
    function(files, Path(output))
    print(time.perf_counter() - started)
