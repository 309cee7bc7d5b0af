"""Lists a source: its cells in a fixed order, and what was left out.

The listing depends neither on the order in which the file system or archive names its files, nor on whether the
cells lie in a folder or in a zip of that folder.
"""

import dataclasses
import hashlib
import heapq
import re
import unicodedata
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from pipeline.cells import IMAGE_SUFFIXES, LABELS, Cell, Rejected, parse_patient
from pipeline.errors import InputError
from pipeline.label_list import LabelList
from pipeline.source import layouts
from pipeline.source.archive import LINK_TO_FOLDER, Source, is_hidden
from pipeline.source.files import MAX_ENCODED_BYTES, Files, UnreadableImage, printable_path
from pipeline.storage import MAX_CONNECTIONS

EXCLUDE = "exclude"
EXCLUDED = -1
_MAX_NAME_CHARACTERS = 1024
_FILES_WITH_CHECKSUM = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Cells by columns, sorted by file name, code point by code point; an index gives a `Cell`."""

    files: Files
    root: str  # path of the folder that file names begin from, from the source's top, "" or ending with `/`
    indices: np.ndarray  # int64 [cells], into the files
    labels: np.ndarray  # uint8 [cells]
    patients: np.ndarray  # int32 [cells], into `patient_ids`
    patient_ids: list[str]  # each once, "" for cells of which none is known
    splits: np.ndarray | None = None  # uint8 [cells], into `cells.SPLITS`; None unless the source has them

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


class Listing(NamedTuple):
    """What a source holds.

    The fingerprint is a sha256 over the sorted file names and sizes and the CRC-32 of 1,024 files chosen by a hash of
    their names; with a table also over what it tells. It is the same for a folder and a zip of that folder.
    """

    cells: Cells
    rejected: list[Rejected]  # image files that cannot be used because of their name or type
    skipped: dict[str, int]  # number of files that are no images, by reason
    left_out: Counter[str]  # number of images outside of the class folders, by the name of their folder
    same_names: list[str]  # base names that are in both classes, which may be a mistake in copying
    fingerprint: str
    layout: layouts.Layout  # how the source tells labels
    overrides_sha256: str = ""  # of the list of labels, if there is one
    overrides: np.ndarray | None = None  # by the list, int8 [cells]; `EXCLUDED` for cells that the data set leaves out


def list_cells(
    source: Source,
    source_name: str,
    class_names: Mapping[str, int],
    patient_regex: re.Pattern[str],
    columns: layouts.Columns | None = None,
    table: layouts.Table | None = None,
) -> Listing:
    """Lists the cells of a source, which errors call `source_name`.

    Names and columns are as for `layouts.find`, the regex as for `cells.parse_patient`. A `table` lies elsewhere; then
    class folders do not count. Raises InputError if the source cannot be read, has neither class folders nor a table,
    or a class has no image.
    """
    try:
        files = source.walk()
        layout = (
            table.located(files, source.path, "")
            if table
            else layouts.find(files, source, source_name, class_names, columns or {})
        )
    except (OSError, UnreadableImage) as error:
        raise InputError(f"{source_name} cannot be listed: {error}; check that it can be read") from error
    root = layout.root
    indices, labels, patients, splits = array("q"), array("B"), array("i"), array("B")
    patient_codes: dict[str, int] = {}
    rejected: list[Rejected] = []
    skipped, left_out = Counter[str](), Counter[str]()
    last_filename = ""
    for index in sorted(range(len(files)), key=files.paths.__getitem__):  # code point by code point
        file = files[index]
        filename = file.path.removeprefix(root) if file.path.startswith(root) else ""
        placement = layout.place(filename)
        lacks_images = file.fault == LINK_TO_FOLDER and placement
        if not (file.path.lower().endswith(IMAGE_SUFFIXES) or lacks_images) or is_hidden(file.path):
            skipped["not an image by name"] += 1
        elif fault := file.fault or _name_fault(file.path):
            rejected.append(Rejected(printable_path(file.path), fault))
        elif placement is None:
            skipped[layout.outside] += 1
            if isinstance(layout, layouts.ClassFolders) and (folder := filename.rpartition("/")[0]):
                left_out[folder.rpartition("/")[2]] += 1
        elif placement.fault:
            rejected.append(Rejected(filename, placement.fault))
        elif filename == last_filename:
            rejected.append(Rejected(filename, "the archive has this name more than once"))
        elif file.num_bytes > MAX_ENCODED_BYTES:
            rejected.append(Rejected(filename, f"{file.num_bytes} bytes; expected at most {MAX_ENCODED_BYTES}"))
        else:
            patient_id = placement.patient_id
            if layout.patient_column is None:
                patient_id = parse_patient(filename, patient_regex) or unicodedata.normalize("NFC", patient_id)
            indices.append(index)
            labels.append(placement.label)
            patients.append(patient_codes.setdefault(patient_id, len(patient_codes)))
            splits.append(placement.split or 0)
            last_filename = filename
    columns_of_cells = (np.array(indices), np.array(labels), np.array(patients), list(patient_codes))
    cells = Cells(files, root, *columns_of_cells, np.array(splits) if layout.has_splits else None)
    num_cells = np.bincount(cells.labels, minlength=len(LABELS))
    if not num_cells.all():
        reason = f" ({len(rejected)} files are rejected: {rejected[0].reason})" if rejected else ""
        raise InputError(
            f"{source_name} has no image in {layout.describe(int(num_cells.argmin()))}{reason}; expected files ending "
            f"in {', '.join(IMAGE_SUFFIXES)}; add some or name the folder by --class_folders"
        )
    fewest, *others = (
        (cells.filename(index).rpartition("/")[2] for index in np.flatnonzero(cells.labels == label).tolist())
        for label in np.argsort(num_cells)
    )
    same_names = sorted(set(fewest).intersection(*others))
    fingerprint = _fingerprint(cells, source, source_name, isinstance(layout, layouts.Table))
    return Listing(cells, rejected, dict(sorted(skipped.items())), left_out, same_names, fingerprint, layout)


def override(listing: Listing, label_list: LabelList) -> Listing:
    """The listing with labels of a list; InputError if this has unknown cells, or leaves no cell of a label."""
    cells = listing.cells
    row_of = {cells.filename(index): index for index in range(len(cells))}
    label_list.check_known(row_of)
    labels = cells.labels.astype(np.int8)
    for filename, label in label_list.labels.items():
        labels[row_of[filename]] = EXCLUDED if label == EXCLUDE else LABELS.index(label)
    if lost := [name for label, name in enumerate(LABELS) if label in cells.labels and label not in labels]:
        raise InputError(f"{label_list.name} leaves no {lost[0]} cell in the data set; expected cells of both labels")
    return listing._replace(overrides_sha256=label_list.sha256, overrides=labels)


def _name_fault(path: str) -> str | None:
    if len(path) > _MAX_NAME_CHARACTERS:
        return f"name of {len(path)} characters; expected at most {_MAX_NAME_CHARACTERS}"
    return "name is not UTF-8" if re.search(r"[\ud800-\udfff]", path) else None


def _fingerprint(cells: Cells, source: Source, source_name: str, with_labels: bool) -> str:
    digest = hashlib.sha256()
    for index, cell in enumerate(cells):
        digest.update(f"{cell.filename}\0{cell.num_bytes}\n".encode())
        if with_labels:
            split = -1 if cells.splits is None else cells.splits[index]
            digest.update(f"{cell.label}\0{cell.patient_id}\0{split}\n".encode())
    with_checksum = heapq.nsmallest(
        _FILES_WITH_CHECKSUM,
        range(len(cells)),
        key=lambda index: hashlib.blake2b(cells.filename(index).encode(), digest_size=8).digest(),
    )

    def crc32(index: int) -> int:
        cell = cells[index]
        try:
            return cell.zip_entry.crc if cell.zip_entry else zlib.crc32(source.read(cells.root, cell))
        except (OSError, UnreadableImage) as error:
            failure = f"{source_name} cannot be read: {cell.filename}: {error}"
            raise InputError(f"{failure}; fix that, then the same command continues") from error

    with ThreadPoolExecutor(MAX_CONNECTIONS if source.is_remote else 1) as pool:
        for crc in pool.map(crc32, with_checksum):
            digest.update(f"{crc}\n".encode())
    return digest.hexdigest()
