"""TFDS builder of the malaria cells: a view of the folder that `pipeline.preprocess` fills.

`download_and_prepare` runs the same job on `manual_dir`, so there is one way to make the records.
"""

import dataclasses
import functools
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from pipeline.cells import DEFAULT_CLASS_FOLDERS, compile_patient_regex, parse_class_folders
from pipeline.errors import InputError
from pipeline.job import plan
from pipeline.records import index, layout, manifest, tfds_metadata
from pipeline.records.example import IMAGE, LABEL, tfds_features
from pipeline.source.archive import open_source
from pipeline.source.listing import list_cells
from pipeline.splits.configs import CONFIGS
from pipeline.storage import is_remote

_ARCHIVE = "cell_images.zip"
_FOLDER = "cell_images"
_NUM_NLM_CELLS = 27_558


class RawImage(tfds.features.Image):
    """An image in memory, of which TFDS shows pictures, stored and described as a tensor: uint8 RGB [size, size, 3]."""

    def __init__(self, stored: tfds.features.Tensor) -> None:
        super().__init__(shape=stored.shape)
        for name in ("get_serialized_info", "encode_example", "decode_example", "decode_example_np", "to_proto"):
            setattr(self, name, getattr(stored, name))


# TFDS has no public name for a builder that reads files and writes none: GeneratorBasedBuilder would want a generator.
class Builder(tfds.core.dataset_builder.FileReaderBuilder):
    """Cells with label, file name and patient; see README.md in this folder."""

    VERSION = tfds.core.Version(layout.VERSION)
    RELEASE_NOTES = layout.RELEASE_NOTES
    builder_configs = {  # noqa: RUF012 - TFDS's own form
        name: tfds.core.BuilderConfig(name=name, description=config.description) for name, config in CONFIGS.items()
    }
    # `tfds build` makes all of these, but most sources have no splits of their own.
    BUILDER_CONFIGS = [config for name, config in builder_configs.items() if name != "given"]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Put the NLM's {_ARCHIVE}, or a folder with the folders {" and ".join(DEFAULT_CLASS_FOLDERS)}, into manual_dir; or
    let the job download the archive: python -m pipeline.preprocess --source=nih --data_dir=<data_dir>
    """

    def __init__(self, *, data_dir: epath.PathLike | None = None, **options: Any) -> None:
        """See tfds.core.DatasetBuilder; `~` in data_dir is expanded."""
        super().__init__(data_dir=data_dir and epath.Path(data_dir).expanduser(), **options)

    def _info(self) -> tfds.core.DatasetInfo:
        # A prepared folder has its own image size and encoding. This runs before TFDS reads any of its files.
        settings, make_info = plan.Settings().as_json(), self.dataset_info_from_configs
        if (self.data_path / layout.DATASET_INFO).exists():
            contents = _check(self.data_path)
            settings = contents["settings"]
            if contents["source"]["num_cells"] != _NUM_NLM_CELLS:  # its description and citation are no others'
                make_info = functools.partial(tfds.core.DatasetInfo, builder=self)
        features = tfds_features(settings["image_size_px"], settings["image_encoding"])
        if not isinstance(features[IMAGE], tfds.features.Image):
            features = tfds.features.FeaturesDict({**features, IMAGE: RawImage(features[IMAGE])})
        return make_info(
            features=features, supervised_keys=(IMAGE, LABEL), homepage=tfds_metadata.HOMEPAGE, disable_shuffling=True
        )

    def as_dataset(
        self, *split: Any, shuffle_files: bool = False, read_config: tfds.ReadConfig | None = None, **options: Any
    ) -> Any:
        """See tfds.core.DatasetBuilder; with `shuffle_files` TFDS's guard of the records' order is off."""
        if shuffle_files:
            read_config = dataclasses.replace(read_config or tfds.ReadConfig(), enable_ordering_guard=False)
        return super().as_dataset(*split, shuffle_files=shuffle_files, read_config=read_config, **options)

    def download_and_prepare(
        self,
        *,
        download_dir: epath.PathLike | None = None,
        download_config: tfds.download.DownloadConfig | None = None,
        **unused_options: object,
    ) -> None:
        """Prepares the data set from `manual_dir` with the Beam job, unless it is there already.

        `manual_dir` and `download_mode` of the `download_config` count; the former is `<download_dir>/manual` by
        default. Raises InputError if there is no source; the message tells how to get one.
        """
        del unused_options
        config = download_config or tfds.download.DownloadConfig()
        if layout.has_dataset(self.data_path) and not config.download_mode.overwrite_dataset:
            _check(self.data_path)
            return
        default_dir = epath.Path(download_dir or self.data_dir_root / "downloads") / "manual"
        self._download_and_prepare(epath.Path(config.manual_dir or default_dir).expanduser(), config)
        self.info.read_from_directory(self.data_path)

    def _download_and_prepare(self, manual_dir: epath.Path, download_config: tfds.download.DownloadConfig) -> None:
        from pipeline.job import prepare  # readers need neither OpenCV nor the job

        source, settings = _find_source(manual_dir), plan.Settings(config=self.builder_config.name)
        patient_regex = compile_patient_regex(settings.patient_regex)
        names = parse_class_folders(settings.class_folders)
        cells = list_cells(open_source(source), source, names, patient_regex)
        overwrite = download_config.download_mode.overwrite_dataset
        with prepare.plan(cells, settings, source, str(self.data_dir_root), overwrite) as job:
            prepare.run(job)


def _check(directory: epath.Path) -> manifest.Manifest:
    """The manifest of a data set whose files TFDS may read; raises InputError if it must not."""
    contents = manifest.open_dataset(directory)
    for shard in () if is_remote(directory) else manifest.shards(contents):
        index.read_index(str(directory / shard["file"]), shard)
    try:
        tfds_metadata.check(directory, contents)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{directory} cannot be read: {error}; make the data set again with --overwrite") from error
    return contents


def _find_source(manual_dir: epath.Path) -> str:
    for place in (manual_dir / _ARCHIVE, manual_dir / _FOLDER, manual_dir):
        if place.exists() and (place != manual_dir or (manual_dir / DEFAULT_CLASS_FOLDERS[0]).exists()):
            return str(place)
    raise InputError(f"no cells in manual_dir={manual_dir}. {' '.join(Builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())}")
