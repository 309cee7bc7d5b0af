"""Sources that tell a cell's label by the folder that it lies in: `[train/][P1/]Uninfected/…`."""

import posixpath
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.cells import DEFAULT_CLASS_FOLDERS, LABELS, SPLIT_NAMES, guess_label
from pipeline.errors import InputError
from pipeline.source.files import Files, printable_path

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


class Placement(NamedTuple):
    """What a source tells of a file, besides its name."""

    label: int  # index into `cells.LABELS`
    patient_id: str = ""  # "" if it tells none
    split: int | None = None  # index into `cells.SPLITS`
    fault: str | None = None  # why it must not be read


class ClassFolders(NamedTuple):
    """Folders of cells, one per class, or one per class in each of several folders: splits, patients or both."""

    root: str  # path of the folder that holds them all, from the source's top, "" or ending with `/`
    names: tuple[str, ...]  # of a label's folders, in label order
    folders: tuple[str, ...]  # that hold class folders, from the root on, "" or ending with `/`
    has_splits: bool  # whether the outermost of these are splits
    outside: str = "outside of the class folders"  # what files elsewhere are
    patient_column: str | None = None

    def place(self, filename: str) -> Placement | None:
        """What the path of a file from the root on tells; None for a file outside of the class folders."""
        depth = self.folders[0].count("/")
        *around, folder, below = [*filename.split("/", depth + 1), ""][: depth + 2]
        if len(around) < depth or folder not in self.names:
            return None
        split = SPLIT_NAMES[around[0].casefold()] if self.has_splits else None
        is_nested = not set(self.names).isdisjoint(below.split("/")[:-1])
        fault = "lies in a class folder within a class folder" if is_nested else None
        return Placement(self.names.index(folder), "/".join(around[self.has_splits :]), split, fault)

    def describe(self, label: int) -> str:
        """Where the cells of a label are."""
        name = f"{self.names[label]}/"
        if len(self.folders) == 1:
            return self.root + name
        return f"{name} in {self.root}{self.folders[0]} and {len(self.folders) - 1} more folders"


def find(folders: set[str], names: Sequence[str]) -> ClassFolders | None:
    """Finds class folders among a source's folders, the topmost ones; None if there are none.

    Where there are none of the default names, folders whose names mean the same count: `healthy`, `infected`.
    """
    names = tuple(names)
    parents = _parents(folders, names)
    if not parents and names == DEFAULT_CLASS_FOLDERS:
        base_names = {path.rpartition("/")[2] for path in folders}
        alike = [[name for name in base_names if guess_label(name) == label] for label in range(len(LABELS))]
        if all(len(of_label) == 1 for of_label in alike):
            names = tuple(name for (name,) in alike)
            parents = _parents(folders, names)
    if not parents:
        return None
    root = posixpath.join(posixpath.commonpath(parents), "")
    below = tuple(parent.removeprefix(root) for parent in parents)
    has_splits = all(folder.partition("/")[0].casefold() in SPLIT_NAMES for folder in below)
    return ClassFolders(root, names, below, has_splits)


def not_found(files: Files, folders: set[str], names: Sequence[str], source_name: str) -> InputError:
    """The error for a source without class folders, with what most likely explains it."""
    present = f"its folders are {', '.join(map(printable_path, sorted(folders)[:3]))}{', …' * (len(folders) > 3)}"
    if rejected := [file for file in files if file.fault]:
        first = min(rejected, key=lambda file: file.path)
        present = f"{len(rejected)} files are rejected, such as {printable_path(first.path)}: {first.fault}"
    elif archives := sorted(path for path in files.paths if path.lower().endswith(_ARCHIVE_SUFFIXES)):
        present = f"it holds {printable_path(archives[0])}: unpack that first"
    elif not folders:
        present = f"it has no folders, and {len(files)} files"
    return InputError(
        f"{source_name} has no class folders ({present}); expected {' and '.join(f'{name}/' for name in names)} side "
        "by side, or one CSV with the label of each file; name other folders by --class_folders, a CSV by --labels_csv"
    )


def _parents(folders: set[str], names: Sequence[str]) -> list[str]:
    """Folders that hold class folders, all at one depth: the topmost at which one holds both, else any holds one."""
    parents = [{path[: -len(name)] for path in folders if path == name or path.endswith(f"/{name}")} for name in names]
    if not all(parents):
        return []
    of_any = set.union(*parents)
    depth = min(parent.count("/") for parent in set.intersection(*parents) or of_any)
    return sorted(parent for parent in of_any if parent.count("/") == depth)
