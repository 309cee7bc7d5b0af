"""A job between its plan and its end: what is to be made, where, and which shards that takes."""

import dataclasses

from etils import epath

from pipeline.cells import Rejected
from pipeline.job.shard import ShardJob
from pipeline.records import manifest


@dataclasses.dataclass(frozen=True)
class Job:
    """A planned data set; the plan itself lies in files, so what is held here is small.

    Attributes:
      directory: the version folder that it becomes.
      identity: see `manifest.identity`.
      target: what workers need to know.
      num_cells: shard's file name -> number of planned cells, in the order of the plan.
      refused: files refused by name.
      same_names: base names in both class folders.
    """

    directory: epath.Path
    identity: manifest.Manifest
    target: ShardJob
    num_cells: dict[str, int]
    refused: list[Rejected]
    same_names: list[str]

    @property
    def job_dir(self) -> epath.Path:
        """Folder of the plan and the results."""
        return epath.Path(self.target.job_dir)

    @property
    def shards_dir(self) -> epath.Path:
        """Folder of the shards."""
        return epath.Path(self.target.shards_dir)
