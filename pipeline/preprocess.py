"""Turns cell crops into a TFDS data set of TFRecord shards.

    python -m pipeline.preprocess --source=cell_images.zip --data_dir=data
    python -m pipeline.preprocess --source=nih --data_dir=data --config=by_patient,by_cell,folds
    python -m pipeline.preprocess --source=labels.csv --data_dir=data

The same command again continues a job that was stopped. If the data set exists already, it is compared with its
manifest (in object stores by file sizes alone); --repair makes corrupt files again. On two cores the NLM's 27,558 cells
take well under a minute and 1.3 GB of disk per config.
"""

import dataclasses
import functools
import gc
import itertools
import math
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from absl import flags

from pipeline import label_list
from pipeline.cells import (
    BACKGROUNDS,
    DEFAULT_CLASS_FOLDERS,
    DEFAULT_PATIENT_REGEX,
    LABELS,
    compile_patient_regex,
    parse_class_folders,
)
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.job import plan, prepare, summary
from pipeline.records import layout
from pipeline.records.example import IMAGE_ENCODINGS
from pipeline.records.image import MAX_SIZE_PX
from pipeline.source import layouts, listing
from pipeline.source.archive import open_source
from pipeline.splits.configs import CONFIGS
from pipeline.storage import open_place
from pipeline.terminal import say

_DEFAULTS = plan.Settings()

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "Folder or .zip with one folder of cells per class or with a table; a table (.csv); or nih: the NLM's archive.",
    required=True,
)
_LABELS_CSV = flags.DEFINE_string(
    "labels_csv",
    None,
    "Table of a folder or .zip: CSV with a file, a label, and perhaps a patient and a split per line.",
)
_COLUMNS = {
    what: flags.DEFINE_string(
        f"{what}_column", None, f"Name of the table's column for the {what}. Without it: {', '.join(likely)}."
    )
    for what, likely in layouts.COLUMNS.items()
}
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root folder of the data sets, as in tfds.load.", required=True)
_CONFIG = flags.DEFINE_list("config", [_DEFAULTS.config], f"Configs to make: one or more of {', '.join(CONFIGS)}.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a data set that has another source or other settings.")
_REPAIR = flags.DEFINE_bool("repair", False, "Make corrupt files of a data set again; rejected unless byte-identical.")
_SPLIT_SEED = flags.DEFINE_integer(
    "split_seed", _DEFAULTS.split_seed, "Seed of the split and of the order of cells.", 0, 2**32 - 1
)
_IMAGE_SIZE_PX = flags.DEFINE_integer(
    "image_size_px", _DEFAULTS.image_size_px, "Width and height of the stored images in pixels.", 1, MAX_SIZE_PX
)
_IMAGE_ENCODING = flags.DEFINE_enum(
    "image_encoding", _DEFAULTS.image_encoding, IMAGE_ENCODINGS, "raw needs no decoding when read; png is compact."
)
_BACKGROUND = flags.DEFINE_enum(
    "background",
    _DEFAULTS.background,
    BACKGROUNDS,
    "What surrounds each cell: keep it, or make it black, for cells that were cut out by box.",
)
_CELLS_PER_SHARD = flags.DEFINE_integer(
    "cells_per_shard", _DEFAULTS.cells_per_shard, "Largest number of cells in a shard.", lower_bound=1
)
_CLASS_FOLDERS = flags.DEFINE_list(
    "class_folders",
    list(DEFAULT_CLASS_FOLDERS),
    "Folders of uninfected and parasitized cells, or a table's names for them, in this order, or "
    "uninfected=<name>,parasitized=<name>. The default also takes names that mean this, such as healthy,infected.",
)
flags.DEFINE_alias("class_names", "class_folders")
_PATIENT_REGEX = flags.DEFINE_string(
    "patient_regex",
    DEFAULT_PATIENT_REGEX,
    "Regular expression; its first group is the patient in a file's base name, else in its path.",
)
_LABEL_OVERRIDES = flags.DEFINE_string(
    "label_overrides",
    None,
    "CSV file with the header filename,label: cells with corrected labels, or left out by the label exclude.",
)
_MAX_REJECTED_FRACTION = flags.DEFINE_float(
    "max_rejected_fraction", 0.001, "Fail if a larger fraction of the images cannot be used.", 0.0, 1.0
)
_PIPELINE_OPTIONS = flags.DEFINE_list("pipeline_options", [], "Options of Beam, such as --runner=DirectRunner,….")
_DOWNLOAD_DIR = flags.DEFINE_string(
    "download_dir", "~/.cache/tfds_malaria", "Folder for the archive that --source=nih downloads."
)


def main() -> None:
    """Runs the job for each config and prints what came out."""
    configs = list(dict.fromkeys(_CONFIG.value))
    for config in configs:
        layout.dataset_dir(_DATA_DIR.value, config)
    if not math.isfinite(_MAX_REJECTED_FRACTION.value):
        raise InputError(f"--max_rejected_fraction={_MAX_REJECTED_FRACTION.value}; expected a number from 0 to 1")
    if not configs:
        raise InputError(f"--config is empty; expected one or more of {', '.join(CONFIGS)}")
    if _OVERWRITE.value and _REPAIR.value:
        raise InputError("got --overwrite and --repair; expected one: --overwrite makes all files again")
    settings = plan.Settings(
        image_size_px=_IMAGE_SIZE_PX.value,
        image_encoding=_IMAGE_ENCODING.value,
        background=_BACKGROUND.value,
        split_seed=_SPLIT_SEED.value,
        cells_per_shard=_CELLS_PER_SHARD.value,
        class_folders=parse_class_folders(_CLASS_FOLDERS.value),
        patient_regex=_PATIENT_REGEX.value,
    )
    patient_regex = compile_patient_regex(settings.patient_regex)
    labels = None
    if _LABEL_OVERRIDES.value is not None:
        labels = label_list.read("label_overrides", _LABEL_OVERRIDES.value, "label", (*LABELS, listing.EXCLUDE))
    source = _SOURCE.value
    if source == "nih":
        from pipeline.source import download

        source = str(download.fetch_archive(_DOWNLOAD_DIR.value))
    if _PIPELINE_OPTIONS.value:
        from pipeline.job import beam_pipeline  # Beam takes a second to import: not for --help and mistakes

        beam_pipeline.parse_options(_PIPELINE_OPTIONS.value)
    handler = signal.signal(signal.SIGINT, _leave)
    try:
        _preprocess(source, [dataclasses.replace(settings, config=config) for config in configs], patient_regex, labels)
    finally:
        signal.signal(signal.SIGINT, handler)
    gc.freeze()  # what ends with the process need not be searched for garbage at its end, which takes 0.2 s


def _leave(*_: object) -> None:
    """Ctrl-C ends the job at once: it may be killed at any moment, and KeyboardInterrupt gets lost within an import."""
    print("\ninterrupted; the same command continues", file=sys.stderr, flush=True)
    os._exit(130)


def _preprocess(
    source: str,
    of_configs: Sequence[plan.Settings],
    patient_regex: re.Pattern[str],
    labels: label_list.LabelList | None,
) -> None:
    started = time.perf_counter()
    say(f"listing {source}", to_stderr=True)
    name, only, class_names = f"--source={source}", None, of_configs[0].class_folders
    columns = {what: flag.value for what, flag in _COLUMNS.items()}
    labels_table = None
    flag, path = ("source", source) if _LABELS_CSV.value is None else ("labels_csv", _LABELS_CSV.value)
    if flag == "labels_csv" or path.lower().endswith((".csv", ".xlsx")):
        table_name = f"--{flag}={path}"
        content = label_list.load(table_name, open_place(path, f"--{flag}"))
        labels_table = layouts.read_table(table_name, content, columns, class_names)
    if labels_table and flag == "source":
        only = {
            folder for row in labels_table.rows for folder in itertools.accumulate(row.split("/")[:-1], "{}/{}".format)
        }
        source = os.fspath(open_place(source, "--source").parent)
    cells = listing.list_cells(open_source(source, only), name, class_names, patient_regex, columns, labels_table)
    if labels:
        cells = listing.override(cells, labels)
    of_configs = [dataclasses.replace(settings, class_folders=cells.layout.names) for settings in of_configs]
    say(*summary.mapping(cells, of_configs))
    listed = time.perf_counter()
    plan_job = functools.partial(
        prepare.plan, source=source, data_dir=_DATA_DIR.value, overwrite=_OVERWRITE.value, repair=_REPAIR.value
    )
    with ExitStack() as stack:
        jobs = [stack.enter_context(plan_job(cells, settings)) for settings in of_configs]
        del cells  # the plan lies in files now, so the memory of filling does not grow with the number of cells
        say(f"listed in {listed - started:.2f} s, planned in {time.perf_counter() - listed:.2f} s")
        for job in jobs:
            result = prepare.run(
                job, max_rejected_fraction=_MAX_REJECTED_FRACTION.value, pipeline_options=_PIPELINE_OPTIONS.value
            )
            say(*summary.result(result))


if __name__ == "__main__":
    run(
        main,
        flag_groups={
            "source": (
                "source",
                "labels_csv",
                *(f"{what}_column" for what in layouts.COLUMNS if what != "patient"),
                "class_folders",
                "class_names",
                "patient_column",
                "patient_regex",
                "label_overrides",
                "max_rejected_fraction",
                "download_dir",
            ),
            "data set": (
                "data_dir",
                "config",
                "split_seed",
                "image_size_px",
                "image_encoding",
                "background",
                "cells_per_shard",
            ),
            "job": ("overwrite", "repair", "pipeline_options"),
        },
    )
