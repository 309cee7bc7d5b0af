"""The order and the batches of a training without TensorFlow."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, flip_bit, open_split, prepare

from pipeline.errors import InputError
from pipeline.records.random_access import Cells, ShuffledBatches, index_shuffle
from trainers.input_pipeline import batching
from trainers.input_pipeline.shuffle_order import ShuffleOrder

LARGEST = [
    0,
    1,
    2,
    3,
    100,
    255,
    256,
    27557,
    65535,
    65536,
    65537,
    2**18,
    2**18 + 1,
    10**6,
    2**31 - 1,
    2**52 + 1,
    2**63 - 1,
]


@pytest.mark.parametrize("max_index", LARGEST)
def test_index_shuffle_is_tensorflows(max_index):
    random = np.random.default_rng(max_index)
    for seed in [(0, 0), (42, 3), (2**31 - 1, 7), (123456789, 2**31), (-1, 5)]:
        indices = np.arange(max_index + 1) if max_index < 300 else random.integers(0, max_index, 300, endpoint=True)
        indices[-1] = max_index
        expected = tf.random.experimental.index_shuffle(indices, np.array(seed), np.array(max_index)).numpy()
        np.testing.assert_array_equal(index_shuffle(indices, seed, max_index), expected, strict=True)
    with pytest.raises(ValueError, match="expected 0…"):
        index_shuffle(np.array([-1]), (0, 0), max_index)


@pytest.mark.parametrize("image_encoding", ["raw", "png"])
def test_batches_are_those_of_the_trainers(image_encoding, data_dir, synthetic_zip, tmp_path):
    if image_encoding == "png":
        prepare(synthetic_zip, tmp_path, image_size_px=16, image_encoding="png")
        data_dir = tmp_path
    split = open_split(data_dir, "train")
    batches = ShuffledBatches(Cells(data_dir, "train"), batch_size=32, seed=7, epochs=2)
    batches = pickle.loads(pickle.dumps(batches))
    expected = batching.training_batches(split, ShuffleOrder(split.num_cells, 32, 7), 2, "resident")
    for batch, (image, label) in zip(list(batches), expected, strict=True):
        np.testing.assert_array_equal(batch["image"], image, strict=True)
        np.testing.assert_array_equal(batch["label"], label, strict=True)
    assert len(pickle.dumps(batches)) < 20_000, "shards are not sent to worker processes"


def test_neither_tensorflow_nor_tfds_is_imported(data_dir):
    code = (
        "import sys\nfrom pipeline.records.random_access import Cells, ShuffledBatches\n"
        f"assert ShuffledBatches(Cells({str(data_dir)!r}, 'train'), 8, 1)[3]['image'].shape == (8, 32, 32, 3)\n"
        "assert not {'tensorflow', 'tensorflow_datasets', 'apache_beam', 'cv2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_mistakes(data_dir, tmp_path):
    with pytest.raises(InputError, match=r"split=all is not in .*; expected one of train, validation, test"):
        Cells(data_dir, "all")
    shutil.copytree(data_dir / "tfds_malaria/by_patient", tmp_path / "tfds_malaria/by_patient")
    cells = Cells(tmp_path, "test")
    with pytest.raises(IndexError):
        cells[len(cells)]
    flip_bit(next((tmp_path / "tfds_malaria/by_patient/1.0.0").glob("*test*-00000-*[0-9]")), 500)
    with pytest.raises(InputError, match="record 0 is corrupt"):
        cells[0]
