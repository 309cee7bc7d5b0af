"""The data set that models are judged on, checked before anything slow begins. No TensorFlow needed."""

from collections.abc import Iterable

import tensorflow_datasets as tfds

from pipeline.cells import LABELS
from pipeline.errors import InputError
from pipeline.records import manifest
from pipeline.records.example import LABEL
from trainers.evaluation.runs import Member
from trainers.input_pipeline.splits import Split, open_split, overlap


class DataSet:
    """A prepared data set that models are judged on.

    Args:
      data_dir: root of the data sets; that of a run's own config, with its validation split, is looked for there too.
      config: the config.

    Raises:
      InputError: if there is none, or its labels are not those of the models.
    """

    def __init__(self, data_dir: str, config: str) -> None:
        self.data_dir, self.config = data_dir, config
        self.directory, self.manifest = manifest.read_dataset(data_dir, config)
        names = tuple(tfds.builder_from_directory(self.directory).info.features[LABEL].names)
        if names != LABELS:
            raise InputError(
                f"{self.directory} has the labels {', '.join(names)}; expected {', '.join(LABELS)} in this order; make "
                "it with python -m pipeline.preprocess --class_folders=…"
            )

    @property
    def fingerprint(self) -> str:
        """Of its source."""
        return self.manifest["source"]["fingerprint"]

    def open(self, members: Iterable[Member]) -> list[Split]:
        """The splits of a candidate's members.

        Raises:
          InputError: if one is no split, has no cells, or two of them share cells.
        """
        splits = [open_split(self.directory, member.expression) for member in members]
        for number, split in enumerate(splits):
            for other in splits[:number]:
                if shared := overlap(split, other):
                    raise InputError(
                        f"the test splits {other.expression} and {split.expression} of the runs share {shared} cells; "
                        "expected disjoint ones, so that they can be pooled"
                    )
        return splits
