"""Whose a version folder and its incomplete sibling are: taken by a job at its start, published at its end."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from etils import epath

from pipeline import storage
from pipeline.errors import InputError
from pipeline.job.build_manifest import differences
from pipeline.job.plan import Job
from pipeline.records import layout, manifest
from pipeline.source.layouts import Layout

_IDENTITY = "job.json"


@contextmanager
def explained_os_errors(place: str) -> Iterator[None]:
    """Turns an OSError of the block into an InputError that names the place."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {place}: {error}; fix that, then the same command continues") from error


def job_name(identity: manifest.Manifest) -> str:
    """A name for the job that makes these bytes: a folder and a zip of it have the same."""
    deciding = [identity["source"]["fingerprint"], *(identity[key] for key in ("format", "version", "settings"))]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def check_outside_source(source: str, layout: Layout, directory: epath.Path) -> None:
    """Raises InputError if the data set would lie among the cells, where the next listing takes its files for cells."""
    if storage.is_remote(source) or storage.is_remote(directory):
        return
    resolved = Path(directory).resolve()  # etils' resolve follows no links
    for folder in (f"{layout.root}{parent}{name}" for parent in layout.folders for name in layout.names):
        if resolved.is_relative_to(Path(storage.open_place(source, "--source"), folder).resolve()):
            raise InputError(
                f"{directory} would lie in the source's class folder {folder}/, which is never changed; give a "
                "--data_dir outside of the source"
            )


def find_existing(directory: epath.Path, identity: manifest.Manifest, overwrite: bool) -> manifest.Manifest | None:
    """The manifest of the data set that exists, None without one or with `overwrite`; InputError if it is another."""
    if overwrite or not layout.has_dataset(directory):
        return None
    existing = manifest.read(directory)
    if different := differences(existing, identity):
        raise InputError(
            f"{directory} already holds another data set: {'; '.join(different)}; give --overwrite to replace it, or "
            "another --data_dir"
        )
    return existing


def acquire(directory: epath.Path, job_dir: epath.Path, identity: manifest.Manifest, overwrite: bool) -> None:
    """Makes the incomplete folder this job's own; raises InputError if another job's work is in it."""
    incomplete = layout.incomplete_dir(directory)
    if incomplete.exists():
        different = _unfinished_differences(incomplete, identity)
        if different and not overwrite:
            raise InputError(
                f"{incomplete} holds another, unfinished data set: {'; '.join(different)}; give --overwrite to "
                "replace it"
            )
        if different != []:
            storage.remove_folder(incomplete)
    if storage.is_remote(directory):
        (directory / layout.MANIFEST).unlink(missing_ok=True)  # from here on it is not complete
    storage.make_folder(layout.shards_dir(directory))
    storage.make_folder(job_dir)
    storage.write_atomic(job_dir / _IDENTITY, json.dumps(identity).encode())


def _unfinished_differences(incomplete: epath.Path, identity: manifest.Manifest) -> list[str] | None:
    """How an incomplete folder's data set differs from the wanted one; None if it holds no shard yet."""
    entries = [incomplete / name for name in sorted(storage.list_names(incomplete))]
    # Without a lock, on an object store, a plan alone may be that of a job which is running.
    if not storage.is_remote(incomplete) and all((path / _IDENTITY).exists() for path in entries):
        return None
    for path in [incomplete / layout.MANIFEST, *(path / _IDENTITY for path in entries)]:
        if path.exists():
            try:
                return differences(json.loads(path.read_text()), identity)
            except (ValueError, KeyError, TypeError):
                return [f"{path} is damaged"]
    holds_files = any(
        not path.is_dir() or any(not storage.is_partial(name) for name in storage.list_names(path)) for path in entries
    )
    return ["nothing in it tells what it is"] if holds_files else None


def is_complete(job: Job) -> bool:
    """Whether a job that was killed at its end has left everything but the last rename."""
    directory = job.shard_job.shards_dir
    path = directory / layout.MANIFEST
    if not path.exists() or not manifest.is_signed(path.read_bytes()):
        return False
    return not any(manifest.check_shard(directory, shard) for shard in manifest.shards(json.loads(path.read_text())))


def publish(job: Job) -> None:
    """Makes the complete data set appear under its name, and removes what the job has left."""
    incomplete = layout.incomplete_dir(job.directory)
    if storage.is_remote(job.directory):
        storage.remove_folder(incomplete)
        return
    storage.remove_others(incomplete, layout.expected_files(job.num_cells))
    replaced = _replaced_dir(job.directory)
    storage.remove_folder(replaced)
    if job.directory.exists():
        job.directory.rename(replaced)
    incomplete.rename(job.directory)
    storage.remove_folder(replaced)


def _replaced_dir(directory: epath.Path) -> epath.Path:
    """Where a data set lies for the moment in which another takes its name."""
    return directory.with_name(f"{directory.name}.replaced")


def cleanup(directory: epath.Path) -> None:
    """Removes what a job that was killed at its very end has left next to its data set."""
    lock, replaced = storage.lock_file(directory), _replaced_dir(directory)
    if not storage.is_remote(directory) and (lock.exists() or replaced.exists()):
        with suppress(InputError, OSError), storage.lock(directory):
            storage.remove_folder(replaced)
