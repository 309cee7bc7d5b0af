"""The data set that models are judged on, checked before anything slow begins. No TensorFlow needed."""

import tensorflow_datasets as tfds

from pipeline.cells import LABELS
from pipeline.errors import InputError
from pipeline.records import manifest
from pipeline.records.example import LABEL


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
