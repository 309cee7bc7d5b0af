"""Turns a pile of cell crops into a TFDS data set of TFRecord shards.

    python -m pipeline.preprocess --source=cell_images.zip --data_dir=data
    python -m pipeline.preprocess --source=nih --data_dir=data --config=by_patient,by_cell,folds

The same command again continues a job that was stopped, and finds a data set that is there already. On two cores the
NLM's 27,558 cells take well under a minute and 1.3 GB of disk a config.
"""

import gc
import math
import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

from absl import flags

from pipeline.cells import DEFAULT_CLASS_FOLDERS, DEFAULT_PATIENT_REGEX, compile_patient_regex, parse_class_folders
from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.job import plan, prepare, workers
from pipeline.records import layout
from pipeline.records.example import IMAGE_ENCODINGS
from pipeline.source import listing
from pipeline.source.archive import open_source

_DEFAULTS = plan.Settings()

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "Folder or .zip with a folder of cell crops a class, or 'nih' to download the NLM's archive.",
    required=True,
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Root of the data sets, as in tfds.load.", required=True)
_CONFIG = flags.DEFINE_list("config", [_DEFAULTS.config], "Configs to make: by_patient, by_cell, folds.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a data set of another source or other settings.")
_SPLIT_SEED = flags.DEFINE_integer(
    "split_seed",
    _DEFAULTS.split_seed,
    "Decides on the split and the order of cells.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
_IMAGE_SIZE_PX = flags.DEFINE_integer(
    "image_size_px", _DEFAULTS.image_size_px, "Side of the stored image in pixels.", lower_bound=1, upper_bound=4096
)
_IMAGE_ENCODING = flags.DEFINE_enum(
    "image_encoding", _DEFAULTS.image_encoding, IMAGE_ENCODINGS, "raw: nothing to decode when read; png: compact."
)
_CELLS_PER_SHARD = flags.DEFINE_integer(
    "cells_per_shard", _DEFAULTS.cells_per_shard, "Planned size of a shard.", lower_bound=1
)
_CLASS_FOLDERS = flags.DEFINE_list(
    "class_folders",
    list(DEFAULT_CLASS_FOLDERS),
    "Folders of uninfected and parasitized cells, in this order, or uninfected=<folder>,parasitized=<folder>.",
)
_PATIENT_REGEX = flags.DEFINE_string(
    "patient_regex", DEFAULT_PATIENT_REGEX, "Finds the patient in a file's base name: its first group."
)
_MAX_REJECTED_FRACTION = flags.DEFINE_float(
    "max_rejected_fraction", 0.001, "Fail if more of the images cannot be used.", lower_bound=0.0, upper_bound=1.0
)
_PIPELINE_OPTIONS = flags.DEFINE_list("pipeline_options", [], "Beam's options, such as --runner=DirectRunner,….")
_DOWNLOAD_DIR = flags.DEFINE_string(
    "download_dir", "~/.cache/tfds_malaria", "Where --source=nih keeps the downloaded archive."
)


def main(arguments: Sequence[str]) -> None:
    """Runs the job for each config and prints what came out."""
    reject_arguments(arguments)
    configs = list(dict.fromkeys(_CONFIG.value))
    for config in configs:
        layout.dataset_dir(_DATA_DIR.value, config)
    if not math.isfinite(_MAX_REJECTED_FRACTION.value):
        raise InputError(f"--max_rejected_fraction={_MAX_REJECTED_FRACTION.value} is no number from 0 to 1")
    if not configs:
        raise InputError("--config is empty; expected one or more of by_patient, by_cell, folds")
    class_folders = parse_class_folders(_CLASS_FOLDERS.value)
    patient_regex = compile_patient_regex(_PATIENT_REGEX.value)
    source = _SOURCE.value
    if source == "nih":
        from pipeline.source import download

        source = str(download.fetch_archive(_DOWNLOAD_DIR.value))
    if _PIPELINE_OPTIONS.value:
        from pipeline.job import beam_pipeline  # Beam takes a second to import: not for --help and mistakes

        beam_pipeline.parse_options(_PIPELINE_OPTIONS.value)
    is_local = not any(option.startswith("--runner=") for option in _PIPELINE_OPTIONS.value)
    with workers.started("pipeline.job.fill") if is_local else nullcontext():
        _preprocess(source, configs, class_folders, patient_regex)
    gc.freeze()  # what ends with the process need not be searched for garbage at its end, which takes 0.2 s


def _preprocess(
    source: str, configs: Sequence[str], class_folders: tuple[str, ...], patient_regex: re.Pattern[str]
) -> None:
    started = time.perf_counter()
    print(f"listing {source}", file=sys.stderr)
    with open_source(source) as opened:
        cells = listing.list_cells(opened, f"--source={source}", class_folders, patient_regex)
    listed = time.perf_counter()

    with ExitStack() as held:
        planned = [
            held.enter_context(
                prepare.plan(cells, settings, source=source, data_dir=_DATA_DIR.value, overwrite=_OVERWRITE.value)
            )
            for settings in _settings(configs, class_folders)
        ]
        del cells  # the plan lies in files now, so the memory of filling does not grow with the number of cells
        print(f"listed in {listed - started:.2f} s, planned in {time.perf_counter() - listed:.2f} s", flush=True)
        for each in planned:
            outcome = prepare.run(
                each, max_rejected_fraction=_MAX_REJECTED_FRACTION.value, pipeline_options=_PIPELINE_OPTIONS.value
            )
            print(_summary(outcome))


def _settings(configs: Sequence[str], class_folders: tuple[str, ...]) -> list[plan.Settings]:
    return [
        plan.Settings(
            config=config,
            image_size_px=_IMAGE_SIZE_PX.value,
            image_encoding=_IMAGE_ENCODING.value,
            split_seed=_SPLIT_SEED.value,
            cells_per_shard=_CELLS_PER_SHARD.value,
            class_folders=class_folders,
            patient_regex=_PATIENT_REGEX.value,
        )
        for config in configs
    ]


def _summary(outcome: prepare.JobResult) -> str:
    made = outcome.manifest
    lines = [f"{made['dataset']}/{made['config']}/{made['version']} from {made['source']['name']}"]
    for name, split in made["splits"].items():
        classes = ", ".join(f"{count:,} {label}" for label, count in split["classes"].items())
        known = len(set(split["patients"]) - {""})
        patients = f"{known:>4} patients" if known else "unknown patients"
        lines.append(f"  {name:<10} {split['num_cells']:>9,} cells of {patients} ({classes})")
    num_bytes = sum(shard["num_bytes"] for split in made["splits"].values() for shard in split["shards"])
    num_shards = sum(len(split["shards"]) for split in made["splits"].values())
    skipped = ", ".join(f"{count} {reason}" for reason, count in made["source"]["skipped"].items()) or "none"
    converted = ", ".join(f"{count} {kind}" for kind, count in made["converted"].items()) or "none"
    lines.append(f"  files skipped: {skipped}; images rejected: {len(made['rejected'])}, converted: {converted}")
    if num_copies := made["duplicates"]["num_cells"]:
        lines.append(
            f"  warning: {num_copies} cells are copies of others, {made['duplicates']['num_label_conflicts']} contents "
            f"have both labels, {made['duplicates']['num_across_splits']} are in several splits: see duplicates in "
            "manifest.json"
        )
    shards = f"{num_shards} shards, {num_bytes / 1e6:,.1f} MB"
    if outcome.num_filled:
        rate = outcome.num_filled / outcome.seconds
        lines.append(
            f"  {shards}; filled {outcome.num_filled:,} cells in {outcome.seconds:.2f} s ({rate:,.0f} cells/s)"
        )
    else:
        lines.append(f"  {shards}, already there")
    lines.append(f"  {outcome.directory}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
