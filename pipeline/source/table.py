"""Sources that tell what their cells are by a table: CSV, one cell per line, with columns for file and label."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.cells import DEFAULT_CLASS_FOLDERS, IMAGE_SUFFIXES, LABELS, SPLIT_NAMES, Cell, guess_label
from pipeline.errors import InputError
from pipeline.label_list import fault, read_rows
from pipeline.source.archive import LINK_TO_FOLDER, Source, is_hidden, normal_path
from pipeline.source.class_folders import Placement
from pipeline.source.files import Files, printable_path

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "filename", "file_name", "path", "file_path", "filepath", "image", "image_path", "image_name"),
    "label": ("label", "class", "class_name", "diagnosis", "target"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "slide", "slide_id"),
    "split": ("split", "subset"),
}
"""What a table tells -> names that its column may have, unless a flag names it; without file and label it is none."""


class Table(NamedTuple):
    """A table that has been read."""

    name: str  # what errors call it, such as `--labels_csv=labels.csv`
    rows: dict[str, Placement]  # by path, relative to the root
    lines: dict[str, int]  # number of each path's line, from 1
    names: tuple[str, ...]  # values of the label's column, in label order
    columns: dict[str, str]  # of `COLUMNS`, those that it has -> name
    root: str = ""  # path of the folder that its paths are relative to, from the source's top, "" or ending with `/`
    folders: tuple[str, ...] = ("",)
    outside: str = "not in the table"  # what files are that it does not name

    @property
    def patient_column(self) -> str | None:
        """Name of the column that tells the patients."""
        return self.columns.get("patient")

    @property
    def has_splits(self) -> bool:
        """Whether it has a column for the split."""
        return "split" in self.columns

    def place(self, filename: str) -> Placement | None:
        """What the table tells of a file; None if it does not name it."""
        return self.rows.get(filename)

    def describe(self, label: int) -> str:
        """Where the cells of a label are."""
        return f"{self.columns['label']}={self.names[label]}"

    def located(self, files: Files, folder: str) -> "Table":
        """The table with its root: the folder that it lies in, else one from which its first path leads on.

        Raises InputError, with the number of the line, if a file is not there or is no image by its name.
        """
        first = f"/{next(iter(self.rows))}"
        roots = [path[: 1 - len(first)] for path in files.paths if f"/{path}".endswith(first)]
        root = folder if folder in roots else min(roots, key=lambda root: (len(root), root), default=folder)
        images = {path for path in files.paths if path.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(path)}
        for path, line in self.lines.items():
            if root + path not in images:
                links = (file.path for file in files if file.fault == LINK_TO_FOLDER)
                if link := next((link for link in links if (root + path).startswith(f"{link}/")), None):
                    raise fault(self.name, line, f"{link!r} is a {LINK_TO_FOLDER}; put the folder itself there")
                where = f"the source's folder {root}" if root else "the source"
                suffixes = ", ".join(IMAGE_SUFFIXES)
                raise fault(self.name, line, f"there is no image {path!r} in {where}; expected a file of {suffixes}")
        return self._replace(root=root)


def read(name: str, content: bytes, columns: Mapping[str, str | None], class_names: Sequence[str]) -> Table:
    """Reads a table.

    Args:
      name, content: what errors call it, and its bytes.
      columns: names of columns as in `COLUMNS`; None or without an entry: one that is likely; "": none.
      class_names: values of the label's column, in label order, upper and lower case alike; the default stands for
        any whose meaning is clear, such as `healthy` and `infected`.

    Raises:
      InputError: with the number of the line.
    """
    (_, header), *rows = read_rows(name, content)
    indices = _find_columns(header, columns, name)
    names = tuple(class_names)
    if names == DEFAULT_CLASS_FOLDERS:
        present = [row[indices["label"]].strip() for _, row in rows]
        names = tuple(next((v for v in present if guess_label(v) == label), name) for label, name in enumerate(names))
    label_of = {value.casefold(): label for label, value in enumerate(names)}
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
            raise fault(name, line, f"{what}; correct it, or give the names by --class_names or another --label_column")
        split = None
        if "split" in values and (split := SPLIT_NAMES.get(values["split"].casefold())) is None:
            split_names = f"{', '.join(SPLIT_NAMES)}; --split_column= ignores the column"
            raise fault(name, line, f"the split is {values['split'][:40]!r}; expected {split_names}")
        patient_id = unicodedata.normalize("NFC", values.get("patient", ""))
        placements[path], lines[path] = Placement(label, patient_id, split), line
    labels = {placement.label for placement in placements.values()}
    if missing := [name for label, name in enumerate(LABELS) if label not in labels]:
        raise InputError(f"{name} has no {missing[0]} cell; expected cells of both labels; see --class_names")
    return Table(name, placements, lines, names, {what: header[index] for what, index in indices.items()})


def find_table(
    files: Files, source: Source, source_name: str, columns: Mapping[str, str | None], class_names: Sequence[str]
) -> Table | None:
    """Reads a source's own table, its only CSV; None without one or with several."""
    indices = [i for i, path in enumerate(files.paths) if path.lower().endswith(".csv") and not is_hidden(path)]
    if len(indices) != 1 or files[indices[0]].fault:
        return None
    path, num_bytes, zip_entry, _, modified_ns = files[indices[0]]
    content = source.read("", Cell(path, 0, "", num_bytes, zip_entry, modified_ns))
    table = read(f"{source_name}: {printable_path(path)}", content, columns, class_names)
    return table.located(files, path[: path.rfind("/") + 1])


def _find_columns(header: Sequence[str], columns: Mapping[str, str | None], name: str) -> dict[str, int]:
    plain = ["_".join(column.casefold().replace("-", " ").split()) for column in header]
    indices = {}
    for what, likely in COLUMNS.items():
        given = columns.get(what)
        wanted, names = (likely, plain) if given is None else ((given,), header)
        if present := [column for column in wanted if column in names and column]:
            indices[what] = list(names).index(present[0])
        elif given or what in ("file", "label"):
            lacks = f"the header is {','.join(header)[:80]!r}, without a column {given or ' or '.join(likely[:2])}"
            raise fault(name, 1, f"{lacks}; name the {what}'s column by --{what}_column")
    return indices
