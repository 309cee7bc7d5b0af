"""Corrupt files of an existing data set: those that are not what its manifest vouches for, and making them again."""

from collections.abc import Iterable, Mapping

from etils import epath

from pipeline import storage
from pipeline.errors import InputError
from pipeline.job.build_manifest import package_versions
from pipeline.job.plan import Shard, ShardJob
from pipeline.records import layout, manifest


def make_again(
    directory: epath.Path,
    existing: manifest.Manifest,
    corrupt: Mapping[str, str],
    shards: Iterable[Shard],
    job: ShardJob,
) -> int:
    """Makes corrupt files again, in a folder of their own (that of `job`), and moves them to the data set.

    Returns the number of cells that were read. Raises InputError if a file is not byte-identical to what the manifest
    vouches for; then none is moved.
    """
    from pipeline.job import fill  # OpenCV and TFDS take a second to import, which other jobs need not wait for
    from pipeline.records import tfds_metadata

    folder = job.shards_dir
    storage.remove_folder(folder)
    storage.make_folder(folder)
    try:
        affected = [shard for shard in shards if {shard.file_name, layout.index_name(shard.file_name)} & corrupt.keys()]
        for shard in affected:
            storage.write_atomic(folder / layout.plan_name(shard.file_name), shard.to_json().encode())
            fill.fill_shard(shard.file_name, job)
        if existing["files"].keys() & corrupt.keys():
            tfds_metadata.write(folder, existing)
        if different := [name for name in manifest.find_corrupt(folder, existing, with_shards=True) if name in corrupt]:
            made_by = existing.get("package_versions", {})
            versions = ", ".join(
                f"{package} {made_by.get(package)} made it and {version} is installed"
                for package, version in package_versions().items()
                if made_by.get(package) != version
            )
            raise InputError(
                f"{different[0]}, made again, is not what the manifest vouches for, so the data set is left as it was "
                f"({versions or 'the source has changed, or this CPU resizes differently'}); replace it by --overwrite"
            )
        for name in corrupt:
            (folder / name).replace(directory / name)
    finally:
        storage.remove_folder(folder)
    return sum(len(shard.cells) for shard in affected)
