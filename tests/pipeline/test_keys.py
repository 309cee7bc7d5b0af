"""Labels and patients of records, with an index and without."""

import shutil

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.records import index, layout, manifest
from trainers import data
from trainers.input_pipeline import batching
from trainers.input_pipeline.splits import open_split


@pytest.fixture
def opened(data_dir):
    return manifest.read_dataset(str(data_dir), "by_patient")


def expected(split):
    batches = list(batching.evaluation_batches(split, 16))
    labels = np.concatenate([label.numpy() for _, label, *_ in batches])
    return labels, [patient.decode() for *_, patients in batches for patient in patients.numpy()]


def test_index_and_records_tell_the_same(opened, tmp_path):
    directory, _ = opened
    split = open_split(directory, "train[5:25]")
    found = [index.read(*part) for part in zip(split.files, split.skips, split.takes, strict=True)]
    labels, patient_ids = expected(split)
    assert np.concatenate([part.labels for part in found]).tolist() == labels.tolist()
    assert np.concatenate([part.patient_ids for part in found]).tolist() == patient_ids
    copy = shutil.copy(split.files[0], tmp_path)
    alone = index.read(copy, split.skips[0], split.takes[0])
    assert alone.patient_ids.tolist() == found[0].patient_ids.tolist()


def test_a_damaged_shard_is_named(opened, tmp_path):
    directory, _ = opened
    shard = shutil.copy(open_split(directory, "train").files[0], tmp_path)
    (tmp_path / layout.index_name("x")).touch()
    content = bytearray((tmp_path / shard).read_bytes())
    content[3] ^= 1
    (tmp_path / shard).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        index.read(shard, 0, 5)
    with pytest.raises(InputError, match="cannot be read"):
        index.read(str(tmp_path / "missing"), 0, 5)


@pytest.mark.parametrize("expression", ["train", "validation", "train[:10%]", "train[30:]", "train+test[:3]"])
def test_patients_of_any_split_expression(opened, expression):
    directory, its_manifest = opened
    split = open_split(directory, expression)
    assert data.patients_of(split, its_manifest) == sorted(set(expected(split)[1]))


def test_whole_splits_are_known_without_reading(opened, monkeypatch):
    directory, its_manifest = opened
    monkeypatch.setattr(index, "read", None)
    patients = data.patients_of(open_split(directory, "train+validation"), its_manifest)
    splits = its_manifest["splits"]
    assert patients == sorted(splits["train"]["patients"] + splits["validation"]["patients"])
