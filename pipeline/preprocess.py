"""Turns cell crops into a TFDS data set of TFRecord shards.

    python -m pipeline.preprocess --source=cell_images.zip --data_dir=data
    python -m pipeline.preprocess --source=nih --data_dir=data --config=by_patient,by_cell,folds

The same command again continues a job that was stopped. If the data set exists already, it is compared with its
manifest (in object stores by file sizes alone); --repair makes corrupt files again. On two cores the NLM's 27,558 cells
take well under a minute and 1.3 GB of disk per config.
"""

import dataclasses
import functools
import gc
import math
import os
import re
import signal
import sys
import time
from collections import Counter
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
from pipeline.job import plan, prepare
from pipeline.records import layout
from pipeline.records.example import IMAGE_ENCODINGS
from pipeline.records.image import MAX_SIZE_PX
from pipeline.source import listing
from pipeline.source.archive import open_source
from pipeline.splits.configs import CONFIGS
from pipeline.terminal import say

_DEFAULTS = plan.Settings()

_SOURCE = flags.DEFINE_string(
    "source", None, "Folder or .zip with one folder of cells per class, or nih: the NLM's archive.", required=True
)
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
    "Folders of uninfected and parasitized cells, in this order, or uninfected=<folder>,parasitized=<folder>.",
)
_PATIENT_REGEX = flags.DEFINE_string(
    "patient_regex", DEFAULT_PATIENT_REGEX, "Regular expression; its first group is the patient in a file's base name."
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
    with open_source(source) as opened:
        cells = listing.list_cells(opened, f"--source={source}", of_configs[0].class_folders, patient_regex)
    if labels:
        cells = listing.override(cells, labels)
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
            say(*_summary(result))


def _summary(result: prepare.JobResult) -> list[str]:
    manifest = result.manifest
    duplicates = manifest.get("duplicates", {"num_cells": 0})
    lines = [f"{manifest['dataset']}/{manifest['config']}/{manifest['version']} from {manifest['source']['name']}"]
    for name, split in manifest["splits"].items():
        classes = ", ".join(f"{count:,} {label}" for label, count in split["classes"].items())
        known = len(set(split["patients"]) - {""})
        patients = f"{known:>4} patients" if known else "unknown patients"
        lines.append(f"  {name:<10} {split['num_cells']:>9,} cells of {patients} ({classes})")
    num_bytes = sum(shard["num_bytes"] for split in manifest["splits"].values() for shard in split["shards"])
    num_shards = sum(len(split["shards"]) for split in manifest["splits"].values())
    skipped = ", ".join(f"{count} {reason}" for reason, count in manifest["source"]["skipped"].items()) or "none"
    converted = ", ".join(f"{count} {kind}" for kind, count in manifest.get("converted", {}).items()) or "none"
    lines.append(f"  files skipped: {skipped}; images rejected: {len(manifest['rejected'])}, converted: {converted}")
    if overrides := manifest.get("label_overrides"):
        lines.append(
            f"  label overrides: {overrides['num_corrected']} cells have corrected labels, "
            f"{overrides['num_excluded']} are left out"
        )
    if duplicates["num_cells"]:
        lines.append(
            f"  warning: {duplicates['num_cells']} cells are copies of others, {duplicates['num_label_conflicts']} "
            f"contents have both labels, {duplicates['num_across_splits']} are in several splits: see duplicates in "
            "manifest.json"
        )
    known_patients = [patient for split in manifest["splits"].values() for patient in split["patients"] if patient]
    spelling = Counter(patient.casefold() for patient in set(known_patients))
    if alike := sorted(patient for patient in set(known_patients) if spelling[patient.casefold()] > 1):
        lines.append(
            f"  warning: patients that differ in upper and lower case count as different: {', '.join(alike[:4])}"
        )
    if len(known_patients) == sum(split["num_cells"] for split in manifest["splits"].values()):
        lines.append("  warning: each cell has a patient of its own; check --patient_regex")
    shards = f"{num_shards} shards, {num_bytes / 1e6:,.1f} MB"
    filled = f"filled {result.num_filled:,} cells in {result.seconds:.2f} s"
    if result.repaired:
        lines.append(f"  {shards}; {filled} to repair {', '.join(result.repaired)}")
    elif result.num_filled:
        lines.append(f"  {shards}; {filled} ({result.num_filled / result.seconds:,.0f} cells/s)")
    else:
        lines.append(f"  {shards}, already there")
    lines.append(f"  {result.directory}")
    return lines


if __name__ == "__main__":
    run(
        main,
        flag_groups={
            "source": (
                "source",
                "class_folders",
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
