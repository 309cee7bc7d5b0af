"""The plan: which cell goes into which shard of which split, in which order.

It is small, pure, and the same on every machine; workers then only fill. Each shard's part lies in a file of its own,
so that a worker reads only its own cells.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from pipeline.cells import DEFAULT_CLASS_FOLDERS, DEFAULT_PATIENT_REGEX, Cell, Rejected, ZipEntry
from pipeline.errors import InputError
from pipeline.records.layout import shard_name
from pipeline.records.manifest import Manifest
from pipeline.source.listing import Listing
from pipeline.splits.configs import CONFIGS, seeded_hash


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides, with the source, on every byte of a data set. Two equal settings give equal shards.

    Attributes:
      config: name in `splits.configs.CONFIGS`.
      image_size_px: side of the stored image in pixels.
      image_encoding: "raw" (uint8 bytes, no decoding when read) or "png" (lossless, compact).
      split_seed: decides on the split and the order of the cells.
      cells_per_shard: planned size of a shard; 1024 raw cells are 46 MiB.
      class_folders: folder of each label in label order.
      patient_regex: finds the patient in a file's base name.
    """

    config: str = "by_patient"
    image_size_px: int = 125
    image_encoding: str = "raw"
    split_seed: int = 42
    cells_per_shard: int = 1024
    class_folders: tuple[str, ...] = DEFAULT_CLASS_FOLDERS
    patient_regex: str = DEFAULT_PATIENT_REGEX

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values, in the manifest's form."""
        return {**dataclasses.asdict(self), "class_folders": list(self.class_folders)}


class Shard(NamedTuple):
    """One file to fill.

    Attributes:
      split: name of the split.
      file_name: name of the TFRecord file.
      cells: in the order of the records.
    """

    split: str
    file_name: str
    cells: tuple[Cell, ...]

    def to_json(self) -> str:
        """JSON for `from_json`."""
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        """Reads what `to_json` wrote."""
        split, file_name, cells = json.loads(text)
        read = (Cell._make((*fields, ZipEntry(*entry) if entry else None, time)) for *fields, entry, time in cells)
        return cls(split, file_name, tuple(read))


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """Where a worker finds the plan and the cells and puts the shards.

    Attributes:
      source: path of the folder or archive.
      root: path of the class folders' folder within the source, "" or ending with `/`.
      job_dir: folder of the plan's parts and of the results.
      shards_dir: folder of the shards.
      image_size_px, image_encoding: see `Settings`.
    """

    source: str
    root: str
    job_dir: epath.Path
    shards_dir: epath.Path
    image_size_px: int
    image_encoding: str


@dataclasses.dataclass(frozen=True)
class Job:
    """A planned data set; the plan itself lies in files, so this is small.

    Attributes:
      directory: the version folder that it becomes.
      identity: see `build_manifest.identity`.
      shard_job: what workers need to know.
      num_cells: shard's file name -> number of planned cells, in the order of the plan.
      rejected: files rejected by name.
      same_names: base names in both class folders.
    """

    directory: epath.Path
    identity: Manifest
    shard_job: ShardJob
    num_cells: dict[str, int]
    rejected: list[Rejected]
    same_names: list[str]


def plan_shards(listing: Listing, settings: Settings, source_name: str) -> list[Shard]:
    """Plans all shards of a data set.

    Within a split the cells are in seeded hash order, so that `train[:10%]` and every shard are a random sample.
    `source_name` stands for the source in errors: InputError if names tell no patient where the config needs one, or
    there are too few patients.
    """
    config = CONFIGS[settings.config]
    if config.needs_patients:
        _check_patients(listing.cells, settings, source_name)
    shards = []
    try:
        splits = config.assign(listing.cells, settings.split_seed)
    except InputError as error:
        examples = [
            f", {len(listing.rejected)} files rejected, such as {name} ({why})" for name, why in listing.rejected
        ]
        raise InputError(f"{source_name}{''.join(examples[:1])}: {error}") from error
    for split in config.splits:
        cells = [cell for cell, assigned in zip(listing.cells, splits, strict=True) if assigned == split]
        cells.sort(key=lambda cell: seeded_hash(settings.split_seed, cell.filename))
        num_parts = -(-len(cells) // settings.cells_per_shard)
        for number in range(num_parts):
            part = cells[number * len(cells) // num_parts : (number + 1) * len(cells) // num_parts]
            shards.append(Shard(split, shard_name(split, number, num_parts), tuple(part)))
    return shards


def _check_patients(cells: Sequence[Cell], settings: Settings, source_name: str) -> None:
    nameless = [cell for cell in cells if not cell.patient_id]
    if nameless:
        raise InputError(
            f"{len(nameless)} of {len(cells)} file names in {source_name} tell no patient, such as "
            f"{nameless[0].filename!r}; expected names that match --patient_regex={settings.patient_regex}; give a "
            f"--patient_regex that fits, or use --config=by_cell"
        )
