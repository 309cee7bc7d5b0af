"""What a worker is told and what it tells: where to find and put things, and the numbers of a filled shard."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from pipeline.cells import Rejected
from pipeline.records import layout


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """Where a worker finds the plan and the cells and puts the shards.

    Attributes:
      source: path of the folder or archive.
      root: path of the class folders' folder within the source, "" or ending with `/`.
      job_dir: folder of the plan's parts and of the results.
      shards_dir: folder of the shards.
      image_size_px: side of the stored image.
      image_encoding: "raw" or "png".
    """

    source: str
    root: str
    job_dir: str
    shards_dir: str
    image_size_px: int
    image_encoding: str


@dataclasses.dataclass
class ShardResult:
    """The numbers of a filled shard, kept in the job's folder until the manifest is written.

    Attributes:
      split, file_name, num_records, num_bytes, sha256: of the TFRecord file.
      index_sha256: of the index file.
      patients: patient -> number of cells of each label.
      rejected: cells that are not in it, and why.
      converted: kind of conversion -> number of cells.
      heights, widths: size in pixels -> number of cells, of the source's images.
      contents: hash of each record's image file, 16 hexadecimal digits each, to find duplicates by.
      labels: label of each record, a digit each.
    """

    split: str
    file_name: str
    num_records: int
    num_bytes: int
    sha256: str
    index_sha256: str
    patients: dict[str, list[int]]
    rejected: list[Rejected]
    converted: dict[str, int]
    heights: dict[int, int]
    widths: dict[int, int]
    contents: str
    labels: str

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ShardResult":
        """Reads what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["rejected"] = [Rejected(*item) for item in fields["rejected"]]
        for name in ("heights", "widths"):
            fields[name] = {int(size): count for size, count in fields[name].items()}
        return cls(**fields)

    def entry(self) -> dict[str, Any]:
        """The shard in the manifest."""
        return {
            "file": self.file_name,
            "num_records": self.num_records,
            "num_bytes": self.num_bytes,
            "sha256": self.sha256,
            "index_file": layout.index_name(self.file_name),
            "index_sha256": self.index_sha256,
        }


def holds_shard(directory: epath.Path, entry: Mapping[str, Any]) -> bool:
    """Whether a folder holds both files of a shard as the manifest has them; they are read to their end."""
    path = directory / entry["file"]
    return (
        path.exists()
        and path.stat().length == entry["num_bytes"]
        and _digest(path) == entry["sha256"]
        and _digest(directory / entry["index_file"]) == entry["index_sha256"]
    )


def _digest(path: epath.Path) -> str | None:
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
