"""Names of folders and files in a prepared data set.

`<data_dir>/tfds_malaria/<config>/<version>/` is TFDS's own layout, so that the folder that the job fills is the folder
that the builder reads.
"""

from collections.abc import Iterable

from etils import epath

from pipeline.cells import DATASET_NAME
from pipeline.errors import InputError
from pipeline.splits.configs import CONFIGS
from pipeline.storage import is_remote, open_place

VERSION = "1.0.0"  # any change to the order, the records or the splits raises it
RELEASE_NOTES = {VERSION: "First release."}
MANIFEST = "manifest.json"
DATASET_INFO = "dataset_info.json"
TFDS_FILES = (DATASET_INFO, "features.json", "label.labels.txt")


def dataset_dir(data_dir: str, config: str) -> epath.Path:
    """The version folder of a config; InputError if that is unknown, or `data_dir` itself a data set's folder."""
    if config not in CONFIGS:
        raise InputError(f"--config={config} is unknown; expected {', '.join(CONFIGS)}")
    root = open_place(data_dir, "--data_dir")
    absolute = root if is_remote(data_dir) else root.resolve()
    homes = [at.parent for at in (absolute, absolute.parent) if at.name in CONFIGS]
    homes += [absolute for name in CONFIGS if absolute.name == DATASET_NAME and has_dataset(absolute / name / VERSION)]
    homes = [home for home in homes if home.name == DATASET_NAME]
    if homes or (root / DATASET_INFO).exists():
        raise InputError(
            f"--data_dir={data_dir} is a data set's own folder; expected the folder that holds "
            f"{DATASET_NAME}/<config>/<version>; give {homes[0].parent if homes else 'its root'}"
        )
    return root / DATASET_NAME / config / VERSION


def has_dataset(target: epath.Path) -> bool:
    """Whether there is a data set in a version folder; an object store's is one from its manifest on."""
    return (target / MANIFEST).exists() if is_remote(target) else target.exists()


def incomplete_dir(target: epath.Path) -> epath.Path:
    """The sibling of a version folder that a job works in: TFDS takes any existing version folder for complete."""
    return target.parent / f"{target.name}.incomplete"


def shards_dir(target: epath.Path) -> epath.Path:
    """Where shards are written: the incomplete folder, or on an object store, where renaming copies, the target."""
    return target if is_remote(target) else incomplete_dir(target)


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """TFDS's name of a shard: `tfds_malaria-train.tfrecord-00000-of-00017`."""
    return f"{DATASET_NAME}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def index_name(shard_file: str) -> str:
    """The file next to a shard that tells where its records and images lie."""
    return f"{shard_file}.index.npy"


def plan_name(shard_file: str) -> str:
    """The shard's part of the plan, in the job's folder."""
    return f"{shard_file}.plan.json"


def result_name(shard_file: str) -> str:
    """The file in the job's folder that a filled shard has; it holds the shard's numbers."""
    return f"{shard_file}.done.json"


def expected_files(shard_files: Iterable[str]) -> set[str]:
    """All names in the folder of a complete data set that has these shards."""
    return {MANIFEST, *TFDS_FILES, *shard_files, *map(index_name, shard_files)}
