"""Features of a frozen backbone: what they are, when they are computed, what happens to files that are torn."""

import json
import shutil

import keras
import numpy as np
import pytest
from conftest import open_split
from keras import layers

from pipeline.errors import InputError
from trainers.input_pipeline import batching, resident
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.models import features
from trainers.models.features import split_backbone


def build(policy="float32"):
    """A small model with the layers by which models are split."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255, dtype=policy)(image)
    x = layers.Conv2D(8, 3, activation="relu", dtype=policy, name="conv")(x)
    x = layers.Flatten(dtype=policy, name="flatten")(layers.MaxPooling2D(4, dtype=policy)(x))
    x = layers.Dense(16, activation="relu", dtype=policy, name="fc1")(x)
    return keras.Model(image, layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x))


def extract(data_dir, expression, cache, model):
    split = open_split(data_dir, expression)
    return features.extract(split_backbone(model).backbone, split, cache, vgg_input="imagenet", batch_size=8)


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def computed(data_dir, model, tmp_path_factory):
    """A cache and the features of the training split in it."""
    cache = tmp_path_factory.mktemp("features")
    return cache, extract(data_dir, "train", cache, model)


@pytest.fixture
def num_computed(monkeypatch):
    """Number of cells of each call of a backbone."""
    calls = []
    predict = keras.Model.predict_on_batch
    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda self, x: calls.append(len(x)) or predict(self, x))
    return calls


def content(cache):
    (path,) = cache.iterdir()
    return path.read_bytes()


def test_the_head_on_features_predicts_what_the_model_does_on_images(data_dir, model, computed):
    cells = resident.load(open_split(data_dir, "train"))
    values, labels = computed[1]
    assert (values.dtype, values.shape) == (np.float16, (len(cells.labels), 392))
    np.testing.assert_array_equal(labels, cells.labels)
    on_features = split_backbone(model).head.predict(features.evaluation_batches(computed[1], 16), verbose=0)
    on_images = model.predict(cells.images, verbose=0)
    assert on_images.std() > 0.01, f"predictions differ from cell to cell by {on_images.std()}"
    np.testing.assert_allclose(on_features, on_images, atol=2e-3)


def test_batches_are_the_input_pipelines(data_dir, model, computed):
    split = open_split(data_dir, "train")
    order = ShuffleOrder(split.num_cells, 16, seed=7)
    backbone = split_backbone(model).backbone
    of_images = batching.training_batches(split, order, 2, "resident", 5)
    of_features = features.training_batches(computed[1], order, order.starts(5, 2))
    pairs = list(zip(of_images, of_features, strict=True))
    assert len(pairs) == 2 * order.steps_per_epoch - 5
    for (image, label), (values, label_of_features) in pairs:
        np.testing.assert_array_equal(label, label_of_features)
        np.testing.assert_allclose(backbone.predict_on_batch(image), values, rtol=2e-3, atol=1e-2)
    host = features.training_batches(computed[1], order._replace(shard_index=1, shard_count=2), order.starts(0, 1))
    for (half, _), (both, _) in zip(
        host, features.training_batches(computed[1], order, order.starts(0, 1)), strict=True
    ):
        np.testing.assert_array_equal(half, both[len(both) // 2 :])


def test_computed_once(data_dir, model, computed, num_computed, capsys):
    again = extract(data_dir, "train", computed[0], model)
    assert num_computed == []
    np.testing.assert_array_equal(again.values, computed[1].values)
    assert "features of train: computed before, in" in capsys.readouterr().out


def test_an_extraction_that_ends_early_leaves_no_file(data_dir, model, computed, tmp_path, monkeypatch, num_computed):
    with monkeypatch.context() as context:
        every_batch = batching.evaluation_batches
        context.setattr(batching, "evaluation_batches", lambda *arguments: end_after(every_batch(*arguments).take(3)))
        with pytest.raises(KeyboardInterrupt):
            extract(data_dir, "train", tmp_path, model)
    assert num_computed == [8, 8, 8]
    assert not list(tmp_path.iterdir())
    extract(data_dir, "train", tmp_path, model)
    assert sum(num_computed[3:]) == len(computed[1].labels)
    assert content(tmp_path) == content(computed[0])


def end_after(batches):
    yield from batches
    raise KeyboardInterrupt


@pytest.mark.parametrize("change", ["features", "checksum", "cut off", "empty", "too short for a checksum"])
def test_a_file_that_does_not_fit_its_checksum_is_computed_again(
    data_dir, model, computed, change, tmp_path, num_computed
):
    shutil.copytree(computed[0], tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    intact = path.read_bytes()
    position = {"features": 1000, "checksum": -1}.get(change)
    if position is None:
        torn = {"cut off": intact[:-5000], "empty": b"", "too short for a checksum": intact[:9]}[change]
    else:
        torn = bytearray(intact)
        torn[position] ^= 1
    path.write_bytes(torn)
    extract(data_dir, "train", tmp_path / "cache", model)
    assert sum(num_computed) == len(computed[1].labels)
    assert content(tmp_path / "cache") == intact


def test_everything_that_decides_features_decides_their_file(data_dir, model, tmp_path):
    split = open_split(data_dir, "train[:8]")
    backbone = split_backbone(model).backbone
    other_shard = split._replace(shards=({**split.shards[0], "sha256": "0" * 64},))
    low = build("mixed_bfloat16")
    fingerprints = [
        features.fingerprint(backbone, split, "imagenet"),
        features.fingerprint(backbone, split, "original"),
        features.fingerprint(backbone, open_split(data_dir, "train[:7]"), "imagenet"),
        features.fingerprint(backbone, other_shard, "imagenet"),
        features.fingerprint(split_backbone(low).backbone, split, "imagenet"),
    ]
    assert fingerprints[0]["backbone"] == fingerprints[-1]["backbone"]
    bias = low.get_layer("conv").bias
    bias.assign(np.full(bias.shape, 1e-3))
    fingerprints.append(features.fingerprint(split_backbone(low).backbone, split, "imagenet"))
    texts = [json.dumps(item, sort_keys=True) for item in fingerprints]
    assert len(set(texts)) == len(texts)
    assert features.fingerprint(backbone, split, "imagenet") == fingerprints[0]
    extract(data_dir, "train[:8]", tmp_path, model)
    extract(data_dir, "train[8:16]", tmp_path, model)
    assert len(list(tmp_path.iterdir())) == 2


def test_half_precision(data_dir, tmp_path):
    low = build("mixed_bfloat16")
    extracted = extract(data_dir, "validation", tmp_path, low)
    assert extracted.values.dtype == np.float16
    on_images = low.predict(resident.load(open_split(data_dir, "validation")).images, batch_size=8, verbose=0)
    on_features = split_backbone(low).head.predict(features.evaluation_batches(extracted, 8), verbose=0)
    np.testing.assert_allclose(on_features, on_images, atol=2e-2)


def test_features_beyond_float16(data_dir, tmp_path):
    model = build()
    kernel = model.get_layer("conv").kernel
    kernel.assign(np.asarray(kernel) * 1e6)
    with pytest.raises(InputError, match=r"beyond float16's 65504; check --vgg_weights"):
        extract(data_dir, "validation", tmp_path, model)
    assert not list(tmp_path.iterdir())
