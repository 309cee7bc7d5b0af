"""What `pipeline.preprocess` prints: what it takes for what, before it writes anything; then results and advice."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.cells import LABELS, SPLITS, guess_label, patient_noun
from pipeline.job.plan import Settings
from pipeline.job.results import JobResult
from pipeline.records.manifest import Manifest
from pipeline.source.listing import Listing
from pipeline.terminal import quantity

_FEW_PATIENTS = 20
_NAMED_FOLDERS = 5
_IMBALANCE = 3.0  # cells of the more frequent label to those of the other
_UNLIKE_OTHERS = ("grey", "16-bit", "alpha", "transparency")  # in the names of conversions


def mapping(listing: Listing, settings: Settings) -> Iterator[str]:
    """Which names of the source are taken for which labels, patients and splits; a line each."""
    cells, layout = listing.cells, listing.layout
    counts = [quantity(number, "cell") for number in np.bincount(cells.labels).tolist()]
    yield "; ".join(f"{name} ← {layout.describe(i)}, {counts[i]}" for i, name in enumerate(LABELS))
    if num_patients := len(set(cells.patient_ids) - {""}):
        column, noun = layout.patient_column, "patient"
        told_by = f"--patient_regex={settings.patient_regex}"
        if column:
            told_by, noun = f"column {column}", patient_noun({"patient_column": column})
        elif layout.folders[0].count("/") > layout.has_splits:
            told_by += ", else the folders around the class folders"
        yield f"{quantity(num_patients, noun)} ← {told_by}"
    if cells.splits is not None:
        numbers = zip(SPLITS, np.bincount(cells.splits).tolist(), strict=False)
        given = ", ".join(f"{name} {quantity(number, 'cell')}" for name, number in numbers if number)
        yield f"given splits, which --config=given keeps: {given}"
    for name, label in layout.names.items():
        if guess_label(name) not in (None, label):
            says = f"{layout.describe(label)}, whose name says the opposite"
            yield f"warning: {LABELS[label]} ← {says}; check --class_folders"
    if left_out := listing.left_out:
        counts = [f"{quantity(number, 'image')} in {name}/" for name, number in left_out.most_common(_NAMED_FOLDERS)]
        more = ", …" if len(left_out) > len(counts) else ""
        yield f"warning: left out are {', '.join(counts)}{more}; --class_folders takes several names for a label"


def result(result: JobResult) -> Iterator[str]:
    """What a data set holds, its warnings, then advice on how to use it; a line each."""
    manifest = result.manifest
    splits, noun = manifest["splits"], patient_noun(manifest["settings"])
    shards = [shard for split in splits.values() for shard in split["shards"]]
    patients = [patient for split in splits.values() for patient in split["patients"] if patient]
    yield f"{manifest['dataset']}/{manifest['config']}/{manifest['version']} from {manifest['source']['name']}"
    for name, split in splits.items():
        known = len(set(split["patients"]) - {""})
        of_patients = quantity(known, noun) if known else f"unknown {noun}s"
        classes = ", ".join(f"{count:,} {label}" for label, count in split["classes"].items())
        yield f"  {name:<10} {quantity(split['num_cells'], 'cell'):>15} of {of_patients} ({classes})"
    skipped = ", ".join(f"{count} {reason}" for reason, count in manifest["source"]["skipped"].items()) or "none"
    converted = ", ".join(f"{count} {kind}" for kind, count in manifest.get("converted", {}).items()) or "none"
    yield f"  files skipped: {skipped}; images rejected: {len(manifest['rejected'])}, converted: {converted}"
    if overrides := manifest.get("label_overrides"):
        yield f"  label overrides: {overrides['num_corrected']} corrected, {overrides['num_excluded']} left out"
    for warning in _warnings(manifest, patients):
        yield f"  warning: {warning}"
    for advice in _advice(result, len(set(patients))):
        yield f"  advice: {advice}"
    what = "already there"
    if result.num_filled or result.repaired:
        what = f"filled {quantity(result.num_filled, 'cell')} in {result.seconds:.2f} s"
        what += f" ({result.num_filled / result.seconds:,.0f} cells/s)"
    if result.repaired:
        what += f" to repair {', '.join(result.repaired)}"
    num_bytes = sum(shard["num_bytes"] for shard in shards)
    yield f"  {quantity(len(shards), 'shard')}, {num_bytes / 1e6:,.1f} MB; {what}"
    yield f"  {result.directory}"


def _warnings(manifest: Manifest, patients: Sequence[str]) -> Iterator[str]:
    """Warnings; `patients` are those of each split, one after the other."""
    noun = patient_noun(manifest["settings"])
    duplicates = manifest.get("duplicates", {"num_cells": 0})
    if duplicates["num_cells"]:
        yield (
            f"images that are copies of others: {duplicates['num_cells']}, contents with both labels: "
            f"{duplicates['num_label_conflicts']}, in several splits: {duplicates['num_across_splits']}; see "
            "duplicates in manifest.json"
        )
    if len({patient.casefold() for patient in patients}) < len(set(patients)):
        yield f"{noun}s that differ only in upper and lower case count as different"
    if len(patients) == sum(split["num_cells"] for split in manifest["splits"].values()):
        yield f"each cell has a {noun} of its own; check --patient_regex or --patient_column"
    shared = sorted(patient for patient, num in Counter(patients).items() if num > 1)
    if shared and manifest["config"] == "given":
        yield (
            f"given splits share {quantity(len(shared), noun)}, such as {shared[0]}: metrics are optimistic; "
            "--config=by_patient makes splits that share none"
        )


def _advice(result: JobResult, num_patients: int) -> Iterator[str]:
    manifest = result.manifest
    counts = {label: sum(split["classes"][label] for split in manifest["splits"].values()) for label in LABELS}
    if result.num_with_background and manifest["settings"].get("background") != "black":
        with_background = f"{result.num_with_background:,} of {quantity(sum(counts.values()), 'cell')}"
        yield f"borders are not black in {with_background}: --background=black --overwrite masks what surrounds a cell"
    converted = manifest.get("converted", {})
    if unlike := {kind: num for kind, num in converted.items() if any(word in kind for word in _UNLIKE_OTHERS)}:
        kinds = ", ".join(f"{num:,} {kind}" for kind, num in unlike.items())
        yield f"not 8-bit RGB: {kinds}; a model that learns colours needs cells like those that it will predict"
    if 0 < num_patients < _FEW_PATIENTS and manifest["config"] != "folds":
        few = quantity(num_patients, patient_noun(manifest["settings"]))
        yield f"{few}: use trainers.cross_validate (--config=folds), which tests on each one"
    (fewer, fewest), (more, most) = sorted(counts.items(), key=lambda count: count[1])
    if most >= _IMBALANCE * fewest > 0:
        yield f"{fewer} to {more} cells are 1:{most / fewest:.1f}: train with --class_weight=balanced"
