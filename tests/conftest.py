"""What many tests share: small sources and data sets, ways to run a command, seeds."""

import functools
import gc
import hashlib
import importlib.metadata
import io
import os
import random
import runpy
import signal
import socket
import struct
import subprocess
import sys
import warnings
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import hypothesis
import numpy as np
import pytest
from absl import app, flags

os.environ["EPATH_USE_TF"] = "false"  # as in commands: etils asks once per process, when it is first used

from pipeline import synthetic
from pipeline.cells import DEFAULT_CLASS_FOLDERS, DEFAULT_PATIENT_REGEX, compile_patient_regex, parse_class_folders
from pipeline.job import plan
from pipeline.job import prepare as job
from pipeline.records import example, layout
from pipeline.source.archive import open_source
from pipeline.source.listing import list_cells

ROOT = Path(__file__).parent.parent

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so each command that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Each training asks for them, once per process; here many train in one process.
importlib.metadata.packages_distributions = functools.cache(importlib.metadata.packages_distributions)

hypothesis.settings.register_profile("suite", derandomize=True, database=None, deadline=None, max_examples=50)
hypothesis.settings.load_profile("suite")


LONG = ("benchmarks", "device", "documents", "evaluate", "export", "jax", "resuming", "training")


def pytest_collection_modifyitems(items):
    """Puts the longest files first, or one process would still run one of them when the other has ended."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


def pytest_collection_finish():
    """Lets commands, each of which collects garbage twice, not look through all that the tests' files import."""
    gc.collect()
    gc.freeze()


def png(seed=0, height=20, width=24, channels=3, dtype=np.uint8):
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype)
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_source(folder, num_patients=9, cells_each=4, class_folders=DEFAULT_CLASS_FOLDERS):
    """A folder of cells that are noise; every third patient is uninfected."""
    for name in class_folders:
        (folder / name).mkdir(parents=True)
    seed = 0
    for patient in range(1, num_patients + 1):
        for cell in range(cells_each):
            seed += 1
            label = int(patient % 3 != 0 and cell % 2 == 0)
            name = f"C{patient}P{patient}thinF_IMG_20150619_114756a_cell_{cell}.png"
            (folder / class_folders[label] / name).write_bytes(png(seed))
    return folder


def zip_folder(folder, archive, prefix="", compression=zipfile.ZIP_STORED):
    """Zips a folder in reverse order of the names."""
    with zipfile.ZipFile(archive, "w", compression) as out:
        for path in sorted(folder.rglob("*"), reverse=True):
            out.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


def listing_of(source, class_folders=DEFAULT_CLASS_FOLDERS, patient_regex=DEFAULT_PATIENT_REGEX):
    names = parse_class_folders(class_folders)
    return list_cells(open_source(str(source)), str(source), names, compile_patient_regex(patient_regex))


def run_job(listing, settings, max_rejected_fraction=0.001, pipeline_options=(), **plan_options):
    """Makes one data set of a listing."""
    with job.plan(listing, settings, **plan_options) as planned:
        return job.run(planned, max_rejected_fraction, pipeline_options)


def prepare(source, data_dir, **settings):
    """Runs the job in this process, which also fills the shards."""
    options = {
        key: settings.pop(key)
        for key in ("overwrite", "repair", "max_rejected_fraction", "pipeline_options")
        if key in settings
    }
    options.setdefault("pipeline_options", ["--runner=FnApiRunner"])  # by default it would start worker processes
    listing = listing_of(source, settings.get("class_folders", DEFAULT_CLASS_FOLDERS))
    return run_job(listing, plan.Settings(**settings), source=str(source), data_dir=str(data_dir), **options)


def replace_image_by_zeros(shard, number):
    """Replaces one image of a shard by zeros and its record's checksum by the right one."""
    offset, start, num_bytes, _ = np.load(layout.index_name(str(shard)))[number].tolist()
    content = bytearray(shard.read_bytes())
    content[start : start + num_bytes] = bytes(num_bytes)
    first = offset + example.HEADER_BYTES
    (length,) = struct.unpack_from("<Q", content, offset)
    _, footer = example.frame(bytes(content[first : first + length]))
    content[first + length : first + length + len(footer)] = footer
    shard.write_bytes(bytes(content))


def flip_bit(path, position=100, bit=1):
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


def data_set_digests(data_dir):
    """The sha256 of every file below a folder."""
    return {
        path.relative_to(data_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(data_dir).rglob("*")
        if path.is_file()
    }


def free_port():
    """A TCP port that is free now."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def run_command(module, *arguments, **environment):
    """Runs `python -m module` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _forget_command_flags():
    """Removes the commands' flags, so that another command can define the same names, and resets absl's own flags."""
    packages = ("pipeline.", "trainers.", "benchmarks.", str(ROOT))  # a main module is known by its path
    by_module = flags.FLAGS.flags_by_module_dict().items()
    for flag in [flag for module, defined in by_module if module.startswith(packages) for flag in defined]:
        delattr(flags.FLAGS, flag.name)
    flags.FLAGS.unparse_flags()


def run_in_process(module, *arguments):
    """Like `run_command`, but in this process, which imports TensorFlow only once.

    Not for tests of signals. An exception that the command does not turn into an error is raised here. The result does
    not contain what child processes and C++ code print.
    """
    output, errors = io.StringIO(), io.StringIO()
    app.define_help_flags()  # absl does so once per process
    _forget_command_flags()  # those of modules that tests import
    on_interrupt = signal.getsignal(signal.SIGINT)
    if keras := sys.modules.get("keras"):
        keras.utils.clear_session()  # so that layers are numbered from 1
    with (
        mock.patch.object(sys, "argv", [module, *map(str, arguments)]),
        mock.patch.dict(os.environ),
        warnings.catch_warnings(),
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        warnings.filterwarnings("ignore", "'.*' found in sys.modules after import of package", RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code or 0
        finally:
            signal.signal(signal.SIGINT, on_interrupt)
            _forget_command_flags()
            if keras := sys.modules.get("keras"):
                keras.config.set_dtype_policy("float32")  # trainers may have set another
    return subprocess.CompletedProcess([module, *arguments], status, output.getvalue(), errors.getvalue())


def assert_one_line_error(result, *expected):
    """Asserts that a command failed with a single error line, which contains every expected text."""
    assert result.returncode not in (0, None), result.stdout
    assert "Traceback" not in result.stderr, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    for text in expected:
        assert text in errors[0]


def open_split(data_dir, expression, config="by_patient"):
    """A split of a prepared data set, as the trainers open it."""
    from trainers.data import open_data_set

    return open_data_set(str(data_dir), config).open_split(expression)


def write_run(folder, data_dir, model, config="by_patient", splits=("train", "validation", "test")):
    """Writes the folder of a finished run with any Keras model, without training it."""
    from trainers import data, run_dir

    folder.mkdir(parents=True)
    model.save(folder / run_dir.MODEL)
    data_set = data.open_data_set(str(data_dir), config)
    train, validation, _ = map(data_set.open_split, splits)
    flags = dict(zip(("train_split", "validation_split", "test_split"), splits, strict=True))
    run = {
        "model": model.name,
        "backend": "tensorflow",
        "status": "finished",
        "best_epoch": 1,
        "flags": {"config": config, "epochs": 2, "learning_rate": 0.001, "batch_size": 16, **flags},
        "seed": 0,
        "data": {
            **data_set.identity,
            "num_train_cells": train.num_cells,
            "num_validation_cells": validation.num_cells,
            "train_patients": data.patients_of(train),
            "validation_patients": data.patients_of(validation),
        },
        "versions": run_dir.versions(),
        "timings": {"seconds": 1.0},
    }
    run_dir.write(str(folder), run)
    (folder / run_dir.HISTORY).write_text(
        "epoch,loss,accuracy,val_loss,val_accuracy\n0,0.6,0.7,0.5,0.8\n1,0.5,0.8,0.6,0.7\n"
    )
    return folder


def small_model(name="basic_cnn", size=32, seed=0):
    """A convolutional model with about 300 weights and the inputs and outputs of every model."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    image = keras.Input((size, size, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(4, 3, activation="relu")(x)
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    return keras.Model(image, layers.Dense(1, activation="sigmoid", name="probability")(x), name=name)


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "cell_images")


@pytest.fixture(scope="session")
def synthetic_zip(tmp_path_factory):
    """Synthetic cells of 16 patients, which a model can learn to classify."""
    path = tmp_path_factory.mktemp("cells") / "cell_images.zip"
    synthetic.write(path, num_patients=16, cells_per_patient=12, seed=0)
    return path


@pytest.fixture(scope="session")
def data_dir(synthetic_zip, tmp_path_factory):
    """Data sets of the synthetic cells in all three configs: 32 × 32 pixels, 20 cells per shard; for reading only."""
    path = tmp_path_factory.mktemp("data")
    for config in ("by_patient", "by_cell", "folds"):
        prepare(synthetic_zip, path, config=config, image_size_px=32, cells_per_shard=20)
    return path


@pytest.fixture(scope="session")
def small_run(data_dir, tmp_path_factory):
    """A run of a small model, with thresholds; for reading only."""
    from trainers import run_dir
    from trainers.evaluation import predictions
    from trainers.training import train

    model = small_model()
    folder = write_run(tmp_path_factory.mktemp("runs") / "basic_cnn", data_dir, model)
    predictions.fit_thresholds(str(folder), model, open_split(data_dir, "validation"), 32)
    run = run_dir.read(str(folder))
    run_dir.write(str(folder), run | {"image_statistics": train.fit_image_statistics(open_split(data_dir, "train"))})
    return folder


@pytest.fixture(scope="session")
def small_report(data_dir, small_run, tmp_path_factory):
    """A report on two models; the second one was trained on test patients and has no thresholds.

    Digests of the data set and the runs are taken before and after; meanwhile they are read-only.
    """
    from evaluating import evaluate_runs

    leaky = tmp_path_factory.mktemp("leaky") / "vgg_ft"
    write_run(leaky, data_dir, small_model("vgg_ft", seed=1), splits=("train+test", "validation", "test"))
    folders = [path for top in (data_dir, small_run, leaky) for path in (top, *top.rglob("*")) if path.is_dir()]
    before, after = [], []
    for path in folders:
        before.append(data_set_digests(path))
        path.chmod(0o555)
    try:
        output = evaluate_runs(data_dir, [small_run, leaky], tmp_path_factory.mktemp("report"))
    finally:
        for path in folders:
            path.chmod(0o755)
            after.append(data_set_digests(path))
    folder, text, metrics = output
    return SimpleNamespace(
        folder=folder, text=text, metrics=metrics, run_dirs=[small_run, leaky], before=before, after=after
    )


@pytest.fixture(scope="session")
def real_cells():
    """The archive of real cells that MALARIA_CELLS names."""
    path = os.environ.get("MALARIA_CELLS")
    if not path:
        pytest.skip("MALARIA_CELLS names no archive of real cells")
    return Path(path)


@pytest.fixture
def random_seed():
    """A seed that differs from run to run; a failing test prints it, and RANDOM_SEED=<seed> repeats it."""
    seed = int(os.environ.get("RANDOM_SEED") or random.SystemRandom().randrange(2**31))
    print(f"RANDOM_SEED={seed}")
    return seed


@pytest.fixture(scope="session")
def no_gpu():
    """Skips tests whose expectations hold on CPUs only."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("the test expects a machine without a GPU")
