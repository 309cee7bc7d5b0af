"""Lays out a source's cells as a folder and repeats them under new names, for when the full set is not at hand.

python -m benchmarks.repeated_cells --source=path/to/cell_images.zip --output_dir=cells --num_cells=110000
"""

import os
import sys
from pathlib import Path

from absl import flags

from benchmarks.harness import measurement
from pipeline import synthetic
from pipeline.cells import DEFAULT_CLASS_FOLDERS, DEFAULT_PATIENT_REGEX, compile_patient_regex, parse_class_folders
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.source.archive import open_source
from pipeline.source.listing import list_cells


def lay_out(source: str, folder: Path, num_cells: int) -> int:
    """Writes a source's cells into a new folder and repeats them, as links, under the names of new patients.

    Returns how many cells there are: the multiple of the source's number that is next to `num_cells`.
    """
    patient_regex = compile_patient_regex(DEFAULT_PATIENT_REGEX)
    opened, names = open_source(source), parse_class_folders(DEFAULT_CLASS_FOLDERS)
    cells = list_cells(opened, f"--source={source}", names, patient_regex).cells
    copies = max(1, round(num_cells / len(cells)))
    for cell in cells:
        path = folder / cell.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(opened.read(cells.root, cell))
        for copy in range(1, copies):
            patient = f"{cell.patient_id}{copy:03d}"
            os.link(path, path.with_name(path.name.replace(cell.patient_id, patient, 1)))
    return copies * len(cells)


def prepare_synthetic(folder: Path, num_cells: int, image_size_px: int) -> str:
    """Prepares about so many synthetic cells as data set `by_patient` within a folder; returns the data set's root."""
    synthetic.write(folder / "cells.zip", num_patients=16, cells_per_patient=25, seed=0)
    lay_out(str(folder / "cells.zip"), folder / "cells", num_cells)
    job = [f"--source={folder}/cells", f"--data_dir={folder}/data", f"--image_size_px={image_size_px}"]
    measurement.measure("preprocess", [sys.executable, "-m", "pipeline.preprocess", *job])
    return f"{folder}/data"


def main() -> None:
    """Lays out the cells."""
    values = flags.FLAGS
    folder = Path(values.output_dir)
    if folder.exists():
        raise InputError(f"--output_dir={folder} exists; expected a new folder: remove it or name another")
    print(f"{lay_out(values.source, folder, values.num_cells):,} cells in {folder}")


if __name__ == "__main__":  # preprocess_throughput, which imports this, has flags of the same names
    flags.DEFINE_string("source", None, "Folder or zip of the NLM's cells.", required=True)
    flags.DEFINE_string("output_dir", None, "New folder for the cells.", required=True)
    flags.DEFINE_integer("num_cells", 27_000, "About how many cells to write.", lower_bound=1)
    run(main)
