"""The data set that models are judged on, checked before anything slow begins. No TensorFlow needed."""

from collections.abc import Iterable

from pipeline.errors import InputError
from trainers.data import Split, open_data_set, overlap
from trainers.evaluation.runs import Member


class DataSet:
    """A prepared data set that models are judged on.

    Args:
      data_dir: root of the data sets; that of a run's own config, with its validation split, is looked for there too.
      config: the config.

    Raises:
      InputError: if there is none, or its labels are not those of the models.
    """

    def __init__(self, data_dir: str, config: str) -> None:
        self._opened = open_data_set(data_dir, config)
        self.data_dir, self.config, self.directory, self.manifest, _ = self._opened

    @property
    def fingerprint(self) -> str:
        """Of its source."""
        return self.manifest["source"]["fingerprint"]

    def open(self, members: Iterable[Member]) -> list[Split]:
        """The splits of a candidate's members.

        Raises:
          InputError: if one is no split, has no cells, or two of them share cells.
        """
        splits = [self._opened.open_split(member.expression) for member in members]
        for number, split in enumerate(splits):
            for other in splits[:number]:
                if shared := overlap(split, other):
                    raise InputError(
                        f"the test splits {other.expression} and {split.expression} of the runs share {shared} cells; "
                        "expected disjoint ones, so that they can be pooled"
                    )
        return splits
