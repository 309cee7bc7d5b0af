"""Cells, their labels and patients, and how the source's names tell these."""

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.errors import InputError

DATASET_NAME = "tfds_malaria"
LABELS = ("uninfected", "parasitized")  # the index is the label; the public TFDS `malaria` has the other order
DEFAULT_CLASS_FOLDERS = ("Uninfected", "Parasitized")  # of the NLM's archive, in label order
SPLITS = ("train", "validation", "test")
# What folders around the class folders, or a table, call the splits, as an index into `SPLITS`.
SPLIT_NAMES = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
# The NLM's file names begin with the patient: `C33P1thinF_IMG_20150619_114756a_cell_179.png` is C33's.
DEFAULT_PATIENT_REGEX = r"^(C\d+)"
BACKGROUNDS = ("keep", "black")  # what may surround a stored cell, see `source.decode.apply_background`
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # of files that count as images

_MAX_CLASSES = 8  # more names of folders, or values in a table, are none of classes
_NOT, _INFECTED = r"\b(un|non?|not|nicht|sin|sans)", "(infec|infek|infet|infiz|parasit)"  # other languages, too
_MEANS_UNINFECTED = re.compile(rf"{_NOT}{_INFECTED}|\b(healthy|normal|negativ|gesund|sain|sano)", re.IGNORECASE)
_MEANS_PARASITIZED = re.compile(rf"\b({_INFECTED}|positiv)", re.IGNORECASE)


class ZipEntry(NamedTuple):
    """Where a zip archive holds a file, as its directory says; with it a worker needs no directory."""

    offset: int  # of the file's local header, in bytes
    compressed_size: int  # in bytes
    method: int  # `zipfile.ZIP_STORED` or `zipfile.ZIP_DEFLATED`
    crc: int  # CRC-32 of the uncompressed bytes
    name_crc: int  # CRC-32 of the name, which the file's local header has, too


class Cell(NamedTuple):
    """One cell crop of the source, not yet read."""

    filename: str  # path from the class folder, or the folder around class folders or in a table, on; with `/`
    label: int  # index into `LABELS`
    patient_id: str  # "" if the name tells none
    num_bytes: int  # of the image file
    zip_entry: ZipEntry | None = None  # None in a folder
    modified_ns: int | None = None  # of the file or the archive, in ns since 1970; None in an object store


class Rejected(NamedTuple):
    """A file that the data set leaves out, and why."""

    filename: str
    reason: str


def compile_patient_regex(pattern: str) -> re.Pattern[str]:
    """Compiles `--patient_regex`; raises InputError if it is no regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        expected = f"expected one whose first group is the patient, such as {DEFAULT_PATIENT_REGEX!r}"
        raise InputError(f"--patient_regex={pattern!r} is not a regular expression ({error}); {expected}") from error


def parse_patient(filename: str, patient_regex: re.Pattern[str]) -> str:
    """The patient in a base name, else in the path: the first group, else the whole match, "" without a match."""
    # Composed, since macOS and Linux may write the name of one patient in different bytes.
    path = unicodedata.normalize("NFC", filename)
    match = patient_regex.search(path.rpartition("/")[2]) or patient_regex.search(path)
    if match is None:
        return ""
    return (match.group(1) if patient_regex.groups else match.group()) or ""


def guess_label(name: str) -> int | None:
    """The label that a class folder's name or a table's value means, such as `healthy`; None if that is not clear."""
    words = re.sub(r"[\W_]+", " ", name)
    words = re.sub(f"{_NOT} ", r"\1", words, flags=re.IGNORECASE)
    return 0 if _MEANS_UNINFECTED.search(words) else 1 if _MEANS_PARASITIZED.search(words) else None


def patient_noun(settings: Mapping[str, Any]) -> str:
    """What the patients of a data set with these settings are, by the table's column that tells them: `slide`."""
    column = settings.get("patient_column", "patient").lower()
    return re.sub(r"(^|[\W_]+|(?<=patient))(id|name|number)$", "", column) or "patient"


def parse_class_folders(values: Sequence[str]) -> dict[str, int]:
    """Name of each class folder -> label, sorted by label and name, from `--class_folders`; raises InputError.

    The values are one name per label, in label order, or pairs such as `parasitized=ring`, several for a label or not.
    """
    pairs = [value.partition("=")[::2] for value in values]
    if not any(name for _, name in pairs):
        pairs = list(zip(LABELS, values, strict=False))
    names = {name: LABELS.index(label) for label, name in pairs if name and "/" not in name and label in LABELS}
    if len(names) != len(values) or len(set(names.values())) != len(LABELS):
        raise InputError(
            f"--class_folders or --class_names is {','.join(values)}; expected one bare name for each of "
            f"{','.join(LABELS)}, or several, such as uninfected=healthy,parasitized=ring,parasitized=trophozoite"
        )
    return dict(sorted(names.items(), key=lambda item: item[::-1]))


def class_folder_values(names: Mapping[str, int]) -> tuple[str, ...]:
    """The values of `--class_folders` for what `parse_class_folders` returns, as the manifest has them."""
    if len(names) == len(LABELS):
        return tuple(names)
    return tuple(f"{LABELS[label]}={name}" for name, label in names.items())


def suggest_flag(flag: str, counts: Mapping[str, int]) -> str:
    """What to type for classes with these names, by how many cells each has; "" if they are too many or too few.

    Names of one cell, or of less than 1 %, may be typos.
    """
    names = [name for name in counts if name and counts[name] > max(1, sum(counts.values()) / 100)]
    order = sorted(names, key=lambda name: ((0, None, 1).index(guess_label(name)), -counts[name], name))
    if not len(LABELS) <= len(order) <= _MAX_CLASSES:
        return ""
    pairs = [f"{LABELS[name != order[0] and guess_label(name) != 0]}={name}" for name in order]
    return f"{shlex.quote(f'--{flag}=' + ','.join(pairs))} if {order[0]} means uninfected"
