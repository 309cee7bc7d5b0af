"""What `pipeline.preprocess` prints: what it takes for what, before it writes anything; then results and advice."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.cells import LABELS, SPLITS, guess_label, patient_noun
from pipeline.job.plan import Settings
from pipeline.job.results import JobResult
from pipeline.source.listing import Listing
from pipeline.terminal import quantity

_FEW_PATIENTS = 20
_IMBALANCE = 3.0  # cells of the more frequent label to those of the other
_UNLIKE_OTHERS = ("grey", "16-bit", "alpha", "transparency")  # in the names of conversions


def mapping(listing: Listing, of_configs: Sequence[Settings]) -> list[str]:
    """Which names of the source are taken for which labels, patients and splits."""
    cells, layout = listing.cells, listing.layout
    num_cells = np.bincount(cells.labels)
    labels = [f"{name} ← {layout.describe(i)}, {num_cells[i]:,} cells" for i, name in enumerate(LABELS)]
    lines = ["; ".join(labels)]
    if num_patients := len(set(cells.patient_ids) - {""}):
        has_folders = layout.folders[0].count("/") > layout.has_splits
        folders = ", else the folders around the class folders" if has_folders else ""
        column = layout.patient_column
        told_by = f"column {column}" if column else f"--patient_regex={of_configs[0].patient_regex}{folders}"
        noun = patient_noun({"patient_column": column} if column else {})
        lines.append(f"{quantity(num_patients, noun)} ← {told_by}")
    if cells.splits is not None:
        counts = zip(SPLITS, np.bincount(cells.splits), strict=False)
        hint = "" if "given" in (settings.config for settings in of_configs) else "; --config=given keeps them"
        lines.append(f"given splits: {', '.join(f'{name} {num:,} cells' for name, num in counts if num)}{hint}")
    lines += [
        f"warning: {LABELS[label]} ← {layout.describe(label)}, whose name says the opposite; check --class_folders"
        for label in range(len(LABELS))
        if guess_label(layout.names[label]) not in (None, label)
    ]
    return lines


def result(result: JobResult) -> list[str]:
    """What a data set holds, its warnings, then advice on how to use it; a line each."""
    manifest = result.manifest
    noun = patient_noun(manifest["settings"])
    duplicates = manifest.get("duplicates", {"num_cells": 0})
    lines = [f"{manifest['dataset']}/{manifest['config']}/{manifest['version']} from {manifest['source']['name']}"]
    for name, split in manifest["splits"].items():
        classes = ", ".join(f"{count:,} {label}" for label, count in split["classes"].items())
        known = len(set(split["patients"]) - {""})
        patients = f"{known:>4} {noun}{'' if known == 1 else 's'}" if known else f"unknown {noun}s"
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
            f"  warning: {noun}s that differ in upper and lower case count as different: {', '.join(alike[:4])}"
        )
    if len(known_patients) == sum(split["num_cells"] for split in manifest["splits"].values()):
        lines.append(f"  warning: each cell has a {noun} of its own; check --patient_regex or --patient_column")
    shared = sorted(patient for patient, num in Counter(known_patients).items() if num > 1)
    if shared and manifest["config"] == "given":
        lines.append(
            f"  warning: given splits share {quantity(len(shared), noun)}, such as {shared[0]}: metrics are "
            "optimistic; --config=by_patient makes splits that share none"
        )
    lines += [f"  advice: {advice}" for advice in _advice(result, len(set(known_patients)))]
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


def _advice(result: JobResult, num_patients: int) -> Iterator[str]:
    splits = result.manifest["splits"].values()
    counts = {label: sum(split["classes"][label] for split in splits) for label in LABELS}
    num_cells = sum(counts.values())
    if result.num_with_background and result.manifest["settings"].get("background") != "black":
        with_background = f"{result.num_with_background:,} of {num_cells:,} cells"
        yield f"borders are not black in {with_background}: --background=black masks what surrounds a cell"
    converted = result.manifest.get("converted", {})
    if unlike := {kind: num for kind, num in converted.items() if any(word in kind for word in _UNLIKE_OTHERS)}:
        kinds = ", ".join(f"{num:,} {kind}" for kind, num in unlike.items())
        yield f"not 8-bit RGB: {kinds}; a model that learns colours needs cells like those that it will predict"
    if 0 < num_patients < _FEW_PATIENTS and result.manifest["config"] != "folds":
        noun = patient_noun(result.manifest["settings"])
        yield f"{quantity(num_patients, noun)}: use trainers.cross_validate (--config=folds), which tests on each one"
    (fewer, fewest), (more, most) = sorted(counts.items(), key=lambda count: count[1])
    if most >= _IMBALANCE * fewest > 0:
        yield f"{fewer} to {more} cells are 1:{most / fewest:.1f}: train with --class_weight=balanced"
