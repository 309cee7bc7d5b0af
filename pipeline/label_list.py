"""Lists of labels by file name, as CSV: `filename` and one more column, one cell per line, UTF-8."""

import csv
import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pipeline import storage
from pipeline.errors import InputError


class LabelList(NamedTuple):
    """A list that has been read.

    Attributes:
      name: what errors call it, such as `--label_overrides=list.csv`.
      sha256: of the file's bytes.
      labels: file name -> value of the second column, in the order of the file.
      lines: file name -> number of its line, from 1.
    """

    name: str
    sha256: str
    labels: dict[str, str]
    lines: dict[str, int]

    def check_known(self, filenames: Collection[str]) -> None:
        """Raises InputError with the line of the first cell of the list that is not among `filenames`."""
        for filename, line in self.lines.items():
            if filename not in filenames:
                raise InputError(
                    f"{self.name}: line {line}: there is no cell {filename!r}; expected file names with their class "
                    f"folder, such as {min(filenames, default='')!r}"
                )


def read(flag: str, path: str, column: str, values: Sequence[str]) -> LabelList:
    """Reads a list.

    Args:
      flag, path: of the file, which may lie in an object store.
      column: header of the second column.
      values: what may stand in it.

    Raises:
      InputError: with the number of the line, if the file is no such list.
    """
    name = f"--{flag}={path}"

    def fault(line: int, reason: str) -> InputError:
        return InputError(f"{name}: line {line}: {reason}")

    try:
        content = storage.read_file(storage.open_place(path, f"--{flag}"))
    except (OSError, ValueError) as error:  # ValueError: too large for a list
        raise InputError(f"{name} cannot be read ({error}); expected a CSV file") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1  # `object` is `content` without a byte-order mark
        raise fault(line, f"byte {error.object[error.start]:#04x} is not UTF-8; save the list as UTF-8") from error
    reader = csv.reader(text.splitlines())
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:  # a field of more than 131,072 characters, such as all that follows an open quote
        raise fault(reader.line_num, f"{error}; expected a CSV file with matching quotes") from error
    header = rows[0][1] if rows else []
    if header != ["filename", column]:
        raise fault(1, f"the header is {','.join(header)[:80]!r}; expected 'filename,{column}'")
    labels: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in rows[1:]:
        if not row:
            continue
        if len(row) != len(header):
            raise fault(line, f"it has {len(row)} columns; expected a file name and a label")
        filename, label = row
        if label not in values:
            raise fault(line, f"the label is {label[:40]!r}; expected {', '.join(values)}")
        if filename in lines:
            raise fault(line, f"{filename!r} is in line {lines[filename]} already; expected each cell once")
        labels[filename], lines[filename] = label, line
    return LabelList(name, hashlib.sha256(content).hexdigest(), labels, lines)
