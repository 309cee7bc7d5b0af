"""The job: a listing and settings in, a whole data set out; planned first, then filled by Beam.

A job that was killed, at any moment, continues with the shards that are missing.

Locally the data set is filled in `<version>.incomplete` and renamed when it is whole. On an object store it is filled
in place, and the manifest, written last, makes it whole. In both, `<version>.incomplete/<job>` holds the plan and the
shards' results while the job runs; its name is a hash of what is made.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from etils import epath

from pipeline import duplicates, layout, manifest, results, storage, workers
from pipeline.cells import Rejected
from pipeline.claim import check_apart, claim, find_existing, job_name, tidy
from pipeline.errors import InputError
from pipeline.listing import Listing
from pipeline.plan import Settings, Shard, plan_shards
from pipeline.shard import ShardResult, Target


class Outcome(NamedTuple):
    """What the job did.

    Attributes:
      directory: the data set's version folder.
      manifest: its manifest.
      num_filled: number of cells that this run read; 0 if the data set was there already.
      seconds: how long filling took, from the first shard to the manifest.
    """

    directory: epath.Path
    manifest: manifest.Manifest
    num_filled: int
    seconds: float


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
    target: Target
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


def prepare(
    listing: Listing,
    settings: Settings,
    *,
    source: str,
    data_dir: str,
    max_rejected_fraction: float = 0.001,
    overwrite: bool = False,
    pipeline_options: Sequence[str] = (),
) -> Outcome:
    """Makes one data set, or finds that it is there already: `plan`, then `run`.

    Raises:
      InputError: see `plan` and `run`.
    """
    with plan(listing, settings, source=source, data_dir=data_dir, overwrite=overwrite) as planned:
        return run(planned, max_rejected_fraction=max_rejected_fraction, pipeline_options=pipeline_options)


@contextmanager
def plan(
    listing: Listing, settings: Settings, *, source: str, data_dir: str, overwrite: bool = False
) -> Iterator[Job | Outcome]:
    """Plans one data set, writes the plan, and holds the data set's lock while the block runs.

    Args:
      listing: the source's cells; not needed any more once the block is entered.
      settings: what to make.
      source: path of the source, as workers reach it.
      data_dir: root of all data sets.
      overwrite: replaces a data set of another source or other settings, and makes an equal one anew.

    Yields:
      the job, or its outcome if the data set is there already.

    Raises:
      InputError: if the plan cannot be made, the data set would lie among the cells, or another data set or another
        job is in the way.
    """
    directory = layout.dataset_dir(data_dir, settings.config)
    check_apart(source, listing.root, settings.class_folders, directory)
    source_name = _printable_name(source)
    identity = manifest.identity(listing, settings, source_name)
    if existing := find_existing(directory, identity, overwrite):
        tidy(directory)
        yield Outcome(directory, existing, 0, 0.0)
        return
    shards = plan_shards(listing, settings, source_name)  # it may refuse, which must leave nothing behind
    with ExitStack() as held:
        with _explained_os_errors(data_dir):
            held.enter_context(storage.lock(directory))
            # Another job may have made it while this one waited for the lock.
            existing = find_existing(directory, identity, overwrite)
            if existing:
                planned = Outcome(directory, existing, 0, 0.0)
            else:
                job_dir = layout.incomplete_dir(directory) / job_name(identity)
                claim(directory, job_dir, identity, overwrite)
                target = Target(
                    source=os.fspath(storage.open_place(source, "--source")),
                    root=listing.root,
                    job_dir=str(job_dir),
                    shards_dir=str(layout.shards_dir(directory)),
                    image_size_px=settings.image_size_px,
                    image_encoding=settings.image_encoding,
                )
                num_cells = _write_plan(shards, job_dir)
                planned = Job(directory, identity, target, num_cells, listing.rejected, listing.same_names)
        del listing, shards  # this frame lives as long as the block, which must not hold every cell
        yield planned


def run(job: Job | Outcome, *, max_rejected_fraction: float = 0.001, pipeline_options: Sequence[str] = ()) -> Outcome:
    """Fills the shards that are missing and makes the data set whole.

    Args:
      job: what `plan` yields.
      max_rejected_fraction: the job fails if more of the listed images than this cannot be used.
      pipeline_options: Beam's options, such as `["--runner=DirectRunner"]`.

    Raises:
      InputError: if filling fails or too many images are rejected. What was filled stays in the incomplete folder,
        and the next call continues with it.
    """
    if isinstance(job, Outcome):
        return job
    started = time.perf_counter()
    num_filled = 0
    with _explained_os_errors(str(job.directory)):
        if not _is_sealed(job):
            num_filled = _fill_missing(job, pipeline_options)
            filled = results.read_results(job.job_dir, job.num_cells)
            _check_results(filled, job, max_rejected_fraction)
            _complete(job, filled)
        seconds = time.perf_counter() - started
        _publish(job)
    return Outcome(job.directory, manifest.read(job.directory), num_filled, seconds)


@contextmanager
def _explained_os_errors(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {place}: {error}; mend that, then the same command continues") from error


def _write_plan(shards: Sequence[Shard], job_dir: epath.Path) -> dict[str, int]:
    for shard in shards:
        storage.write_whole(job_dir / layout.plan_name(shard.file_name), shard.to_json().encode())
    return {shard.file_name: len(shard.cells) for shard in shards}


def _printable_name(source: str) -> str:
    place = storage.open_place(source, "--source")
    name = place.name if storage.is_remote(place) else place.resolve().name
    return name.encode(errors="backslashreplace").decode()


def _is_sealed(job: Job) -> bool:
    """Whether a job that was killed at its end has left everything but the last rename."""
    path = job.shards_dir / layout.MANIFEST
    if not path.exists() or not manifest.is_sealed(path.read_bytes()):
        return False
    splits = json.loads(path.read_text())["splits"]
    return all(manifest.holds_shard(job.shards_dir, shard) for split in splits.values() for shard in split["shards"])


def _fill_missing(job: Job, pipeline_options: Sequence[str]) -> int:
    storage.remove_partials(job.shards_dir)  # of workers that were killed: they fill the disk
    for file_name in results.done(job.job_dir):
        result = results.read_result(job.job_dir, file_name)
        if result is None or not manifest.holds_shard(job.shards_dir, manifest.shard_entry(result)):
            (job.job_dir / layout.result_name(file_name)).unlink()  # the disk lost what was written last
    done = results.done(job.job_dir)
    missing = [file_name for file_name in job.num_cells if file_name not in done]
    if missing:
        with results.watch(job.job_dir, job.num_cells):
            num_threads = _begin(missing, job.target) if workers.are_started() else None

            from pipeline import runner  # Beam takes a second to import, and local workers are busy by now

            runner.fill_shards(missing, job.target, num_threads, pipeline_options)
    return sum(job.num_cells[file_name] for file_name in missing)


def _begin(missing: Sequence[str], target: Target) -> int:
    """Lets local worker processes begin; returns how many threads each uses."""
    num_threads = max(1, workers.num_processors() // len(missing))
    for file_name in missing:
        workers.begin("pipeline.fill:fill_shard", file_name, target, num_threads)
    return num_threads


def _check_results(filled: Sequence[ShardResult], job: Job, max_rejected_fraction: float) -> None:
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


def _complete(job: Job, filled: Sequence[ShardResult]) -> None:
    """Writes TFDS's files, then the manifest."""
    from pipeline import metadata  # TFDS takes a second to import, which the workers need not wait for

    def read_names(result: ShardResult) -> list[str]:
        planned = Shard.from_json((job.job_dir / layout.plan_name(result.file_name)).read_text())
        rejected = {item.filename for item in result.rejected}
        return [cell.filename for cell in planned.cells if cell.filename not in rejected]

    copies = duplicates.find_duplicates(filled, read_names)
    whole = manifest.build(job.identity, job.refused, job.same_names, filled, copies)
    expected = layout.expected_files(list(job.num_cells))
    storage.remove_others(job.shards_dir, expected | {job.job_dir.name})
    metadata.write(job.shards_dir, whole)
    metadata.write_default_config(job.directory.parent.parent)
    storage.write_whole(job.shards_dir / layout.MANIFEST, manifest.seal(whole, job.shards_dir))


def _publish(job: Job) -> None:
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
