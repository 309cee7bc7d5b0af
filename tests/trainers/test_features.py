import json
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from extraction import BLOCK_CELLS, build, extract
from trainers.input_pipeline.corruption import DamagedRecords
from trainers.input_pipeline.splits import open_split, part

from pipeline.errors import InputError
from pipeline.records import layout, manifest
from trainers.input_pipeline import batching, resident
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.models import features, parts


@pytest.fixture(scope="module")
def directory(data_dir):
    return layout.dataset_dir(str(data_dir), "by_patient")


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Blocks of 16 cells: a split has some."""
    before, features._BLOCK_CELLS = features._BLOCK_CELLS, BLOCK_CELLS
    yield
    features._BLOCK_CELLS = before


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def undisturbed(directory, model, tmp_path_factory):
    """A whole extraction: its cache and its features."""
    cache = tmp_path_factory.mktemp("features")
    return cache, extract(directory, "train", cache, model)


def content(cache):
    (folder,) = cache.iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def count_computed(monkeypatch):
    """Numbers of cells of each call of a backbone from now on."""
    computed = []
    original = keras.Model.predict_on_batch

    def counted(self, x):
        computed.append(len(x))
        return original(self, x)

    monkeypatch.setattr(keras.Model, "predict_on_batch", counted)
    return computed


def test_the_head_on_features_predicts_what_the_whole_does_on_images(directory, model, undisturbed):
    cells = resident.load(open_split(directory, "train"))
    found = undisturbed[1]
    assert (found.values.dtype, found.values.shape) == (np.float16, (len(cells.labels), 512))
    np.testing.assert_array_equal(found.labels, cells.labels)
    head = parts.split(model).head
    on_features = head.predict(features.evaluation_batches(found, 16), verbose=0)
    on_images = model.predict(cells.images, verbose=0)
    assert on_images.std() > 0.01, f"predictions differ from cell to cell by {on_images.std()}"
    np.testing.assert_allclose(on_features, on_images, atol=2e-3)


def test_batches_are_the_input_pipelines(directory, model, undisturbed):
    split = open_split(directory, "train")
    order = ShuffleOrder(split.num_cells, 16, seed=7)
    backbone = parts.split(model).backbone
    for start_step in (0, 5):
        of_images = batching.training_batches(split, order, 2, "resident", start_step)
        of_features = features.training_batches(undisturbed[1], order, 2, start_step)
        pairs = list(zip(of_images, of_features, strict=True))
        assert len(pairs) == 2 * order.steps_per_epoch - start_step
        for (image, label), (values, its_label) in pairs:
            np.testing.assert_array_equal(label, its_label)
            np.testing.assert_allclose(backbone.predict_on_batch(image), values, rtol=2e-3, atol=1e-2)
    host = features.training_batches(undisturbed[1], order._replace(shard_index=1, shard_count=2), 1)
    whole = features.training_batches(undisturbed[1], order, 1)
    for (half, _), (both, _) in zip(host, whole, strict=True):
        np.testing.assert_array_equal(half, both[len(both) // 2 :])


def test_evaluation_has_every_cell_once_in_order(undisturbed):
    batches = list(features.evaluation_batches(undisturbed[1], 50))
    assert len(batches) == features.evaluation_batches(undisturbed[1], 50).cardinality()
    np.testing.assert_array_equal(np.concatenate([values for values, _ in batches]), undisturbed[1].values)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), undisturbed[1].labels)


def test_computed_once(directory, model, undisturbed, monkeypatch, capsys):
    computed = count_computed(monkeypatch)
    again = extract(directory, "train", undisturbed[0], model)
    assert computed == []
    np.testing.assert_array_equal(again.values, undisturbed[1].values)
    num_cells = len(again.labels)
    assert f"features of train: {num_cells} of {num_cells} cells are in" in capsys.readouterr().out


@pytest.mark.parametrize("moment", ["block", "progress"])
def test_a_killed_extraction_continues_to_the_same_bytes(
    directory, model, undisturbed, moment, tmp_path, monkeypatch, capsys
):
    command = [sys.executable, ROOT / "tests/trainers/extraction.py", directory, "train", tmp_path, moment]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    computed = count_computed(monkeypatch)
    extract(directory, "train", tmp_path, model)
    num_cells = len(undisturbed[1].labels)
    assert sum(computed) == num_cells - 32, "two blocks were kept"
    assert f"features of train: 32 of {num_cells}" in capsys.readouterr().out
    wanted, found = content(undisturbed[0]), content(tmp_path)
    found.pop("progress.json.partial", None)
    assert found == wanted


def test_a_damaged_block_is_computed_again(directory, model, undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed[0], tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    computed = count_computed(monkeypatch)
    for name, position in (("features.npy", -3), ("labels.npy", 128 + 8 * 20)):
        damaged = bytearray((folder / name).read_bytes())
        damaged[position] ^= 1
        (folder / name).write_bytes(damaged)
    extract(directory, "train", tmp_path / "cache", model)
    num_cells = len(undisturbed[1].labels)
    assert sum(computed) == 16 + (num_cells % 16 or 16), "the second block and the last one"
    wanted, found = content(undisturbed[0]), content(tmp_path / "cache")
    assert {**found, "progress.json": None} == {**wanted, "progress.json": None}
    assert json.loads(found["progress.json"]) == json.loads(wanted["progress.json"])


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("progress.json", b"{"),
        ("progress.json", b"[]"),
        ("progress.json", None),
        ("features.npy", b""),
        ("features.npy", b"\x93NUMPY torn"),
        ("labels.npy", None),
    ],
)
def test_files_that_are_damaged_are_made_again(directory, model, undisturbed, name, damaged, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    if damaged is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damaged)
    extract(directory, "train", tmp_path / "cache", model)
    assert content(tmp_path / "cache") == content(undisturbed[0])


def test_what_decides_on_features_decides_on_their_folder(directory, model, tmp_path):
    split, its_manifest = open_split(directory, "train[:8]"), manifest.read(directory)
    backbone = parts.split(model).backbone
    none = np.zeros(8, bool)
    found = [features.fingerprint(backbone, split, its_manifest, "imagenet", none)]
    found.append(features.fingerprint(backbone, split, its_manifest, "original", none))
    found.append(features.fingerprint(backbone, part(split, 0, 7), its_manifest, "imagenet", none))
    found.append(features.fingerprint(backbone, split, its_manifest, "imagenet", ~none))
    other = json.loads(json.dumps(its_manifest))
    other["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    found.append(features.fingerprint(backbone, split, other, "imagenet", none))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        low = build()
    finally:
        keras.config.set_dtype_policy("float32")
    found.append(features.fingerprint(parts.split(low).backbone, split, its_manifest, "imagenet", none))
    assert found[0]["backbone"] == found[-1]["backbone"]
    bias = low.get_layer("block3_conv2").bias
    bias.assign(np.full(bias.shape, 1e-3))
    found.append(features.fingerprint(parts.split(low).backbone, split, its_manifest, "imagenet", none))
    texts = [json.dumps(item, sort_keys=True) for item in found]
    assert len(set(texts)) == len(texts)
    assert features.fingerprint(backbone, split, its_manifest, "imagenet", none) == found[0]
    extract(directory, "train[:8]", tmp_path, model)
    extract(directory, "train[8:16]", tmp_path, model)
    assert len(list(tmp_path.iterdir())) == 2


def test_half_precision(directory, tmp_path, model):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        low = build()
    finally:
        keras.config.set_dtype_policy("float32")
    found = extract(directory, "validation", tmp_path, low)
    assert found.values.dtype == np.float16
    whole = low.predict(resident.load(open_split(directory, "validation")).images, batch_size=8, verbose=0)
    on_features = parts.split(low).head.predict(features.evaluation_batches(found, 8), verbose=0)
    np.testing.assert_allclose(on_features, whole, atol=2e-2)


def test_damaged_records(directory, model, undisturbed, tmp_path):
    shutil.copytree(directory, tmp_path / "data")
    shard = next((tmp_path / "data").glob("*-train.tfrecord-00001-of-?????"))
    stored = bytearray(shard.read_bytes())
    stored[1000] ^= 1
    shard.write_bytes(stored)
    damaged = DamagedRecords(at_most=1)
    found = extract(tmp_path / "data", "train", tmp_path / "cache", model, damaged=damaged)
    assert damaged.found == [(str(shard), 0)]
    (row,) = np.flatnonzero(found.is_damaged)
    assert row == open_split(directory, "train").takes[0], "the first of the second shard"
    wanted = undisturbed[1]
    assert (found.values[row] == 0).all()
    np.testing.assert_array_equal(np.delete(found.labels, row, 0), np.delete(wanted.labels, row, 0))
    np.testing.assert_allclose(np.delete(found.values, row, 0), np.delete(wanted.values, row, 0), rtol=2e-3, atol=1e-2)
    rows = [values.numpy() for values, _ in features.training_batches(found, ShuffleOrder(len(found.labels), 16, 0), 1)]
    assert sum(map(len, rows)) == len(found.labels) - 1
    assert all((values != 0).any(axis=1).all() for values in rows)


def test_features_beyond_float16(directory, tmp_path):
    model = build()
    kernel = model.get_layer("block1_conv1").kernel
    kernel.assign(np.asarray(kernel) * 1e5)
    with pytest.raises(InputError, match=r"beyond float16's 65504; check --vgg_weights"):
        extract(directory, "validation", tmp_path, model)


def test_a_cache_that_cannot_be_written(directory, model, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot hold the features.*another --run_dir"):
        extract(directory, "validation", tmp_path / "file", model)
    from trainers.models.feature_file import FeatureFile

    def full(*_):
        raise OSError(28, "No space left on device")

    file = FeatureFile(tmp_path / "cache", {}, 8, 4, 8)
    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(InputError, match="No space left on device"):
        file.write(0, np.zeros((8, 4), np.float16), np.zeros(8, np.int64))


def test_parts_of_a_split(directory):
    split = open_split(directory, "train[3:]")
    assert part(split, 0, split.num_cells) == split
    cells = resident.load(split).labels
    for start, stop in ((0, 1), (16, 18), (10, 61), (split.num_cells - 1, split.num_cells)):
        some = part(split, start, stop)
        assert some.num_cells == stop - start
        np.testing.assert_array_equal(resident.load(some).labels, cells[start:stop])
