"""The plan: which cell goes into which shard of which split, in which order.

It is small, pure, and the same on every machine; workers then only fill. Each shard's part lies in a file of its own,
so that a worker reads only its own cells.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pipeline.cells import DEFAULT_CLASS_FOLDERS, DEFAULT_PATIENT_REGEX, Cell, Rejected, ZipEntry
from pipeline.errors import InputError
from pipeline.records.layout import shard_name
from pipeline.records.manifest import Manifest
from pipeline.source.listing import EXCLUDED, Listing
from pipeline.splits.configs import CONFIGS, seeded_hash
from pipeline.terminal import quantity


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides, with the source, on every byte of a data set. Two equal settings give equal shards."""

    config: str = "by_patient"  # name in `splits.configs.CONFIGS`
    image_size_px: int = 125  # side of the stored image in pixels
    image_encoding: str = "raw"  # uint8 bytes, no decoding when read; or "png": lossless, compact
    split_seed: int = 42  # decides on the split and the order of the cells
    cells_per_shard: int = 1024  # at most; 1024 raw cells are 46 MiB
    class_folders: tuple[str, ...] = DEFAULT_CLASS_FOLDERS  # see `cells.class_folder_values`
    patient_regex: str = DEFAULT_PATIENT_REGEX  # finds the patient in a file's base name
    background: str = "keep"  # what surrounds the cell; or "black", see `source.decode.apply_background`

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values, in the manifest's form: without those that older data sets lack, if default."""
        settings = {**dataclasses.asdict(self), "class_folders": list(self.class_folders)}
        return {name: value for name, value in settings.items() if (name, value) != ("background", "keep")}


class Shard(NamedTuple):
    """One TFRecord file to fill; the cells are in the order of its records."""

    split: str
    file_name: str
    cells: tuple[Cell, ...]

    def to_json(self) -> str:
        """JSON for `from_json`."""
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        """The shard of `to_json`."""
        split, file_name, cells = json.loads(text)
        read = (Cell._make((*fields, ZipEntry(*entry) if entry else None, time)) for *fields, entry, time in cells)
        return cls(split, file_name, tuple(read))


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """Where a worker finds the plan and the cells and puts the shards."""

    source: str  # path of the folder or archive
    root: str  # path of the class folders' folder within the source, "" or ending with `/`
    job_dir: epath.Path  # of the plan's parts and of the results
    shards_dir: epath.Path
    settings: Settings


@dataclasses.dataclass(frozen=True)
class Job:
    """A planned data set; the plan itself lies in files, so this is small."""

    directory: epath.Path  # the version folder that it becomes
    identity: Manifest  # see `build_manifest.identity`
    shard_job: ShardJob
    num_cells: dict[str, int]  # shard's file name -> number of planned cells, in the order of the plan
    rejected: list[Rejected]  # by the listing
    same_names: list[str]  # see `Listing`


def plan_shards(listing: Listing, settings: Settings, source_name: str) -> Iterator[Shard]:
    """Plans all shards of a data set, and gives one after the other.

    Within a split the cells are in seeded hash order, so that `train[:10%]` and every shard are a random sample.
    The splits are those of the published labels and of all cells: a list of labels moves no patient.
    Raises InputError before the first shard, if no patient is known where the config needs one, or there are too few.
    """
    config, cells = CONFIGS[settings.config], listing.cells
    if config.needs_patients and "" in cells.patient_ids:
        nameless = np.flatnonzero(cells.patients == cells.patient_ids.index(""))
        lack = f"file names in {source_name} tell no patient"
        remedy = f"names that match --patient_regex={settings.patient_regex}"
        if column := listing.layout.patient_column:
            lack, remedy = f"cells in {source_name} have no {column}", "one for each, or another --patient_column"
        raise InputError(
            f"{len(nameless)} of {len(cells)} {lack}, such as {cells.filename(nameless[0])!r}; expected {remedy}; or "
            "use --config=by_cell"
        )
    if config.assign:
        try:
            splits = config.assign(cells.labels, cells.patients, cells.patient_ids, settings.split_seed)
        except InputError as error:
            hint, num_rejected = "", quantity(len(listing.rejected), "file")
            for name, why in listing.rejected[:1]:
                hint = f", {num_rejected} rejected, such as {name} ({why})"
            raise InputError(f"{source_name}{hint}: {error}") from error
    elif cells.splits is not None:
        splits = cells.splits.astype(np.int64)
    else:
        raise InputError(
            f"{source_name} has no splits of its own; --config=given needs folders such as train/ and test/ around the "
            "class folders, or a table with a column split; use --config=by_patient"
        )
    hashes = (seeded_hash(settings.split_seed, cells.filename(index)) for index in range(len(cells)))
    order = np.lexsort((np.fromiter(hashes, "S16", len(cells)), splits))
    if listing.overrides is not None:
        order = order[listing.overrides[order] != EXCLUDED]
        cells = dataclasses.replace(cells, labels=listing.overrides)
    bounds = np.searchsorted(splits[order], range(len(config.splits) + 1))
    if empty := [config.splits[split] for split in np.unique(splits) if bounds[split] == bounds[split + 1]]:
        raise InputError(f"--label_overrides leaves no cell in the split {empty[0]}; leave out fewer")

    def shards() -> Iterator[Shard]:
        for split, in_split in zip(config.splits, np.split(order, bounds[1:-1]), strict=True):
            num_parts = -(-len(in_split) // settings.cells_per_shard)
            for number in range(num_parts):
                part = in_split[number * len(in_split) // num_parts : (number + 1) * len(in_split) // num_parts]
                yield Shard(split, shard_name(split, number, num_parts), tuple(map(cells.__getitem__, part)))

    return shards()
