"""What `pipeline.preprocess` is compared with; each peer is a command of its own.

    python -m benchmarks.preprocess_peers --peer=floor --source=cell_images --output_dir=out

Peers read a folder with a folder of PNGs a class and print the seconds of their work, imports excluded.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from pipeline.cells import DEFAULT_CLASS_FOLDERS
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError

IMAGE_SIZE_PX = 125
_PROCESSES = 2
_SHARDS = 27


def _paths(source: Path) -> list[Path]:
    paths = sorted(source.glob("*/*.png"))
    if not paths:
        raise InputError(f"--source={source} has no */*.png")
    return paths


def _resized(path: Path) -> bytes:
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise InputError(f"{path} is no image; leave it out of --source")
    return cv2.resize(pixels, (IMAGE_SIZE_PX, IMAGE_SIZE_PX), interpolation=cv2.INTER_CUBIC).tobytes()


def _resize_all(paths: Sequence[Path], output: Path) -> None:
    cv2.setNumThreads(1)
    with output.open("wb") as file:
        for path in paths:
            file.write(_resized(path))


def floor(source: Path, output_dir: Path) -> float:
    """Decoding, resizing and writing the raw bytes, by two plain processes: what the pixels cost."""
    paths = _paths(source)
    started = time.perf_counter()
    parts = [(paths[i::_PROCESSES], output_dir / f"part{i}") for i in range(_PROCESSES)]
    processes = [multiprocessing.get_context("fork").Process(target=_resize_all, args=part) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - started
    written = sum(path.stat().st_size for _, path in parts)
    if written != 3 * IMAGE_SIZE_PX**2 * len(paths):
        raise InputError(f"the floor's processes wrote {written} bytes for {len(paths)} cells; see what they printed")
    return seconds


def plain_beam(source: Path, output_dir: Path) -> float:
    """A Beam job as people write it, on the in-process FnApiRunner."""
    import apache_beam as beam
    import tensorflow as tf
    from apache_beam.options.pipeline_options import PipelineOptions

    def to_example(path: str) -> bytes:
        feature = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[_resized(Path(path))])),
            "label": tf.train.Feature(
                int64_list=tf.train.Int64List(value=[DEFAULT_CLASS_FOLDERS.index(Path(path).parent.name)])
            ),
            "filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[path.encode()])),
        }
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    started = time.perf_counter()
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = (
            pipeline
            | beam.Create([str(path) for path in _paths(source)])
            | beam.Reshuffle()
            | beam.Map(to_example)
            | beam.io.WriteToTFRecord(str(output_dir / "cells"), num_shards=_SHARDS)
        )
    return time.perf_counter() - started


def tfds_generator(source: Path, output_dir: Path) -> float:
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

        def _split_generators(
            self, dl_manager: tfds.download.DownloadManager
        ) -> Mapping[str, Iterator[tuple[str, dict[str, Any]]]]:
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
            for path in _paths(source):
                yield path.name, {"image": path, "label": path.parent.name}

    started = time.perf_counter()
    Cells(data_dir=output_dir).download_and_prepare()
    return time.perf_counter() - started


PEERS: Mapping[str, Callable[[Path, Path], float]] = {
    "floor": floor,
    "plain_beam": plain_beam,
    "tfds_generator": tfds_generator,
}


def main(arguments: Sequence[str]) -> None:
    """Runs one peer."""
    reject_arguments(arguments)
    values = flags.FLAGS
    output_dir = Path(values.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    print(PEERS[values.peer](Path(values.source), output_dir))


if __name__ == "__main__":  # preprocess_throughput, which imports this, has flags of the same names
    flags.DEFINE_string("source", None, "Folder with the class folders.", required=True)
    flags.DEFINE_string("output_dir", None, "Where the peer writes.", required=True)
    flags.DEFINE_enum("peer", None, list(PEERS), "What to run.", required=True)
    run(main)
