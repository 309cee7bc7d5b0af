"""Times the three input modes and the loaders that people use, each run in a process of its own, in turn.

    python -m benchmarks.repeated_cells --source=path/to/cell_images.zip --output_dir=cells --num_cells=110000
    python -m pipeline.preprocess --source=cells --data_dir=data
    make peers
    python -m benchmarks.input_throughput --data_dir=data --output=input.json --peers=all

Writes the file, a bar chart next to it, and prints the table. A data set of 110,000 cells takes 5 GB, the other
libraries' formats of 27,000 of them 6 GB in --work_dir. See benchmarks/README.md for what is in each number.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.harness import input_cases, measurement
from benchmarks.harness.clock import Content, Work, content_of, total_of
from benchmarks.harness.input_cases import BASELINES_HERE, LIBRARIES, MODES, Case
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.progress import progress_bar
from pipeline.records.manifest import Manifest
from trainers import tf_import
from trainers.data import DataSet, open_data_set

_CELLS_AT_A_TIME = 1024
_RATIOS = (  # name, then (reader, figure) over (reader, figure), at the smallest batch size
    ("resident to FFCV, steady", ("resident", "steady"), ("ffcv", "steady")),
    ("resident to FFCV, first epoch", ("resident", "first"), ("ffcv", "first")),
    ("resident, steady, to FFCV's first epoch", ("resident", "steady"), ("ffcv", "first")),
    ("resident to DALI, steady", ("resident", "steady"), ("dali", "steady")),
    ("resident to Grain, steady", ("resident", "steady"), ("grain", "steady")),
    ("resident to WebDataset, steady", ("resident", "steady"), ("webdataset", "steady")),
    ("mapped to DALI, steady", ("mapped", "steady"), ("dali", "steady")),
    ("mapped to DALI, first epoch", ("mapped", "first"), ("dali", "first")),
    ("streaming to TFRecordDataset → map → batch, steady", ("streaming", "steady"), ("tf_data", "steady")),
)


def leading_shards(contents: Manifest, num_cells: int) -> tuple[str, int, list[str]]:
    """The fewest leading shards of the splits, in their order, that hold at least a number of cells, or all.

    Returns:
      their split expression, the number of cells in them, and their file names.
    """
    parts, files, total = [], [], 0
    for name, split in contents["splits"].items():
        taken = 0
        for shard in split["shards"]:
            if total >= num_cells:
                break
            taken, total = taken + 1, total + shard["num_records"]
            files.append(shard["file"])
        if taken:
            parts.append(name if taken == len(split["shards"]) else f"{name}[:{taken}shard]")
    return "+".join(parts), total, files


def lay_out(data_set: DataSet, num_cells: int, arrays: Path | None) -> Work:
    """Reads the leading cells of a data set, at least that many, and writes them as arrays if a new folder is given.

    Returns:
      the work on these cells, without a reader.
    """
    tf_import.import_tensorflow()

    from trainers.input_pipeline import batching

    expression, total, files = leading_shards(data_set.manifest, num_cells)
    split = data_set.open_split(expression)
    if arrays is not None:
        arrays.mkdir()
        shape = (total, split.image_size_px, split.image_size_px, 3)
        stored = np.lib.format.open_memmap(arrays / "images.npy", "w+", np.uint8, shape)
    contents: list[Content] = []
    labels: list[np.ndarray] = []
    for images, batch_labels, *_ in batching.evaluation_batches(split, _CELLS_AT_A_TIME).as_numpy_iterator():
        contents.append(content_of((images, batch_labels), with_crcs=True))
        if arrays is not None:
            stored[sum(map(len, labels)) :][: len(images)] = images
        labels.append(batch_labels)
    if arrays is not None:
        np.save(arrays / "labels.npy", np.concatenate(labels))
    shards = tuple(str(data_set.directory / file) for file in files)
    data_dir = str(data_set.directory.parents[2])
    return Work("", str(arrays), "", data_dir, data_set.config, expression, shards, total_of(contents))


def ratios(rows: Sequence[Mapping[str, Any]], main_size: int) -> dict[str, float]:
    """What is to be shown, as far as it was measured."""
    batch_size = min((row["batch_size"] for row in rows), default=0)
    smallest = [row for row in rows if row["batch_size"] == batch_size and row["images_per_second"]["median"]]
    figures = {}
    for row in smallest:
        if row["num_images"] == main_size:
            figures[row["reader"], "steady"] = row["images_per_second"]["median"]
            figures[row["reader"], "first"] = row["first_epoch"]["median"]
    measured = {
        name: figures[ours] / figures[theirs] for name, ours, theirs in _RATIOS if ours in figures and theirs in figures
    }
    for mode in MODES:
        rates = [row["images_per_second"]["median"] for row in smallest if row["reader"] == mode]
        if len(rates) > 1:
            measured[f"{mode}, slowest number of cells to fastest"] = min(rates) / max(rates)
    return {name: round(ratio, 3) for name, ratio in measured.items()}


def prepare(
    data_set: DataSet, sizes: Sequence[int], batch_sizes: Sequence[int], readers: Sequence[str], work_dir: Path
) -> tuple[list[Case], int]:
    """Lays out the cells and lets every reader write its format and show that it reads every byte.

    Returns:
      the cases, and the number of cells that all readers read.
    """
    values = flags.FLAGS
    main_size = leading_shards(data_set.manifest, values.num_cells)[1]
    works = {}
    for size in sorted({*sizes, values.num_cells}):
        total = leading_shards(data_set.manifest, size)[1]
        if total not in works:
            works[total] = lay_out(data_set, size, work_dir / "cells" if total == main_size else None)
    main_work = dataclasses.replace(works[main_size], epochs=values.epochs)
    launcher = values.launcher.split()
    cases = input_cases.plan(list(works.values()), main_work, readers, batch_sizes, launcher)
    with progress_bar(len(readers), "checking", "readers") as bar:
        for reader in readers:
            own_cases = [case for case in cases if case.work.reader == reader]
            for case in own_cases:
                case.work = dataclasses.replace(case.work, own=str(work_dir / reader))
            try:
                input_cases.run_once(dataclasses.replace(own_cases[0].work, is_check=True), launcher)
            except InputError as error:
                for case in own_cases:
                    case.error = str(error)
            bar.update()
    return cases, main_size


def main(arguments: Sequence[str]) -> None:
    """Lays out the cells, checks every reader, measures, writes the file and the chart, prints the table."""
    reject_arguments(arguments)
    values = flags.FLAGS
    known = (*MODES, *BASELINES_HERE, *LIBRARIES)
    libraries = LIBRARIES if values.peers == ["all"] else values.peers
    readers = [*(values.readers or (*MODES, *BASELINES_HERE)), *libraries]
    if unknown := [name for name in readers if name not in known]:
        raise InputError(f"--readers or --peers has {unknown[0]}; expected some of {', '.join(known)}")
    sizes = measurement.positive_numbers("sizes", values.sizes)
    batch_sizes = measurement.positive_numbers("batch_sizes", values.batch_sizes)
    measurement.check_work_dir(values.work_dir)
    data_set = open_data_set(values.data_dir, values.config)
    with tempfile.TemporaryDirectory(dir=values.work_dir) as work_dir:
        cases, main_size = prepare(data_set, sizes, batch_sizes, readers, Path(work_dir))
        with progress_bar(values.repeats * len(cases), "measuring", "runs") as bar:
            for _ in range(values.repeats):
                for case in cases:
                    bar.set_postfix_str(case.name)
                    case.run()
                    bar.update()
    rows = [case.row() for case in cases]
    output = Path(values.output)
    measurement.write(output, rows, ratios(rows, main_size))
    input_cases.plot(rows, main_size, output.with_suffix(".png"))
    print(f"{measurement.table(rows, ratios(rows, main_size))}\n{output}, {output.with_suffix('.png')}")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write; the chart is written next to it.", required=True)
    flags.DEFINE_string("config", "by_patient", "Config of the data set.")
    flags.DEFINE_list("readers", [], "Input modes and baselines of this environment; all by default.")
    flags.DEFINE_list("peers", [], f"Baselines of .venv-peers (make peers): all, or some of {', '.join(LIBRARIES)}.")
    flags.DEFINE_integer("num_cells", 27_000, "Cells that all readers read, in complete shards.", lower_bound=1)
    flags.DEFINE_list("sizes", ["9000", "27000", "110000"], "Numbers of cells that the three modes read.")
    flags.DEFINE_list("batch_sizes", ["64", "256"], "Cells per batch.")
    flags.DEFINE_integer("epochs", 6, "Epochs per run; the first one is shown by itself.", lower_bound=2)
    flags.DEFINE_integer("repeats", 3, "Runs of each case.", lower_bound=1)
    flags.DEFINE_string("launcher", "", "Command that starts each run, such as 'taskset --cpu-list 0-3'.")
    flags.DEFINE_string("work_dir", None, "Folder for a temporary folder with the cells in all formats.")
    run(main)
