"""The models on Keras's JAX backend, in processes of their own; TensorFlow only reads the data there."""

import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, assert_one_line_error, free_port, run_command

from pipeline.errors import InputError
from trainers.augmentation import apply, params
from trainers.augmentation.ranges import FILLS, Ranges
from trainers.evaluation.report import image_grid
from trainers.models import architectures
from trainers.run_dir import read_history
from trainers.training import hardware

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed: make extras")
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
LABELS = np.arange(8) % 2

ENVIRONMENT = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}

TRAIN = """
import sys
import keras, numpy as np
from trainers.models import architectures
assert keras.backend.backend() == "jax"
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules), "models import no TensorFlow"
folder, name, policy = sys.argv[1:]
images, labels = np.load(f"{folder}/images.npy"), np.load(f"{folder}/labels.npy")
keras.utils.set_random_seed(0)
keras.config.set_dtype_policy(policy)
model = getattr(architectures, name)(32, dropout_rate=0.1)
model.get_layer("probability").kernel.assign(0.1 * np.asarray(model.get_layer("probability").kernel))
before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
model.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy")
losses = model.fit(images, labels, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
for layer in model.layers:
    if layer.weights:
        changed = any((old != new).any() for old, new in zip(before[layer.name], layer.get_weights()))
        assert changed == layer.trainable, layer.name
np.save(f"{folder}/predicted.npy", model.predict(images, verbose=0))
model.save(f"{folder}/model.keras")
"""

EXTRACT = """
import sys
from pathlib import Path
import keras, numpy as np
from trainers.data import open_data_set
from trainers.evaluation import predictions
from trainers.evaluation.report import image_grid
from trainers.input_pipeline import batching
from trainers.models import features
assert keras.backend.backend() == "jax"
data_set, folder = open_data_set(sys.argv[1], "by_patient"), Path(sys.argv[2])
model = keras.models.load_model(folder / "model.keras", compile=False)
halves, split = features.split_backbone(model), data_set.open_split("validation")
extracted = features.extract(halves.backbone, split, folder / "cache", vgg_input="imagenet")
expected = model.predict(batching.evaluation_batches(split, 64).map(lambda image, *_: image), verbose=0)
images = next(iter(batching.evaluation_batches(split, 3)))[0].numpy()
np.savez(folder / "maps.npz", images=images, maps=image_grid.heatmaps(model, images))
batches = features.evaluation_batches(extracted, 16)
np.testing.assert_allclose(halves.head.predict(batches, verbose=0), expected, atol=2e-3)
halves.head.compile("sgd", "binary_crossentropy")
halves.head.fit(batches, shuffle=False, verbose=0)
cells = predictions.predict_split(predictions.predictor(model, 64), split, 64, "validation")[0]
image_grid.log_misclassified(cells, split, folder / "tensorboard", 1)
assert list((folder / "tensorboard").iterdir())
"""


WARP = """
import sys
import keras, numpy as np
from trainers.augmentation import apply
assert keras.backend.backend() == "jax"
images, numbers = np.load(f"{sys.argv[1]}/images.npy"), np.load(f"{sys.argv[1]}/numbers.npy")
for fill in ("black", "nearest"):
    expected = np.load(f"{sys.argv[1]}/{fill}.npy").astype(int)
    for by_gathers in (False, True):
        changed = np.asarray(apply.change(images, numbers, fill, by_gathers=by_gathers))
        assert np.abs(changed - expected).max() <= 1, (fill, by_gathers)
"""


def run(code, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "policy"), [("basic_cnn", "float32"), pytest.param("vgg_ft", "mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_training_on_jax(name, policy, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "labels.npy", LABELS)
    run(TRAIN, tmp_path, name, policy)
    model = keras.models.load_model(tmp_path / "model.keras")
    trainable = [weight.path for weight in getattr(architectures, name)(32).trainable_weights]
    assert [weight.path for weight in model.trainable_weights] == trainable
    on_jax = np.load(tmp_path / "predicted.npy")
    assert on_jax.std() > 1e-3
    atol = 1e-4 if policy == "float32" else 2e-2
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), on_jax, atol=atol)


def test_both_forms_of_the_warp_on_jax_give_tensorflows_pixels(tmp_path):
    ranges = Ranges(180.0, 0.1, 0.3, 5.0, "both", "black", 0.15, 0.05, 0.2, 10.0, 0.6, 0.3, 1.0, 1.0)
    numbers = params.sample(ranges, 32, 0, tf.constant(params.RAMP_CELLS, tf.int64), tf.constant([len(IMAGES)]))
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "numbers.npy", numbers)
    for fill in FILLS:
        np.save(tmp_path / f"{fill}.npy", apply.change(IMAGES, numbers, fill, by_gathers=False))
    run(WARP, tmp_path)


@pytest.mark.slow
def test_features_and_misclassified_on_jax(data_dir, tmp_path):
    keras.utils.set_random_seed(0)
    model = architectures.vgg_frozen(32)
    last = model.get_layer("probability").kernel
    last.assign(0.1 * np.asarray(last))  # or the probabilities of an untrained head would all be 0
    model.save(tmp_path / "model.keras")
    run(EXTRACT, data_dir, tmp_path)
    on_jax = np.load(tmp_path / "maps.npz")
    assert on_jax["maps"].max() == 1
    np.testing.assert_allclose(image_grid.heatmaps(model, on_jax["images"]), on_jax["maps"], atol=1e-3)


def test_the_backend_that_computes_is_asked(monkeypatch):
    gpu = SimpleNamespace(platform="gpu", compute_capability="7.5")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr("jax.local_devices", lambda: [gpu])
    assert hardware.choose_precision("auto", "vgg_ft") == (
        "mixed_float16",
        "the GPU has no bfloat16; the loss is scaled",
    )
    gpu.compute_capability = "9.0"
    assert hardware.choose_precision("auto", "vgg_ft") == ("mixed_bfloat16", "the GPU has bfloat16")
    gpu.platform = "cpu"
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: True)
    assert hardware.choose_precision("auto", "vgg_ft")[0] == "float32"
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1"])
    assert hardware.choose_strategy("auto") == (None, "1 × GPU on JAX, of 2: only on TensorFlow several share batches")
    with pytest.raises(InputError, match="--distribute=mirrored needs Keras's TensorFlow backend"):
        hardware.choose_strategy("mirrored")


def test_jax_without_its_devices_is_one_line(data_dir, tmp_path):
    arguments = (f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}")
    result = run_command("trainers.basic_cnn", *arguments, KERAS_BACKEND="jax", JAX_PLATFORMS="nosuch")
    assert_one_line_error(result, "Keras cannot compute on jax", "unset KERAS_BACKEND")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def flags(data_dir):
    """Augmented, averaged, checkpointed: JAX takes over the arrays of weights, which callbacks must not keep.

    The learning rate is low, since Adam amplifies rounding: at 1e-4 losses differ by up to 1e-3 in 56
    steps on one device whose first weights are changed by one unit in the last place, and by 4e-4 on four devices.
    """
    flags = ("--train_split=train[:60]", "--epochs=7", "--batch_size=8", "--flip=both", "--stain_gain=0.1")
    return (*flags, "--learning_rate=2e-5", "--ema_momentum=0.9", "--checkpoint_minutes=0", f"--data_dir={data_dir}")


@pytest.fixture(scope="module")
def history(flags, tmp_path_factory):
    """The history of a run on one device."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = run_command("trainers.basic_cnn", *flags, f"--run_dir={folder}", **ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    assert "devices: 1 × CPU on JAX" in result.stdout
    rows = read_history(folder / "history.csv")
    assert len(rows) == 7
    return rows


def assert_same_history(run, history, rel):
    rows = read_history(run / "history.csv")
    assert len(rows) == len(history)
    for row, expected in zip(rows, history, strict=True):
        for name in ("loss", "val_loss"):
            assert row[name] == pytest.approx(expected[name], rel=rel)
        assert row["accuracy"] == pytest.approx(expected["accuracy"])


@pytest.mark.slow
def test_several_steps_per_call_give_the_same_numbers(flags, history, tmp_path):
    more = ("--input=device", "--steps_per_execution=3", f"--run_dir={tmp_path / 'run'}")
    result = run_command("trainers.basic_cnn", *flags, *more, **ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    assert_same_history(tmp_path / "run", history, rel=1e-3)


def start_hosts(run, num_hosts, *flags, **environment):
    names = ",".join([f"localhost:{free_port()}", *(f"node{i}" for i in range(1, num_hosts))])
    shared = (*flags, f"--run_dir={run}", "--distribute=hosts", f"--hosts={names}")
    command = [sys.executable, "-m", "trainers.basic_cnn", *shared]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, **ENVIRONMENT, **environment}
    return [
        subprocess.Popen([*command, f"--host_index={i}"], cwd=ROOT, env=environment, **pipes) for i in range(num_hosts)
    ]


def wait(processes):
    """Waits for all, and returns status, output and errors of each."""
    try:
        with ThreadPoolExecutor() as pool:
            outputs = list(pool.map(lambda process: process.communicate(timeout=300), processes))
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def test_one_host_trains(flags, tmp_path):
    ((status, output, errors),) = wait(start_hosts(tmp_path / "run", 1, *flags, "--epochs=2"))
    assert status == 0, errors
    assert "devices: 1 × CPU of several hosts on JAX" in output
    losses = [row["loss"] for row in read_history(tmp_path / "run" / "history.csv")]
    assert losses == pytest.approx([0.69, 0.69], abs=0.03), "so few steps of such a learning rate change little"
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(("num_hosts", "num_devices"), [(1, 1), (1, 4), (2, 1), (4, 1)])
def test_several_hosts_give_the_same_losses(num_hosts, num_devices, flags, history, tmp_path):
    """The last of each epoch's 8 steps has 4 cells, of which not every host gets one."""
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    ended = wait(start_hosts(tmp_path / "run", num_hosts, *flags, XLA_FLAGS=devices))
    assert [status for status, *_ in ended] == [0] * num_hosts, ended
    assert f"devices: {num_hosts * num_devices} × CPU of several hosts on JAX" in ended[0][1]
    assert_same_history(tmp_path / "run", history, rel=1e-5)


@pytest.mark.slow
def test_killed_and_continued_with_another_number_of_hosts(flags, history, tmp_path):
    run, command = tmp_path / "run", start_hosts(tmp_path / "run", 2, *flags)
    while not list(run.glob("checkpoint/step_*.npz")) and command[0].poll() is None:
        time.sleep(0.01)
    command[1].kill()
    (status, _, errors), _ = wait(command)
    assert status == 1
    assert "error: another host has ended or cannot be reached" in errors
    assert "Traceback" not in errors
    command = start_hosts(run, 4, *flags)
    while "continuing in epoch" not in command[0].stdout.readline():
        pass
    command[3].terminate()  # which ends all of them with a checkpoint
    assert [status for status, *_ in wait(command)] == [75] * 4
    ended = wait(start_hosts(run, 1, *flags))
    assert ended[0][0] == 0, ended
    assert_same_history(run, history, rel=1e-5)
