"""Labels and patients of records, with an index and without."""

import shutil

import numpy as np
import pytest
from conftest import open_split

from pipeline.errors import InputError
from pipeline.records import index, layout
from trainers import data
from trainers.input_pipeline import batching


def expected(split):
    batches = list(batching.evaluation_batches(split, 16))
    labels = np.concatenate([label.numpy() for _, label, *_ in batches])
    return labels, [patient.decode() for *_, patients in batches for patient in patients.numpy()]


def test_index_and_records_tell_the_same(data_dir, tmp_path):
    split = open_split(data_dir, "train[5:25]")
    found = [index.labels_and_patients(*part) for part in zip(split.files, split.skips, split.takes, strict=True)]
    labels, patient_ids = expected(split)
    assert np.concatenate([part.labels for part in found]).tolist() == labels.tolist()
    assert np.concatenate([part.patient_ids for part in found]).tolist() == patient_ids
    copy = shutil.copy(split.files[0], tmp_path)
    alone = index.labels_and_patients(copy, split.skips[0], split.takes[0])
    assert alone.patient_ids.tolist() == found[0].patient_ids.tolist()


def test_a_damaged_shard_is_named(data_dir, tmp_path):
    shard = shutil.copy(open_split(data_dir, "train").files[0], tmp_path)
    (tmp_path / layout.index_name("x")).touch()
    content = bytearray((tmp_path / shard).read_bytes())
    content[3] ^= 1
    (tmp_path / shard).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        index.labels_and_patients(shard, 0, 5)
    with pytest.raises(InputError, match="cannot be read"):
        index.labels_and_patients(str(tmp_path / "missing"), 0, 5)


@pytest.mark.parametrize(
    "expression", ["train", "validation", "train[:10%]", "train[30:]", "train+test[:3]", "train[:5]+train[15:]"]
)
def test_patients_of_any_split_expression(data_dir, expression):
    data_set = data.open_data_set(str(data_dir), "by_patient")
    split = data_set.open_split(expression)
    assert data.patients_of(split, data_set.manifest) == sorted(set(expected(split)[1]))


def test_whole_splits_are_known_without_reading(data_dir, monkeypatch):
    data_set = data.open_data_set(str(data_dir), "by_patient")
    monkeypatch.setattr(index, "labels_and_patients", None)
    patients = data.patients_of(data_set.open_split("train+validation"), data_set.manifest)
    splits = data_set.manifest["splits"]
    assert patients == sorted(splits["train"]["patients"] + splits["validation"]["patients"])
