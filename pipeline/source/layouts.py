"""How a source tells what its cells are: by class folders, `[train/][P1/]Uninfected/…`, or by a table (CSV)."""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.cells import DEFAULT_CLASS_FOLDERS, IMAGE_SUFFIXES, LABELS, SPLIT_NAMES, Cell, guess_label, suggest_flag
from pipeline.errors import InputError
from pipeline.label_list import fault, read_rows
from pipeline.source.archive import LINK_TO_FOLDER, Source, is_hidden, normal_path
from pipeline.source.files import Files, printable_path

Columns = Mapping[str, str | None]
"""Names of a table's columns by what they tell; None or no entry: one of `COLUMNS` that is likely; "": none."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "filename", "file_name", "path", "file_path", "filepath", "image", "image_path", "image_name"),
    "label": ("label", "class", "class_name", "diagnosis", "target"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "slide", "slide_id"),
    "split": ("split", "subset"),
}
"""What a table tells -> names that its column may have, unless a flag names it; without file and label it is none."""


class Placement(NamedTuple):
    """What a source tells of a file, besides its name."""

    label: int  # index into `cells.LABELS`
    patient_id: str = ""  # "" if it tells none
    split: int | None = None  # index into `cells.SPLITS`
    fault: str | None = None  # why it must not be read


class ClassFolders(NamedTuple):
    """Folders of cells, one per class, or one per class in each of several folders: splits, patients or both."""

    root: str  # path of the folder that holds them all, from the source's top, "" or ending with `/`
    names: Mapping[str, int]  # of class folders -> label, sorted by label
    folders: tuple[str, ...]  # that hold class folders, from the root on, "" or ending with `/`
    has_splits: bool  # whether the outermost of these are splits
    outside: str = "outside of the class folders"  # what files are of which it tells nothing
    patient_column: str | None = None  # of a table, that tells the patients

    def place(self, filename: str) -> Placement | None:
        """What it tells of a file by the path from the root on; None if it tells nothing."""
        depth = self.folders[0].count("/")
        *around, folder, below = [*filename.split("/", depth + 1), ""][: depth + 2]
        if len(around) < depth or folder not in self.names:
            return None
        split = SPLIT_NAMES[around[0].casefold()] if self.has_splits else None
        is_nested = not set(self.names).isdisjoint(below.split("/")[:-1])
        fault = "lies in a class folder within a class folder" if is_nested else None
        return Placement(self.names[folder], "/".join(around[self.has_splits :]), split, fault)

    def describe(self, label: int) -> str:
        """Where the cells of a label are."""
        root = self.root if len(self.folders) == 1 else ""
        names = " + ".join(f"{root}{name}/" for name, of_label in self.names.items() if of_label == label)
        if len(self.folders) == 1:
            return names
        return f"{names} in {self.root}{self.folders[0]} and {len(self.folders) - 1} more folders"


class Table(NamedTuple):
    """A table that has been read, one cell per line; see `ClassFolders` for what both have."""

    name: str  # what errors call it, such as `--labels_csv=labels.csv`
    rows: dict[str, Placement]  # by path, relative to the root
    lines: dict[str, int]  # number of each path's line, from 1
    names: Mapping[str, int]  # values of the label's column -> label, sorted by label
    columns: dict[str, str]  # of `COLUMNS`, those that it has -> name
    root: str = ""
    folders: tuple[str, ...] = ("",)
    outside: str = "not in the table"

    @property
    def patient_column(self) -> str | None:
        return self.columns.get("patient")

    @property
    def has_splits(self) -> bool:
        return "split" in self.columns

    def place(self, filename: str) -> Placement | None:
        return self.rows.get(filename)

    def describe(self, label: int) -> str:
        names = " + ".join(name for name, of_label in self.names.items() if of_label == label)
        return f"{self.columns['label']}={names}"

    def located(self, files: Files, source: str, folder: str) -> "Table":
        """The table with its root: the folder that it lies in, else one from which its first path leads on.

        Raises InputError, with the number of the line, if a file is not there or is no image by its name.
        """
        first = f"/{next(iter(self.rows))}"
        roots = [path[: 1 - len(first)] for path in files.paths if f"/{path}".endswith(first)]
        root = folder if folder in roots else min(roots, key=lambda root: (len(root), root), default=folder)
        images = set(_images(files))
        for path, line in self.lines.items():
            if root + path not in images:
                for file in files:
                    if file.fault == LINK_TO_FOLDER and (root + path).startswith(f"{file.path}/"):
                        raise fault(self.name, line, f"{file.path!r} is a {file.fault}; put the folder itself there")
                expected = f"expected a file of {', '.join(IMAGE_SUFFIXES)}"
                remedy = "if the images lie elsewhere, give --source=<their folder> --labels_csv=<this table>"
                raise fault(self.name, line, f"there is no image {path!r} in {source}/{root}; {expected}; {remedy}")
        return self._replace(root=root)


Layout = ClassFolders | Table


def find(files: Files, source: Source, name: str, class_names: Mapping[str, int], columns: Columns) -> Layout:
    """The topmost class folders of a source, else the table that is its only CSV.

    Where there are no folders of the default names, those whose names mean the same count: `healthy`, `infected`.
    Raises InputError, which calls the source `name`, if there is neither, or only some of the folders are splits.
    """
    names = class_names
    folders = set[str]()
    for file in files:
        folder = "" if file.fault or is_hidden(file.path) else file.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    parents = _parents(folders, names)
    if not parents and tuple(names) == DEFAULT_CLASS_FOLDERS:
        base_names = {path.rpartition("/")[2] for path in folders}
        alike = sorted((guess, base) for base in base_names if (guess := guess_label(base)) is not None)
        if [label for label, _ in alike] == list(range(len(LABELS))):
            names = {base: label for label, base in alike}
            parents = _parents(folders, names)
    if parents:
        root = posixpath.join(posixpath.commonpath(parents), "")
        below = tuple(parent.removeprefix(root) for parent in parents)
        outermost = {folder.partition("/")[0] for folder in below}
        splits = {folder for folder in outermost if folder.casefold() in SPLIT_NAMES}
        if splits and (others := sorted(outermost - splits)):
            what = f"class folders in the split {min(splits)}/ and in {'/, '.join(others)}/"
            raise InputError(f"{name} has {what}; expected {', '.join(SPLIT_NAMES)} alone; rename the others to these")
        return ClassFolders(root, names, below, bool(splits))
    tables = [file for file in files if file.path.lower().endswith(".csv") and not is_hidden(file.path)]
    if len(tables) > 1:
        paths = ", ".join(sorted(printable_path(file.path) for file in tables)[:3])
        raise InputError(f"{name} has no class folders and {len(tables)} CSVs ({paths}); give one by --labels_csv")
    if tables and not tables[0].fault:
        path, num_bytes, zip_entry, _, modified_ns = tables[0]
        content = source.read("", Cell(path, 0, "", num_bytes, zip_entry, modified_ns))
        table = read_table(f"{name}: {printable_path(path)}", content, columns, class_names)
        return table.located(files, source.path, path[: path.rfind("/") + 1])
    names_of_folders = Counter(path.split("/")[-2] for path in _images(files) if "/" in path)
    expected = " and ".join(f"{class_name}/" for class_name in class_names)
    raise InputError(
        f"{name} has no class folders ({_content(files, folders)}); expected {expected} side by side, or one CSV with "
        "the label of each file; name a CSV by --labels_csv, other folders by "
        f"{suggest_flag('class_folders', names_of_folders) or '--class_folders'}"
    )


def _parents(folders: set[str], names: Mapping[str, int]) -> list[str]:
    """Folders that hold class folders, all at one depth: the topmost at which one holds both, else any holds one."""
    parents: list[set[str]] = [set() for _ in LABELS]
    for name, label in names.items():
        of_name = {path[: -len(name)] for path in folders if path == name or path.endswith(f"/{name}")}
        if not of_name:
            return []
        parents[label] |= of_name
    of_any = set.union(*parents)
    depth = min(parent.count("/") for parent in set.intersection(*parents) or of_any)
    return sorted(parent for parent in of_any if parent.count("/") == depth)


def _images(files: Files) -> Iterator[str]:
    return (path for path in files.paths if path.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(path))


def _content(files: Files, folders: set[str]) -> str:
    """What most likely explains why a source has no class folders."""
    if rejected := sorted((file.path, file.fault) for file in files if file.fault):
        path, reason = rejected[0]
        return f"{len(rejected)} files are rejected, such as {printable_path(path)}: {reason}"
    names = sorted(folders or files.paths)
    return f"it holds {', '.join(map(printable_path, names[:3]))}{', …' if len(names) > 3 else ''}"


def read_table(name: str, content: bytes, columns: Columns, class_names: Mapping[str, int]) -> Table:
    """Reads the bytes of a table, which errors call `name`; raises InputError with the number of the line.

    `class_names` are the values of the label's column -> label, upper and lower case alike; the default stands for any
    whose meaning is clear, such as `healthy` and `infected`.
    """
    (_, header), *rows = read_rows(name, content)
    indices = _find_columns(header, columns, name)
    present = Counter(row[indices["label"]].strip() for _, row in rows)
    names = class_names
    if tuple(names) == DEFAULT_CLASS_FOLDERS:
        names = {next((v for v in present if guess_label(v) == label), name): label for name, label in names.items()}
    label_of = {value.casefold(): label for value, label in names.items()}
    placements: dict[str, Placement] = {}
    lines: dict[str, int] = {}
    for line, row in rows:
        values = {what: row[index].strip() for what, index in indices.items()}
        path, label = normal_path(values["file"]), label_of.get(values["label"].casefold())
        if not path:
            raise fault(name, line, f"the file is {values['file'][:80]!r}; expected a path within the source")
        if path in lines:
            raise fault(name, line, f"{path!r} is in line {lines[path]} already; expected each file once")
        if label is None:
            what = f"the {header[indices['label']]} is {values['label'][:40]!r}; expected {' or '.join(names)}"
            known = {label_of.get(value.casefold()) for value in present}
            # Where both labels are known, another value may be a typo: nothing to guess what it means.
            flag = "" if known >= set(range(len(LABELS))) else suggest_flag("class_names", present)
            remedy = f"correct it, or give another --label_column or {flag or '--class_names'}"
            raise fault(name, line, f"{what}; {remedy}")
        split = None
        if "split" in values and (split := SPLIT_NAMES.get(values["split"].casefold())) is None:
            what = f"the {header[indices['split']]} is {values['split'][:40]!r}; expected {', '.join(SPLIT_NAMES)}"
            raise fault(name, line, f"{what}; rename it in the table, or ignore the column by --split_column=")
        patient_id = unicodedata.normalize("NFC", values.get("patient", ""))
        placements[path], lines[path] = Placement(label, patient_id, split), line
    labels = {placement.label for placement in placements.values()}
    if missing := [name for label, name in enumerate(LABELS) if label not in labels]:
        raise InputError(f"{name} has no {missing[0]} cell; expected cells of both labels; see --class_names")
    return Table(name, placements, lines, names, {what: header[index] for what, index in indices.items()})


def _find_columns(header: Sequence[str], columns: Columns, name: str) -> dict[str, int]:
    plain = ["_".join(column.casefold().replace("-", " ").split()) for column in header]
    indices, absent = {}, {}
    for what, likely in COLUMNS.items():
        given = columns.get(what)
        wanted, names = (likely, plain) if given is None else ((given,), header)
        if present := [column for column in wanted if column in names and column]:
            if list(names).count(present[0]) > 1:
                raise fault(name, 1, f"the header has the column {present[0]!r} more than once; rename the others")
            indices[what] = list(names).index(present[0])
        elif given or what in ("file", "label"):
            absent[what] = given or " or ".join(likely[:2])
    if absent:
        to_give = " ".join(f"--{what}_column=COLUMN" for what in absent)
        lacks = f"the header is {','.join(header)[:80]!r}, without a column {', '.join(absent.values())}"
        raise fault(name, 1, f"{lacks}; give {to_give}")
    return indices
