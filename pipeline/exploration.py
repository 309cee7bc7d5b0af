"""What a prepared data set holds, for people to look at: a data set in, numbers and sample cells out.

Pixels are those of the training split alone (of the first fold where there is none): the test split stays unseen.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pipeline.cells import LABELS
from pipeline.errors import InputError
from pipeline.records import index, parsing, tfrecord
from pipeline.records.manifest import Manifest
from pipeline.source import decode

NUM_SAMPLES = 16
_NUM_COLOURED = 2000  # cells whose colour is looked at


class CellImage(NamedTuple):
    """A cell of the training split.

    Attributes:
      image: uint8 RGB [size, size, 3].
      label: index into `cells.LABELS`.
      patient_id: the patient.
    """

    image: np.ndarray
    label: int
    patient_id: str


class Exploration(NamedTuple):
    """What there is to see.

    Attributes:
      name: of the data set.
      classes: split -> int [labels], number of cells.
      patients: split -> patient -> int64 [labels], number of cells; without the cells of unknown patients.
      training_split: the one that sizes, colours and samples are of.
      sizes: "height" or "width" -> lower end of each bin -> number of images, see `pipeline.manifest`; None in data
        sets of older versions.
      colours: (patient, label) -> float64 [3], mean RGB in 0…255 of the cells' own pixels, background left out.
      samples: `NUM_SAMPLES` cells or fewer.
    """

    name: str
    classes: dict[str, list[int]]
    patients: dict[str, dict[str, np.ndarray]]
    training_split: str
    sizes: dict[str, dict[int, int]] | None
    colours: dict[tuple[str, int], np.ndarray]
    samples: list[CellImage]


def explore(directory: epath.Path, manifest: Manifest) -> Exploration:
    """Looks through a data set; some seconds for 27,558 cells.

    Raises:
      InputError: if a shard cannot be read.
    """
    training_split = "train" if "train" in manifest["splits"] else next(iter(manifest["splits"]))
    cells = list(_cells(directory, manifest, training_split))
    return Exploration(
        f"{manifest['dataset']}/{manifest['config']}/{manifest['version']}, {manifest['source']['name']}",
        {name: [split["classes"][label] for label in LABELS] for name, split in manifest["splits"].items()},
        {name: _patients(directory, split["shards"]) for name, split in manifest["splits"].items()},
        training_split,
        _sizes(manifest["image_size"][training_split]),
        _mean_colours(cells),
        cells[:NUM_SAMPLES],
    )


def _patients(directory: epath.Path, shards: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    counts: dict[str, np.ndarray] = {}
    for shard in shards:
        found = index.read(str(directory / shard["file"]), 0, shard["num_records"])
        for label, patient in zip(found.labels.tolist(), found.patient_ids.tolist(), strict=True):
            if patient:
                counts.setdefault(patient, np.zeros(len(LABELS), np.int64))[label] += 1
    return counts


def _cells(directory: epath.Path, manifest: Manifest, split: str) -> Iterator[CellImage]:
    """The first cells of each shard: they are in hash order, so that these are a random sample."""
    size, encoding = (manifest["settings"][name] for name in ("image_size_px", "image_encoding"))
    shards = manifest["splits"][split]["shards"]
    for shard in shards:
        path = directory / shard["file"]
        try:
            with path.open("rb") as file:
                for _, record in islice(tfrecord.read_records(file), -(-_NUM_COLOURED // len(shards))):
                    parsed = parsing.parse(record)
                    stored = np.frombuffer(parsed.image, np.uint8)
                    pixels = decode.decode_png(stored) if encoding == "png" else stored.reshape(size, size, 3)
                    yield CellImage(pixels, parsed.label, parsed.patient_id)
        except (OSError, ValueError, tfrecord.DamagedRecord) as error:
            raise InputError(f"{path}: {error}; check the data set with python -m pipeline.verify") from error


def _mean_colours(cells: list[CellImage]) -> dict[tuple[str, int], np.ndarray]:
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for cell in cells:
        inside = cell.image[cell.image.any(axis=2)]
        if len(inside):
            found.setdefault((cell.patient_id, cell.label), []).append(inside.mean(axis=0))
    return {key: np.mean(colours, axis=0) for key, colours in sorted(found.items())}


def _sizes(statistics: dict[str, dict[str, Any]]) -> dict[str, dict[int, int]] | None:
    if any("histogram" not in side for side in statistics.values()):
        return None
    return {
        name: {int(start): number for start, number in side["histogram"].items()} for name, side in statistics.items()
    }
