"""Lists a source: its cells in a fixed order, and what was left out.

The listing depends neither on the order in which the file system or archive names its files, nor on whether the
cells lie in a folder or in a zip of that folder.
"""

import dataclasses
import hashlib
import heapq
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.cells import IMAGE_SUFFIXES, LABELS, Cell, Rejected, parse_patient
from pipeline.errors import InputError
from pipeline.label_list import LabelList
from pipeline.source.archive import LINK_TO_FOLDER, Source, is_hidden
from pipeline.source.files import MAX_ENCODED_BYTES, Files, UnreadableImage
from pipeline.source.read_ahead import CellRead, read_ahead

EXCLUDE = "exclude"
EXCLUDED = -1
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
_MAX_NAME_CHARACTERS = 1024
_FILES_WITH_CHECKSUM = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Cells by columns, sorted by file name, code point by code point; an index gives a `Cell`."""

    files: Files
    root: str  # see `Listing`
    indices: np.ndarray  # int64 [cells], into the files
    labels: np.ndarray  # uint8 [cells]
    patients: np.ndarray  # int32 [cells], into `patient_ids`
    patient_ids: list[str]  # each once, "" for cells whose name tells none

    def filename(self, index: int) -> str:
        """The file name of a cell."""
        return self.files.paths[self.indices[index]][len(self.root) :]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Cell:
        file = self.files[self.indices[index]]
        label, patient_id = int(self.labels[index]), self.patient_ids[self.patients[index]]
        return Cell(self.filename(index), label, patient_id, file.num_bytes, file.zip_entry, file.modified_ns)

    def __iter__(self) -> Iterator[Cell]:
        return map(self.__getitem__, range(len(self)))


class LabelOverrides(NamedTuple):
    """What a list of labels says of the cells."""

    sha256: str  # of the list
    labels: np.ndarray  # int8 [cells], `EXCLUDED` for cells that the data set leaves out


class Listing(NamedTuple):
    """What a source holds.

    The fingerprint is a sha256 over the sorted file names and sizes and the CRC-32 of 1,024 files chosen by a hash of
    their names; the same for a folder and a zip of that folder, and cheap for both.
    """

    root: str  # path of the folder that holds the class folders, from the source's top, "" or ending with `/`
    cells: Cells
    rejected: list[Rejected]  # image files that cannot be used because of their name or type
    skipped: dict[str, int]  # number of files that are no images, by reason
    same_names: list[str]  # base names that are in both class folders, which may be a mistake in copying
    fingerprint: str
    overrides: LabelOverrides | None = None

    @property
    def overridden(self) -> np.ndarray:
        """The cells that have another label by the list, or are left out: int64 indices."""
        return np.flatnonzero(self.overrides.labels != self.cells.labels) if self.overrides else np.array([], np.int64)


def list_cells(
    source: Source, source_name: str, class_folders: Sequence[str], patient_regex: re.Pattern[str]
) -> Listing:
    """Lists the cells of a source.

    Args:
      source, source_name: an opened source, and what to call it in errors.
      class_folders: folder of each label, in label order; they may lie deeper, the topmost pair counts.
      patient_regex: see `cells.parse_patient`.

    Raises:
      InputError: if the source cannot be listed, has no class folders, or a class has no image.
    """
    try:
        files, folders = source.walk()
    except OSError as error:
        raise InputError(f"{source_name} cannot be listed: {error}; check that it can be read") from error
    root = _find_root(files, folders, class_folders, source_name)
    label_of = {folder: label for label, folder in enumerate(class_folders)}
    indices, labels, patients = array("q"), array("B"), array("i")
    patient_codes: dict[str, int] = {}
    rejected: list[Rejected] = []
    skipped: Counter[str] = Counter()
    last_filename = ""
    for index in files.sorted_indices():
        file = files[index]
        filename = file.path.removeprefix(root) if file.path.startswith(root) else ""
        folder, _, below = filename.partition("/")
        lacks_images = file.fault == LINK_TO_FOLDER and folder in label_of
        if not (file.path.lower().endswith(IMAGE_SUFFIXES) or lacks_images) or is_hidden(file.path):
            skipped["not an image by name"] += 1
        elif fault := file.fault or _name_fault(file.path):
            rejected.append(Rejected(_printable(file.path), fault))
        elif folder not in label_of or not below:
            skipped["outside of the class folders"] += 1
        elif not label_of.keys().isdisjoint(below.split("/")[:-1]):
            rejected.append(Rejected(filename, "lies in a class folder within a class folder"))
        elif filename == last_filename:
            rejected.append(Rejected(filename, "the archive has this name more than once"))
        elif file.num_bytes > MAX_ENCODED_BYTES:
            rejected.append(Rejected(filename, f"{file.num_bytes} bytes; expected at most {MAX_ENCODED_BYTES}"))
        else:
            patient_id = parse_patient(below.rpartition("/")[2], patient_regex)
            indices.append(index)
            labels.append(label_of[folder])
            patients.append(patient_codes.setdefault(patient_id, len(patient_codes)))
            last_filename = filename
    cells = Cells(files, root, np.array(indices), np.array(labels), np.array(patients), list(patient_codes))
    num_cells = np.bincount(cells.labels, minlength=len(LABELS))
    for folder, num in zip(class_folders, num_cells, strict=True):
        if not num:
            reason = f" ({len(rejected)} files are rejected: {rejected[0].reason})" if rejected else ""
            raise InputError(
                f"{source_name} has no image in {root}{folder}/{reason}; expected files ending in "
                f"{', '.join(IMAGE_SUFFIXES)}; add some or name the folder by --class_folders"
            )
    try:
        fingerprint = _fingerprint(cells, source)
    except (OSError, UnreadableImage) as error:
        raise InputError(f"{source_name} cannot be read: {error}; fix that, then the same command continues") from error
    fewest, *others = (
        (cells.filename(index).rpartition("/")[2] for index in np.flatnonzero(cells.labels == label).tolist())
        for label in np.argsort(num_cells)
    )
    same_names = sorted(set(fewest).intersection(*others))
    return Listing(root, cells, rejected, dict(sorted(skipped.items())), same_names, fingerprint)


def override(listing: Listing, label_list: LabelList) -> Listing:
    """The listing with labels of a list.

    Raises InputError if the list has a cell that the source has not, or leaves no cell of a label.
    """
    cells = listing.cells
    row_of = {cells.filename(index): index for index in range(len(cells))}
    label_list.check_known(row_of)
    labels = cells.labels.astype(np.int8)
    for filename, label in label_list.labels.items():
        labels[row_of[filename]] = EXCLUDED if label == EXCLUDE else LABELS.index(label)
    if lost := [name for label, name in enumerate(LABELS) if label in cells.labels and label not in labels]:
        raise InputError(f"{label_list.name} leaves no {lost[0]} cell in the data set; expected cells of both labels")
    return listing._replace(overrides=LabelOverrides(label_list.sha256, labels))


def _find_root(files: Files, folders: set[str], class_folders: Sequence[str], source_name: str) -> str:
    parents = {
        name: {path[: -len(name)] for path in folders if path == name or path.endswith("/" + name)}
        for name in class_folders
    }
    roots = sorted(set.intersection(*parents.values()), key=lambda root: (root.count("/"), root))
    expected = " and ".join(f"{name}/" for name in class_folders)
    if not roots:
        present = [name for name in class_folders if parents[name]]
        fault = f"has {f'a folder {present[0]}/ only' if present else 'no class folders'} ({_content(files, folders)})"
        raise InputError(f"{source_name} {fault}; expected {expected} side by side; name others by --class_folders")
    if len(roots) > 1 and roots[1].count("/") == roots[0].count("/"):
        raise InputError(
            f"{source_name} has {expected} more than once, in {roots[0]!r} and {roots[1]!r}; expected one pair; "
            "point --source at one of them"
        )
    return roots[0]


def _content(files: Files, folders: set[str]) -> str:
    """What most likely explains why a source has no class folders."""
    if rejected := [file for file in files if file.fault]:
        first = min(rejected, key=lambda file: file.path)
        return f"{len(rejected)} files are rejected, such as {_printable(first.path)}: {first.fault}"
    if archives := sorted(file.path for file in files if file.path.lower().endswith(_ARCHIVE_SUFFIXES)):
        return f"it holds {_printable(archives[0])}: unpack that first"
    if folders:
        return f"its folders are {', '.join(map(_printable, sorted(folders)[:3]))}{', …' if len(folders) > 3 else ''}"
    return f"it has no folders, and {len(files)} files"


def _name_fault(path: str) -> str | None:
    if len(path) > _MAX_NAME_CHARACTERS:
        return f"name of {len(path)} characters; expected at most {_MAX_NAME_CHARACTERS}"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "name is not UTF-8"
    return None


def _fingerprint(cells: Cells, source: Source) -> str:
    digest = hashlib.sha256()
    for cell in cells:
        digest.update(f"{cell.filename}\0{cell.num_bytes}\n".encode())
    chosen = heapq.nsmallest(
        _FILES_WITH_CHECKSUM,
        range(len(cells)),
        key=lambda index: hashlib.blake2b(cells.filename(index).encode(), digest_size=8).digest(),
    )
    with_checksum = [cells[index] for index in chosen]
    if with_checksum[0].zip_entry:  # the archive's directory has it already
        checksums: Iterable[int] = (cell.zip_entry.crc for cell in with_checksum if cell.zip_entry)
    else:
        checksums = (_crc32(read) for batch in read_ahead(source, cells.root, with_checksum) for read in batch)
    for crc in checksums:
        digest.update(f"{crc}\n".encode())
    return digest.hexdigest()


def _crc32(cell_read: CellRead) -> int:
    cell, read = cell_read
    try:
        return zlib.crc32(read())
    except UnreadableImage as error:
        raise UnreadableImage(f"{cell.filename}: {error}") from error


def _printable(path: str) -> str:
    text = path.encode(errors="backslashreplace").decode()
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
