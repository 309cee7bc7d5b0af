import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from pipeline.errors import InputError
from trainers.models import architectures, vgg_weights

NAMES = list(architectures.VGG_CONVOLUTIONS)


@pytest.fixture(scope="module")
def model():
    """One VGG for all tests: each sets its weights anew."""
    return architectures.vgg_frozen(32)


@pytest.fixture(scope="module")
def donor():
    """Keras's own VGG-19 with weights that are told apart by layer."""
    peer = keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))
    mark(peer)
    return peer


def mark(model, value=None):
    for i, name in enumerate(NAMES):
        layer = model.get_layer(name)
        layer.set_weights([np.full(weight.shape, i / 100 if value is None else value) for weight in layer.weights])


def assert_marked(model):
    for i, name in enumerate(NAMES):
        for weight in model.get_layer(name).get_weights():
            np.testing.assert_array_equal(weight, np.float32(i / 100))


def write_npz(path, names=NAMES, **changed):
    filters = [3, *architectures.VGG_CONVOLUTIONS.values()]
    arrays = {}
    for i, name in enumerate(NAMES):
        if name in names:
            arrays[f"{name}/kernel"] = np.full((3, 3, filters[i], filters[i + 1]), i / 100, np.float32)
            arrays[f"{name}/bias"] = np.full(filters[i + 1], i / 100, np.float32)
    np.savez(path, **(arrays | changed))
    return str(path)


def write_older_format(path, donor, nested):
    """As Keras 2 wrote weights (and, nested, models)."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        root.attrs["layer_names"] = [layer.name.encode() for layer in donor.layers]
        for layer in donor.layers:
            group = root.create_group(layer.name)
            keys = [f"{layer.name}/{kind}:0" for kind in ("kernel", "bias")][: len(layer.weights)]
            group.attrs["weight_names"] = [key.encode() for key in keys]
            for key, value in zip(keys, layer.get_weights(), strict=True):
                group[key] = value


def test_an_npz_by_layer_name(model, tmp_path):
    mark(model, 9)
    lines = vgg_weights.load(model, write_npz(tmp_path / "w.npz"))
    assert_marked(model)
    assert lines == [f"VGG weights: 16 of 16 convolutions from {tmp_path}/w.npz"]


def test_what_an_npz_lacks_keeps_its_initialisation_and_is_named(tmp_path):
    keras.utils.set_random_seed(0)
    model = architectures.vgg_ft(32)
    before = {name: model.get_layer(name).get_weights() for name in NAMES}
    lines = vgg_weights.load(model, write_npz(tmp_path / "w.npz", names=NAMES[:8]))
    assert lines[0].startswith("VGG weights: 8 of 16")
    assert [line.split()[2] for line in lines[1:]] == NAMES[8:]
    assert all("He initialisation" in line for line in lines[1:])
    for i, name in enumerate(NAMES):
        kernel, bias = model.get_layer(name).get_weights()
        if i < 8:
            assert (kernel == np.float32(i / 100)).all()
        else:
            np.testing.assert_array_equal(kernel, before[name][0])
            fan_in = np.prod(kernel.shape[:3])
            assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.02), "He, for relu"
            assert (bias == 0).all()


def test_none_changes_nothing(model):
    mark(model)
    assert vgg_weights.load(model, "none") == ["VGG weights: none, all convolutions start from He initialisation"]
    assert_marked(model)


@pytest.mark.parametrize("nested", [False, True])
def test_keras_older_format(model, donor, nested, tmp_path):
    mark(model, 9)
    write_older_format(tmp_path / "w.h5", donor, nested)
    lines = vgg_weights.load(model, str(tmp_path / "w.h5"))
    assert_marked(model)
    assert lines[0].startswith("VGG weights: 16 of 16")


def assert_loads(model, path):
    mark(model, 9)
    lines = vgg_weights.load(model, str(path))
    assert_marked(model)
    assert len(lines) == 1


def test_weights_of_keras_3(model, donor, tmp_path):
    fine_tuned = architectures.vgg_ft(32)
    mark(fine_tuned)
    for of in (donor, fine_tuned):
        of.save_weights(tmp_path / "w.weights.h5")
        assert_loads(model, tmp_path / "w.weights.h5")


def test_saved_models(model, donor, tmp_path):
    fine_tuned = architectures.vgg_ft(32)
    mark(fine_tuned)
    for of in (donor, fine_tuned):
        of.save(tmp_path / "m.keras")
        assert_loads(model, tmp_path / "m.keras")


def test_imagenet_is_keras_own_download(model, donor, monkeypatch):
    asked = []

    def download(**arguments):
        asked.append(arguments)
        return donor

    monkeypatch.setattr(keras.applications, "VGG19", download)
    mark(model, 9)
    lines = vgg_weights.load(model, "imagenet")
    assert_marked(model)
    assert asked == [{"include_top": False, "weights": "imagenet", "input_shape": (32, 32, 3)}]
    assert lines == ["VGG weights: 16 of 16 convolutions from ImageNet, Keras's download"]


def test_no_network_and_no_cached_file(model, monkeypatch):
    def download(**_):
        raise Exception("URL fetch failure")  # as Keras does

    monkeypatch.setattr(keras.applications, "VGG19", download)
    with pytest.raises(InputError, match=r"=imagenet cannot be downloaded \(URL fetch failure\)") as raised:
        vgg_weights.load(model, "imagenet")
    assert "notop.h5 into ~/.keras/models" in str(raised.value)
    assert "--vgg_weights=none" in str(raised.value)


def test_files_that_cannot_be_used(model, donor, tmp_path):
    mark(model)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04torn")
    (tmp_path / "torn.h5").write_bytes(b"\x89HDF torn")
    (tmp_path / "torn.keras").write_bytes(b"PK\x03\x04torn")
    (tmp_path / "w.pt").write_bytes(b"")
    architectures.basic_cnn(32).save_weights(tmp_path / "other.weights.h5")
    nested = keras.Sequential([keras.Input((32, 32, 3)), donor, keras.layers.Flatten()])
    nested.save_weights(tmp_path / "nested.weights.h5")
    architectures.basic_cnn(32).save(tmp_path / "other.keras")
    write_npz(tmp_path / "other.npz", names=[], **{"stem/kernel": np.zeros(3)})
    wrong_shape = {"block2_conv1/kernel": np.zeros((3, 3, 64, 64), np.float32)}
    write_npz(tmp_path / "shape.npz", **wrong_shape)
    write_npz(tmp_path / "nan.npz", **{"block1_conv1/bias": np.full(64, np.nan, np.float32)})
    np.savez(tmp_path / "no_bias.npz", **{"block1_conv1/kernel": np.zeros((3, 3, 3, 64))})
    for name, expected in {
        "missing.npz": "does not exist",
        "torn.npz": "cannot be read",
        "torn.h5": "cannot be read",
        "torn.keras": "cannot be read",
        "w.pt": "of an unknown type",
        "other.weights.h5": "holds the weights of another model",
        "nested.weights.h5": "holds the weights of another model",
        "other.keras": "holds the weights of another model",
        "other.npz": "has none of VGG-19's layers",
        "shape.npz": r"block2_conv1 has the shapes \[\(3, 3, 64, 64\), \(128,\)\], expected \[\(3, 3, 64, 128\)",
        "nan.npz": "block1_conv1 has NaN or infinite values",
        "no_bias.npz": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=expected) as raised:
            vgg_weights.load(model, str(tmp_path / name))
        assert f"--vgg_weights={tmp_path / name}" in str(raised.value)
        assert "\n" not in str(raised.value), raised.value
        assert_marked(model)


def test_imagenets_weights_in_an_npz(model):
    """They lie beside the archive of real cells."""
    path = Path(os.environ.get("MALARIA_CELLS", "")).parent / "vgg19_imagenet.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    assert vgg_weights.load(model, str(path)) == [f"VGG weights: 16 of 16 convolutions from {path}"]
    with np.load(path) as file:
        np.testing.assert_array_equal(model.get_layer("block5_conv4").get_weights()[0], file["block5_conv4/kernel"])
