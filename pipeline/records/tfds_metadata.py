"""TFDS's own files of a data set: `dataset_info.json`, `features.json`, `label.labels.txt`, written by TFDS."""

import json
import os
import tempfile
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from pipeline.cells import DATASET_NAME
from pipeline.records import layout
from pipeline.records.example import IMAGE, LABEL, tfds_features
from pipeline.splits.configs import CONFIGS
from pipeline.storage import make_folder, read_file

_TEXTS = ("citation", "configDescription", "description", "location", "releaseNotes")
HOMEPAGE = "https://lhncbc.nlm.nih.gov/LHC-research/LHC-projects/image-processing/malaria-datasheet.html"


def write(directory: epath.Path, manifest: dict[str, Any]) -> None:
    """Writes what `tfds.builder_from_directory` needs into the shards' folder, from the manifest's numbers."""
    config, settings = manifest["config"], manifest["settings"]
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=DATASET_NAME, filetype_suffix=tfds.core.FileFormat.TFRECORD.file_suffix
    )
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=DATASET_NAME,
            version=tfds.core.Version(manifest["version"]),
            data_dir=os.fspath(directory),
            module_name="tfds_malaria",
            config_name=config,
            config_description=CONFIGS[config].description,
            release_notes=layout.RELEASE_NOTES,
        ),
        description="Red blood cells of malaria patients and healthy people, cut from thin blood smears.",
        homepage=HOMEPAGE,
        features=tfds_features(settings["image_size_px"], settings["image_encoding"]),
        supervised_keys=(IMAGE, LABEL),
        disable_shuffling=True,  # the records' order is part of the plan
    )
    info.set_file_format(tfds.core.FileFormat.TFRECORD)
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[shard["num_records"] for shard in split["shards"]],
            num_bytes=sum(shard["num_bytes"] for shard in split["shards"]),
            filename_template=template,
        )
        for name, split in manifest["splits"].items()
    ]
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(directory)


def check(directory: epath.Path, manifest: dict[str, Any]) -> None:
    """Raises ValueError or RecursionError if TFDS's files are not those that `write` makes, descriptions aside.

    TFDS imports the class that `features.json` names, so it must not read files that somebody else wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        write(epath.Path(folder), manifest)
        for name in layout.TFDS_FILES:
            content, expected = (read_file(epath.Path(place) / name) for place in (directory, folder))
            if content != expected and not (name.endswith(".json") and _deciding(content) == _deciding(expected)):
                raise ValueError(f"{name} is not what this project writes for {directory}")


def _deciding(content: bytes) -> object:
    """What decides in a JSON file of TFDS."""
    parsed = json.loads(content)
    return {key: value for key, value in parsed.items() if key not in _TEXTS} if isinstance(parsed, dict) else None


def write_default_config(dataset_root: epath.Path) -> None:
    """Tells TFDS which config `tfds_malaria` means where the project's code is not imported."""
    path = dataset_root / ".config" / "metadata.json"
    make_folder(path.parent)
    path.write_text(json.dumps({"default_config_name": next(iter(CONFIGS))}))  # nobody would remove a partial file here
