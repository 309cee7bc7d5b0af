"""Times the three input modes beside the loaders that people use, each run in a process of its own, in turn.

    python -m benchmarks.repeated_cells --source=path/to/cell_images.zip --output_dir=cells --num_cells=110000
    python -m pipeline.preprocess --source=cells --data_dir=data
    make peers
    python -m benchmarks.input_throughput --data_dir=data --output=input.json --peers=all

Writes the file, a bar chart beside it, and prints the table. A data set of 110,000 cells takes 5 GB, the peers' forms
of 27,000 of them 12 GB in --work_dir. See benchmarks/README.md for what is in each number.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from benchmarks.harness import input_chart, measurement
from benchmarks.harness.clock import Content, Work, summed, total_of
from benchmarks.harness.input_cases import HERE, MODES, PEERS, Case, plan, run_once
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.progress import progress_bar
from pipeline.records import manifest
from trainers import tf_import

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


def leading_shards(made: Mapping[str, Any], num_cells: int) -> tuple[str, int, list[str]]:
    """The fewest leading shards of the splits, in their order, that hold at least a number of cells, or all.

    Returns:
      their split expression, the number of cells in them, and their file names.
    """
    parts, files, total = [], [], 0
    for name, split in made["splits"].items():
        taken = 0
        for shard in split["shards"]:
            if total >= num_cells:
                break
            taken, total = taken + 1, total + shard["num_records"]
            files.append(shard["file"])
        if taken:
            parts.append(name if taken == len(split["shards"]) else f"{name}[:{taken}shard]")
    return "+".join(parts), total, files


def lay_out(directory: Path, num_cells: int, folder: Path | None) -> Work:
    """Looks at leading cells of a data set, and writes them as arrays if a folder is given.

    Args:
      directory: the data set's version folder.
      num_cells: how many to have at least.
      folder: to make, for readers with a form of their own.

    Returns:
      the work on these cells, without a reader.
    """
    tf_import.import_tensorflow()

    from trainers.data import open_data_set
    from trainers.input_pipeline import batching

    expression, total, files = leading_shards(manifest.read(epath.Path(directory)), num_cells)
    split = open_data_set(str(directory.parents[2]), directory.parent.name).open_split(expression)
    if folder is not None:
        folder.mkdir()
        shape = (total, split.image_size_px, split.image_size_px, 3)
        kept = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    parts: list[Content] = []
    labels: list[np.ndarray] = []
    for images, its_labels, *_ in batching.evaluation_batches(split, _CELLS_AT_A_TIME).as_numpy_iterator():
        parts.append(summed((images, its_labels), is_whole=True))
        if folder is not None:
            kept[sum(map(len, labels)) :][: len(images)] = images
        labels.append(its_labels)
    if folder is not None:
        np.save(folder / "labels.npy", np.concatenate(labels))
    shards = tuple(str(directory / file) for file in files)
    return Work("", str(folder), "", str(directory), expression, shards, total_of(parts))


def ratios(rows: Sequence[Mapping[str, Any]], main_size: int) -> dict[str, float]:
    """What is to be shown, as far as it was measured."""
    batch_size = min((row["batch_size"] for row in rows), default=0)
    small = [row for row in rows if row["batch_size"] == batch_size and row["images_per_second"]["median"]]
    figures = {}
    for row in small:
        if row["num_images"] == main_size:
            figures[row["reader"], "steady"] = row["images_per_second"]["median"]
            figures[row["reader"], "first"] = row["first_epoch"]["median"]
    found = {
        name: figures[ours] / figures[theirs] for name, ours, theirs in _RATIOS if ours in figures and theirs in figures
    }
    for mode in MODES:
        rates = [row["images_per_second"]["median"] for row in small if row["reader"] == mode]
        if len(rates) > 1:
            found[f"{mode}, slowest number of cells to fastest"] = min(rates) / max(rates)
    return {name: round(ratio, 3) for name, ratio in found.items()}


def table(rows: Sequence[Mapping[str, Any]], found: Mapping[str, float]) -> str:
    """The rows and ratios for people."""
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':<{width}}  images/s  first epoch  CPU s  peak MB"]
    for row in rows:
        if row["images_per_second"]["median"] is None:
            lines.append(f"{row['name']:<{width}}  not measured: {row['error']}")
            continue
        values = (row["images_per_second"]["median"], row["first_epoch"]["median"], row["cpu_seconds"])
        peak = row["peak_rss_bytes"] / 1e6
        lines.append("{:<{}}  {:>8,.0f}  {:>11,.0f}  {:>5.1f}  {:>7,.0f}".format(row["name"], width, *values, peak))
    return "\n".join([*lines, *(f"{name}: {ratio:.2f}" for name, ratio in found.items())])


def main(arguments: Sequence[str]) -> None:
    """Lays out the cells, checks every reader, measures, writes the file and the chart, prints the table."""
    reject_arguments(arguments)
    values = flags.FLAGS
    readers = [*(values.readers or (*MODES, *HERE)), *(PEERS if values.peers == ["all"] else values.peers)]
    if unknown := [name for name in readers if name not in (*MODES, *HERE, *PEERS)]:
        raise InputError(
            f"--readers or --peers has {unknown[0]}; expected some of {', '.join((*MODES, *HERE, *PEERS))}"
        )
    numbers = _numbers("sizes"), _numbers("batch_sizes")
    if values.work_dir and not Path(values.work_dir).is_dir():
        raise InputError(f"--work_dir={values.work_dir} is no folder; make it first")
    directory = Path(manifest.read_dataset(values.data_dir, values.config)[0])
    with tempfile.TemporaryDirectory(dir=values.work_dir) as work_dir:
        cases, main_size = prepare(directory, values.num_cells, *numbers, readers, Path(work_dir))
        with progress_bar(values.repeats * len(cases), "measuring", "runs") as bar:
            for _ in range(values.repeats):
                for case in cases:
                    bar.set_postfix_str(case.name)
                    case.run()
                    bar.update()
    rows = [case.row() for case in cases]
    found, output = ratios(rows, main_size), Path(values.output)
    measurement.write(output, rows, found)
    input_chart.draw(rows, main_size, output.with_suffix(".png"))
    print(f"{table(rows, found)}\n{output}, {output.with_suffix('.png')}")


def _numbers(flag: str) -> list[int]:
    given = getattr(flags.FLAGS, flag)
    try:
        numbers = sorted({int(number) for number in given})
        if not numbers or numbers[0] < 1:
            raise ValueError
    except ValueError as error:
        raise InputError(f"--{flag}={','.join(given)} is no list of positive numbers") from error
    return numbers


def prepare(
    directory: Path,
    num_cells: int,
    sizes: Sequence[int],
    batch_sizes: Sequence[int],
    readers: Sequence[str],
    work_dir: Path,
) -> tuple[list[Case], int]:
    """Lays out the cells and lets every reader write its form and show that it reads every byte.

    Returns:
      the cases, and the number of cells that all readers read.
    """
    made = manifest.read(epath.Path(directory))
    main_size = leading_shards(made, num_cells)[1]
    works = {}
    for size in sorted({*sizes, num_cells}):
        total = leading_shards(made, size)[1]
        if total not in works:
            works[total] = lay_out(directory, size, work_dir / "cells" if total == main_size else None)
    main_work = works[main_size]
    main_work = dataclasses.replace(main_work, epochs=flags.FLAGS.epochs)
    cases = plan(list(works.values()), main_work, readers, batch_sizes, flags.FLAGS.launcher.split())
    with progress_bar(len(readers), "checking", "readers") as bar:
        for reader in readers:
            own = work_dir / reader
            mine = [case for case in cases if case.work.reader == reader]
            for case in mine:
                case.work = dataclasses.replace(case.work, own=str(own))
            try:
                run_once(dataclasses.replace(mine[0].work, is_check=True), flags.FLAGS.launcher.split())
            except InputError as error:
                for case in mine:
                    case.error = str(error)
            bar.update()
    return cases, main_size


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write; the chart is written beside it.", required=True)
    flags.DEFINE_string("config", "by_patient", "Config of the data set.")
    flags.DEFINE_list("readers", [], "Readers of this environment; all by default.")
    flags.DEFINE_list("peers", [], f"Peers of .venv-peers (make peers): all, or some of {', '.join(PEERS)}.")
    flags.DEFINE_integer("num_cells", 27_000, "Cells that all readers read; whole shards.", lower_bound=1)
    flags.DEFINE_list("sizes", ["9000", "27000", "110000"], "Numbers of cells that the three modes read.")
    flags.DEFINE_list("batch_sizes", ["64", "256"], "Cells a batch.")
    flags.DEFINE_integer("epochs", 6, "Epochs a run; the first one is told apart.", lower_bound=2)
    flags.DEFINE_integer("repeats", 3, "Runs of each case.", lower_bound=1)
    flags.DEFINE_string("launcher", "", "Command that starts each run, such as 'taskset --cpu-list 0-3'.")
    flags.DEFINE_string("work_dir", None, "Where to lay out cells and the peers' forms.")
    run(main)
