"""Turns cell crops into a TFDS data set of TFRecord shards.

    python -m pipeline.preprocess --source=cell_images.zip --data_dir=data
    python -m pipeline.preprocess --source=nih --data_dir=data --config=by_patient,by_cell,folds
    python -m pipeline.preprocess --source=labels.csv --data_dir=data

The same command again continues a job that was stopped. If the data set exists already, it is compared with its
manifest (in object stores by file sizes alone); --repair makes corrupt files again. On two cores the NLM's 27,558 cells
take well under a minute and 1.3 GB of disk per config.
"""

import dataclasses
import gc
import os
import signal
import sys
import time
from contextlib import ExitStack
from itertools import accumulate

from absl import flags

from pipeline import label_list
from pipeline.cells import BACKGROUNDS, LABELS, class_folder_values, compile_patient_regex, parse_class_folders
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.job import plan, prepare, summary
from pipeline.records import layout
from pipeline.records.example import IMAGE_ENCODINGS, MAX_SIZE_PX
from pipeline.source import layouts, listing
from pipeline.source.archive import open_source
from pipeline.splits.configs import CONFIGS
from pipeline.storage import open_place
from pipeline.terminal import say

_FLAGS = flags.FLAGS
_FLAG_GROUPS = {
    "source": "source labels_csv file_column label_column split_column class_folders class_names patient_column "
    "patient_regex label_overrides max_rejected_fraction download_dir",
    "data set": "data_dir config split_seed image_size_px image_encoding background cells_per_shard",
    "job": "overwrite repair pipeline_options",
}


def main() -> None:
    """Runs the job for each config and prints what came out."""
    names = ("image_size_px", "image_encoding", "background", "split_seed", "cells_per_shard", "patient_regex")
    values = _FLAGS.flag_values_dict()
    settings = plan.Settings(**{name: values[name] for name in names})
    parse_class_folders(_FLAGS.class_folders)
    compile_patient_regex(settings.patient_regex)
    for config in _FLAGS.config or [""]:
        layout.dataset_dir(_FLAGS.data_dir, config)
    if _FLAGS.overwrite and _FLAGS.repair:
        raise InputError("got --overwrite and --repair; expected one: --overwrite makes all files again")
    labels = None
    if _FLAGS.label_overrides is not None:
        labels = label_list.read("label_overrides", _FLAGS.label_overrides, "label", (*LABELS, listing.EXCLUDE))
    source = _FLAGS.source
    if source == "nih":
        from pipeline.source import download

        source = str(download.fetch_archive(_FLAGS.download_dir))
    if _FLAGS.pipeline_options:
        from pipeline.job import beam_pipeline  # Beam takes a second to import: not for --help and mistakes

        beam_pipeline.parse_options(_FLAGS.pipeline_options)
    signal.signal(signal.SIGINT, _leave)
    _preprocess(source, settings, labels)
    gc.freeze()  # what ends with the process need not be searched for garbage at its end, which takes 0.2 s


def _leave(*_: object) -> None:
    """Ctrl-C ends the job at once: it may be killed at any moment, and KeyboardInterrupt gets lost within an import."""
    print("\ninterrupted; the same command continues", file=sys.stderr, flush=True)
    os._exit(130)


def _preprocess(source: str, settings: plan.Settings, labels: label_list.LabelList | None) -> None:
    started = time.perf_counter()
    say(f"listing {source}", to_stderr=True)
    source, cells = _list_cells(source, settings.patient_regex)
    if labels:
        cells = listing.override(cells, labels)
    say(*summary.mapping(cells, settings))
    listed, folders = time.perf_counter(), class_folder_values(cells.layout.names)
    with ExitStack() as stack:
        jobs = []
        for config in dict.fromkeys(_FLAGS.config):
            of_config = dataclasses.replace(settings, config=config, class_folders=folders)
            planned = prepare.plan(cells, of_config, source, _FLAGS.data_dir, _FLAGS.overwrite, _FLAGS.repair)
            jobs.append(stack.enter_context(planned))
        del cells  # the plan lies in files now, so the memory of filling does not grow with the number of cells
        say(f"listed in {listed - started:.2f} s, planned in {time.perf_counter() - listed:.2f} s")
        for job in jobs:
            say(*summary.result(prepare.run(job, _FLAGS.max_rejected_fraction, _FLAGS.pipeline_options)))


def _list_cells(source: str, regex: str) -> tuple[str, listing.Listing]:
    """The source that workers read, which for a table is its folder, and its cells."""
    name, only, labels_table = f"--source={source}", None, None
    class_names = parse_class_folders(_FLAGS.class_folders)
    columns = {what: _FLAGS[f"{what}_column"].value for what in layouts.COLUMNS}
    flag, path = ("source", source) if _FLAGS.labels_csv is None else ("labels_csv", _FLAGS.labels_csv)
    if flag == "labels_csv" or path.lower().endswith((".csv", ".tsv", ".xlsx")):
        table_name, place = f"--{flag}={path}", open_place(path, f"--{flag}")
        labels_table = layouts.read_table(table_name, label_list.load(table_name, place), columns, class_names)
        if flag == "source":
            source = os.fspath(place.parent)
            only = {folder for row in labels_table.rows for folder in accumulate(row.split("/")[:-1], "{}/{}".format)}
    patient_regex, place = compile_patient_regex(regex), open_source(source, only)
    return source, listing.list_cells(place, name, class_names, patient_regex, columns, labels_table)


if __name__ == "__main__":  # flags are not defined on import: other commands have some of the same names
    default = plan.Settings()
    origin = "Folder or .zip with a folder per class or with a table; a table (.csv); or nih: the NLM's archive."
    flags.DEFINE_string("source", None, origin, required=True)
    flags.DEFINE_string("labels_csv", None, "CSV with a file, a label, and perhaps a patient and a split per line.")
    for what, likely in layouts.COLUMNS.items():
        flags.DEFINE_string(f"{what}_column", None, f"The table's column for the {what}; else {', '.join(likely)}.")
    flags.DEFINE_string("data_dir", None, "Root folder of the data sets, as in tfds.load.", required=True)
    flags.DEFINE_list("config", [default.config], f"Configs to make: one or more of {', '.join(CONFIGS)}.")
    flags.DEFINE_bool("overwrite", False, "Replace a data set that has another source or other settings.")
    flags.DEFINE_bool("repair", False, "Make corrupt files of a data set again; rejected unless byte-identical.")
    flags.DEFINE_integer("split_seed", default.split_seed, "Seed of the split and of the order.", 0, 2**32 - 1)
    flags.DEFINE_integer("image_size_px", default.image_size_px, "Side of stored images in pixels.", 1, MAX_SIZE_PX)
    encoding = "raw needs no decoding when read; png is compact."
    flags.DEFINE_enum("image_encoding", default.image_encoding, IMAGE_ENCODINGS, encoding)
    flags.DEFINE_enum("background", default.background, BACKGROUNDS, "black masks cells that were cut out by box.")
    flags.DEFINE_integer("cells_per_shard", default.cells_per_shard, "Largest number of cells in a shard.", 1)
    folders = (
        "Folders of uninfected, then of parasitized cells, or a table's names for them; or uninfected=<name>,"
        "parasitized=<name>, perhaps several for a label. The default also takes names like healthy,infected."
    )
    flags.DEFINE_list("class_folders", list(default.class_folders), folders)
    flags.DEFINE_alias("class_names", "class_folders")
    regex = "Regular expression; its first group is the patient in a file's base name, else in its path."
    flags.DEFINE_string("patient_regex", default.patient_regex, regex)
    labels = "CSV file with the header filename,label: cells with corrected labels, or left out by the label exclude."
    flags.DEFINE_string("label_overrides", None, labels)
    flags.DEFINE_float("max_rejected_fraction", 0.001, "Largest fraction of images that may be rejected.", 0.0, 1.0)
    flags.DEFINE_list("pipeline_options", [], "Options of Beam, such as --runner=DirectRunner,….")
    flags.DEFINE_string("download_dir", "~/.cache/tfds_malaria", "Folder for what --source=nih downloads.")
    run(main, flag_groups={heading: names.split() for heading, names in _FLAG_GROUPS.items()})
