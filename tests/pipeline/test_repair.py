"""Corrupt files of an existing data set are named, and made again byte-identically or not at all."""

import shutil

import numpy as np
import pytest
from conftest import (
    assert_one_line_error,
    data_set_digests,
    flip_bit,
    listing_of,
    prepare,
    run_in_process,
    run_job,
    write_source,
    zip_folder,
)

from pipeline.errors import InputError
from pipeline.job import plan
from pipeline.records import layout, manifest
from pipeline.source import decode

SETTINGS = {"image_size_px": 16, "cells_per_shard": 5}
TRAIN = "tfds_malaria-train.tfrecord-00000-of-00004"
TEST = "tfds_malaria-test.tfrecord-00002-of-00003"


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A source and a data set of it, to copy."""
    folder = tmp_path_factory.mktemp("intact")
    prepare(write_source(folder / "cell_images"), folder / "data", **SETTINGS)
    return folder


@pytest.fixture
def directory(intact, tmp_path):
    shutil.copytree(intact, tmp_path, dirs_exist_ok=True)
    return tmp_path / "data/tfds_malaria/by_patient/1.0.0"


def corrupt_all(directory):
    flip_bit(directory / TRAIN)
    (directory / TEST).unlink()
    np.save(directory / layout.index_name(TRAIN), np.zeros((5, 4), np.int64))
    (directory / "features.json").write_text("{}")


@pytest.mark.parametrize(
    ("corrupt", "expected"),
    [
        (lambda d: (d / TRAIN).write_bytes((d / TRAIN).read_bytes()[:-9]), f"{TRAIN} has "),
        (lambda d: flip_bit(d / "dataset_info.json"), "dataset_info.json its sha256 is not"),
    ],
)
def test_what_is_corrupt_is_named_and_repaired(corrupt, expected, directory, intact, tmp_path):
    corrupt(directory)
    command = ("pipeline.preprocess", f"--source={tmp_path / 'cell_images'}", f"--data_dir={tmp_path / 'data'}")
    flags = ["--pipeline_options=--runner=FnApiRunner", *(f"--{name}={value}" for name, value in SETTINGS.items())]
    assert_one_line_error(run_in_process(*command, *flags), "1 corrupt file: ", expected, "--repair")
    result = run_in_process(*command, *flags, "--repair")
    assert result.returncode == 0, result.stderr
    assert f"to repair {expected.split(' ')[0]}\n" in result.stdout
    assert data_set_digests(tmp_path / "data") == data_set_digests(intact / "data")
    assert "already there" in run_in_process(*command, *flags, "--repair").stdout


def test_everything_is_repaired_at_once_and_nothing_else_is_filled(directory, intact, tmp_path):
    corrupt_all(directory)
    with pytest.raises(
        InputError, match=rf"4 corrupt files: {TRAIN} .*; {TRAIN}.index.npy .*; {TEST} .*; features.json"
    ):
        prepare(tmp_path / "cell_images", tmp_path / "data", **SETTINGS)
    archive = zip_folder(tmp_path / "cell_images", tmp_path / "cell_images.zip")  # the same cells
    result = prepare(archive, tmp_path / "data", repair=True, **SETTINGS)
    assert result.num_filled == 9
    assert set(result.repaired) == {TRAIN, f"{TRAIN}.index.npy", TEST, "features.json"}
    assert data_set_digests(tmp_path / "data") == data_set_digests(intact / "data")


def assert_refused(tmp_path, expected, **options):
    before = data_set_digests(tmp_path / "data")
    with pytest.raises(InputError, match=expected):
        prepare(tmp_path / "cell_images", tmp_path / "data", repair=True, **{**SETTINGS, **options})
    assert data_set_digests(tmp_path / "data") == before


def test_another_source_or_other_settings_are_refused(directory, tmp_path):
    corrupt_all(directory)
    assert_refused(tmp_path, "its split_seed is 42, wanted 1", split_seed=1)
    next((tmp_path / "cell_images/Uninfected").iterdir()).unlink()
    assert_refused(tmp_path, "its source is cell_images with 36 cells .*, wanted cell_images with 35")


def test_other_bytes_are_refused(directory, tmp_path, monkeypatch):
    corrupt_all(directory)
    resize = decode.resize
    monkeypatch.setattr(decode, "resize", lambda *arguments: resize(*arguments) ^ 1)  # as another OpenCV may do
    assert_refused(tmp_path, "is not what the manifest vouches for, so .* left as it was: the source has changed, this")


def test_a_repair_that_cannot_read_the_source_leaves_the_data_set_as_it_was(directory, tmp_path, monkeypatch):
    corrupt_all(directory)
    monkeypatch.setattr("pipeline.source.archive.FolderSource.read", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    before = data_set_digests(tmp_path / "data")
    cells = listing_of(zip_folder(tmp_path / "cell_images", tmp_path / "cell_images.zip"))
    source, settings = str(tmp_path / "cell_images"), plan.Settings(**SETTINGS)
    with pytest.raises(InputError, match="gone; fix that, then the same command continues"):
        run_job(cells, settings, source=source, data_dir=str(tmp_path / "data"), repair=True)
    assert data_set_digests(tmp_path / "data") == before
    assert manifest.read(directory)
