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


def find(folders: set[str], names: Sequence[str], source_name: str) -> ClassFolders | None:
    """Finds class folders among a source's folders, the topmost ones; None if there are none.

    Where there are none of the default names, folders whose names mean the same count: `healthy`, `infected`.

    Raises:
      InputError: if some of the folders around them are splits and others are not.
    """
    names = tuple(names)
    if not (parents := _parents(folders, names)) and names == DEFAULT_CLASS_FOLDERS:
        alike = [
            {path.rpartition("/")[2] for path in folders if guess_label(path.rpartition("/")[2]) == label}
            for label in range(len(LABELS))
        ]
        if all(len(of_label) == 1 for of_label in alike):
            names = tuple(min(of_label) for of_label in alike)
            parents = _parents(folders, names)
    if not parents:
        return None
    root = posixpath.join(posixpath.commonpath(parents), "")
    below = tuple(parent.removeprefix(root) for parent in parents)
    outermost = {folder.partition("/")[0] for folder in below}
    no_splits = {folder for folder in outermost if folder.casefold() not in SPLIT_NAMES}
    if no_splits and no_splits < outermost:
        raise InputError(
            f"{source_name} has class folders in the split {min(outermost - no_splits)}/ and in {min(no_splits)}/; "
            f"expected them in {', '.join(SPLIT_NAMES)} alone; move the others out of the source"
        )
    return ClassFolders(root, names, below, not no_splits)


def not_found(files: Files, folders: set[str], names: Sequence[str], source_name: str) -> InputError:
    """The error for a source without class folders."""
    present = [name for name in names if any(path == name or path.endswith(f"/{name}") for path in folders)]
    fault = f"has {f'a folder {present[0]}/ only' if present else 'no class folders'} ({_content(files, folders)})"
    return InputError(
        f"{source_name} {fault}; expected {' and '.join(f'{name}/' for name in names)} side by side, or a CSV with the "
        "label of each file; name other folders by --class_folders"
    )


def _content(files: Files, folders: set[str]) -> str:
    """What most likely explains why a source has no class folders."""
    if rejected := [file for file in files if file.fault]:
        first = min(rejected, key=lambda file: file.path)
        return f"{len(rejected)} files are rejected, such as {printable_path(first.path)}: {first.fault}"
    if archives := sorted(file.path for file in files if file.path.lower().endswith(_ARCHIVE_SUFFIXES)):
        return f"it holds {printable_path(archives[0])}: unpack that first"
    if folders:
        names = map(printable_path, sorted(folders)[:3])
        return f"its folders are {', '.join(names)}{', …' if len(folders) > 3 else ''}"
    return f"it has no folders, and {len(files)} files"


def _parents(folders: set[str], names: Sequence[str]) -> list[str]:
    """Folders that hold class folders, all at one depth: the topmost that holds both, else all that hold one."""
    parents = [{path[: -len(name)] for path in folders if path == name or path.endswith(f"/{name}")} for name in names]
    complete = set.intersection(*parents)
    if not all(parents):
        return []
    depth = min(parent.count("/") for parent in complete or set.union(*parents))
    topmost = [parent for parent in complete if parent.count("/") == depth]
    if len(topmost) == 1:
        return topmost
    return sorted(parent for parent in set.union(*parents) if parent.count("/") == depth)
