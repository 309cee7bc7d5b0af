"""Lists of labels by file name: CSV in UTF-8, one cell per line. Here those of `filename` and one more column."""

import csv
import hashlib
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from etils import epath

from pipeline import storage
from pipeline.errors import InputError

_EXCEL = (b"PK\3\4", b"\xd0\xcf\x11\xe0")  # how .xlsx and .xls begin
_REMEDY = "save the table in Excel as 'CSV UTF-8 (comma delimited)'"


def fault(name: str, line: int, reason: str) -> InputError:
    """The error for a line of a list."""
    return InputError(f"{name}: line {line}: {reason}")


class LabelList(NamedTuple):
    """A list that has been read."""

    name: str  # in errors, such as `--label_overrides=list.csv`
    sha256: str  # of the file's bytes
    labels: dict[str, str]  # file name -> value of the second column, in the order of the file
    lines: dict[str, int]  # file name -> number of its line, from 1

    def check_known(self, filenames: Collection[str]) -> None:
        """Raises InputError with the line of the first cell of the list that is not among `filenames`."""
        for filename, line in self.lines.items():
            if filename not in filenames:
                expected = f"expected file names as in the data set, such as {min(filenames, default='')!r}"
                raise fault(self.name, line, f"there is no cell {filename!r}; {expected}")


def load(name: str, path: epath.Path) -> bytes:
    """A list's bytes; raises InputError if it cannot be read."""
    try:
        return storage.read_file(path)
    except (OSError, ValueError) as error:  # ValueError: too large for a list
        raise InputError(f"{name} cannot be read ({error}); expected a CSV file") from error


def read_rows(name: str, content: bytes) -> list[tuple[int, list[str]]]:
    """Number, from 1, and fields of each line, the header first and empty lines left out.

    Fields are separated by what is most frequent in the header: commas, semicolons or tabs. Raises InputError with
    the number of the line, if the content is no CSV in UTF-8 or a line has not as many fields as the header.
    """
    if content.startswith(_EXCEL):
        raise fault(name, 1, f"this is an Excel workbook; {_REMEDY}")
    try:
        lines = re.sub(r"^sep=.(?=\r?\n)", "", content.decode("utf-8-sig")).splitlines()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1  # `object` is `content` without a byte-order mark
        raise fault(name, line, f"byte {error.object[error.start]:#04x} is not UTF-8; {_REMEDY}") from error
    reader = csv.reader(lines, delimiter=max(",;\t", key=next(filter(None, lines), "").count))
    try:
        rows = [(reader.line_num, row) for row in reader if any(row)] or [(1, [])]
    except csv.Error as error:  # a field of more than 131,072 characters, such as all that follows an open quote
        raise fault(name, reader.line_num, f"{error}; expected a CSV file with matching quotes") from error
    first_line, header = rows[0]
    for line, row in rows:
        if len(row) != len(header):
            raise fault(name, line, f"it has {len(row)} columns; expected {len(header)} as in line {first_line}")
    return rows


def read(flag: str, path: str, column: str, values: Sequence[str]) -> LabelList:
    """Reads a list whose `column` has one of `values` in each line; raises InputError with the number of a bad line."""
    name = f"--{flag}={path}"
    content = load(name, storage.open_place(path, f"--{flag}"))
    (_, header), *rows = read_rows(name, content)
    if header != ["filename", column]:
        raise fault(name, 1, f"the header is {','.join(header)[:80]!r}; expected 'filename,{column}'")
    labels: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, (filename, label) in rows:
        if label not in values:
            raise fault(name, line, f"the label is {label[:40]!r}; expected {', '.join(values)}")
        if filename in lines:
            raise fault(name, line, f"{filename!r} is in line {lines[filename]} already; expected each cell once")
        labels[filename], lines[filename] = label, line
    return LabelList(name, hashlib.sha256(content).hexdigest(), labels, lines)
