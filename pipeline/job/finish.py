"""The end of a job: shards that are all filled in, a whole data set out, whose manifest is written last."""

import json
from collections.abc import Sequence

from pipeline import storage
from pipeline.errors import InputError
from pipeline.job import duplicates
from pipeline.job.plan import Shard
from pipeline.job.planned import Job
from pipeline.job.shard import ShardResult, holds_shard
from pipeline.records import layout, manifest


def is_sealed(job: Job) -> bool:
    """Whether a job that was killed at its end has left everything but the last rename."""
    path = job.shards_dir / layout.MANIFEST
    if not path.exists() or not manifest.is_sealed(path.read_bytes()):
        return False
    splits = json.loads(path.read_text())["splits"]
    return all(holds_shard(job.shards_dir, entry) for split in splits.values() for entry in split["shards"])


def check_results(filled: Sequence[ShardResult], job: Job, max_rejected_fraction: float) -> None:
    """Raises InputError if too many images were rejected, or all of a split."""
    rejected = [*job.refused, *(item for result in filled for item in result.rejected)]
    num_images = sum(job.num_cells.values()) + len(job.refused)
    if len(rejected) > max_rejected_fraction * num_images:
        examples = ", ".join(f"{filename} ({reason})" for filename, reason in sorted(rejected)[:3])
        raise InputError(
            f"{len(rejected)} of {num_images} images cannot be used, more than --max_rejected_fraction="
            f"{max_rejected_fraction}: {examples}{', …' if len(rejected) > 3 else ''}; raise the fraction, or mend "
            "or remove them and give --overwrite"
        )
    for split in sorted({result.split for result in filled}):
        if not any(result.num_records for result in filled if result.split == split):
            raise InputError(f"every image of split {split} was rejected; mend the source")


def complete(job: Job, filled: Sequence[ShardResult]) -> None:
    """Writes TFDS's files, then the manifest."""
    from pipeline.records import tfds_metadata  # TFDS takes a second to import, which the workers need not wait for

    def read_names(result: ShardResult) -> list[str]:
        planned = Shard.from_json((job.job_dir / layout.plan_name(result.file_name)).read_text())
        rejected = {item.filename for item in result.rejected}
        return [cell.filename for cell in planned.cells if cell.filename not in rejected]

    copies = duplicates.find_duplicates(filled, read_names)
    whole = manifest.build(job.identity, job.refused, job.same_names, filled, copies)
    expected = layout.expected_files(list(job.num_cells))
    storage.remove_others(job.shards_dir, expected | {job.job_dir.name})
    tfds_metadata.write(job.shards_dir, whole)
    tfds_metadata.write_default_config(job.directory.parent.parent)
    storage.write_atomic(job.shards_dir / layout.MANIFEST, manifest.seal(whole, job.shards_dir))


def publish(job: Job) -> None:
    """Makes the whole data set appear under its name, and removes what the job has left."""
    incomplete = layout.incomplete_dir(job.directory)
    if storage.is_remote(job.directory):
        storage.remove_folder(incomplete)
        return
    storage.remove_others(incomplete, layout.expected_files(list(job.num_cells)))
    replaced = layout.replaced_dir(job.directory)
    storage.remove_folder(replaced)
    if job.directory.exists():
        job.directory.rename(replaced)
    incomplete.rename(job.directory)
    storage.remove_folder(replaced)
