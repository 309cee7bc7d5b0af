"""Records without their images, by the index."""

import shutil

import numpy as np
import pytest
from conftest import open_split

from pipeline.errors import InputError
from pipeline.records import example, index, layout
from trainers import data
from trainers.input_pipeline import batching


def expected(split):
    batches = list(batching.evaluation_batches(split, 16))
    labels = np.concatenate([label.numpy() for _, label, *_ in batches])
    names = zip(
        *([name.decode() for batch in batches for name in batch[column].numpy()] for column in (2, 3)), strict=True
    )
    return [example.ParsedExample(b"", int(label), *pair) for label, pair in zip(labels, names, strict=True)]


def test_index_and_records_tell_the_same(data_dir):
    split = open_split(data_dir, "train[5:25]")
    parts = zip(split.files, split.skips, split.takes, strict=True)
    assert [cell for part in parts for cell in index.read_without_images(*part)] == expected(split)


def test_a_corrupt_shard_is_named(data_dir, tmp_path):
    shard = open_split(data_dir, "train").files[0]
    copy = tmp_path / "shard"
    shutil.copy(shard, copy)
    with pytest.raises(InputError, match=rf"{copy}: it or its index cannot be read .*--repair"):
        index.read_index(str(copy))
    shutil.copy(layout.index_name(shard), layout.index_name(str(copy)))
    copy.write_bytes(bytes(copy.stat().st_size))
    with pytest.raises(InputError, match=rf"{copy}: record 0 is corrupt \(record 0 .*checksum"):
        list(index.read_without_images(str(copy), 0, 5))
    np.save(layout.index_name(str(copy)), np.zeros((5, 3)))
    with pytest.raises(InputError, match="its index does not have the int64 columns record_offset, "):
        index.read_index(str(copy))


@pytest.mark.parametrize("expression", ["train[:10%]", "train+test[:3]", "train[:5]+train[15:]"])
def test_patients_of_any_split_expression(data_dir, expression):
    split = open_split(data_dir, expression)
    assert data.patients_of(split) == sorted({cell.patient_id for cell in expected(split)})


def test_whole_splits_are_known_without_reading(data_dir, monkeypatch):
    data_set = data.open_data_set(str(data_dir), "by_patient")
    monkeypatch.setattr(index, "read_without_images", None)
    patients = data.patients_of(data_set.open_split("train+validation"))
    splits = data_set.manifest["splits"]
    assert patients == sorted(splits["train"]["patients"] + splits["validation"]["patients"])
