"""The figure of a data set, and the numbers in it."""

import shutil

import cv2
import numpy as np
import pytest
from conftest import assert_one_line_error, flip_bit, prepare, replace_image_by_zeros, run_in_process

from pipeline import explore
from pipeline.cells import LABELS
from pipeline.errors import InputError
from pipeline.records import manifest
from pipeline.records.example import ParsedExample


def explored(data_dir, config="by_patient"):
    return explore.plot(*manifest.read_dataset(str(data_dir), config))


def test_the_numbers_are_those_of_the_manifest(data_dir):
    directory, contents = manifest.read_dataset(str(data_dir), "by_patient")
    for split in contents["splits"].values():
        patients = explore.count_patients(directory, split)
        assert sorted(patients) == split["patients"]
        assert np.sum(list(patients.values()), axis=0).tolist() == [split["classes"][label] for label in LABELS]
    cells = list(explore.read_cells(directory, contents, "train"))
    assert {patient for patient, _ in explore.mean_colours(cells)} == set(contents["splits"]["train"]["patients"])
    titles = [axis.get_title() for axis in explored(data_dir).axes]
    assert titles[-16:] == [f"{LABELS[cell.label]}, {cell.patient_id}" for cell, _ in cells[:16]]


def test_colours_leave_the_background_out():
    image = np.zeros((4, 4, 3), np.uint8)
    image[1:3, 1:3] = (200, 100, 50)
    parasitized, uninfected = (ParsedExample(b"", label, "", "C1") for label in (1, 0))
    colours = explore.mean_colours([(parasitized, image), (uninfected, image * 0)])
    assert list(colours) == [("C1", 1)]
    assert colours["C1", 1].tolist() == [200, 100, 50]


def test_png_records_and_raw_ones_look_alike(data_dir, synthetic_zip, tmp_path):
    settings = {"image_size_px": 32, "cells_per_shard": 20, "image_encoding": "png"}
    directory = prepare(synthetic_zip, tmp_path, **settings).directory
    raw_cells, png_cells = (
        explore.read_cells(*manifest.read_dataset(str(folder), "by_patient"), "train")
        for folder in (data_dir, tmp_path)
    )
    for (raw, raw_image), (png, png_image) in zip(raw_cells, png_cells, strict=True):
        assert (raw_image == png_image).all()
        assert raw[1:] == png[1:]
    replace_image_by_zeros(next(directory.glob("*-train.tfrecord-00000-of-?????")), 2)
    with pytest.raises(InputError, match=r"train.tfrecord-00000-of-\d+: .*pipeline.verify"):
        explored(tmp_path)


def test_what_is_unknown_is_left_out(source, tmp_path):
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        path.rename(path.with_name(f"{number}.png"))
    prepare(source, tmp_path, config="by_cell", image_size_px=16)
    directory, contents = manifest.read_dataset(str(tmp_path), "by_cell")
    del contents["image_size"]  # as in early manifests
    assert not any(explore.count_patients(directory, split) for split in contents["splits"].values())
    titles = [axis.get_title() for axis in explore.plot(directory, contents).axes]
    assert "Cells by split" in titles
    assert not [title for title in titles if title.startswith(("Patients", "Cells of each"))]
    assert titles.count("uninfected, patient unknown") + titles.count("parasitized, patient unknown") == 16


def test_the_command(data_dir, tmp_path):
    output = tmp_path / "deep" / "folds.png"
    result = run_in_process("pipeline.explore", f"--data_dir={data_dir}", f"--output={output}", "--config=folds")
    assert (result.returncode, result.stdout.strip()) == (0, str(output)), result.stderr
    assert [path.name for path in output.parent.iterdir()] == ["folds.png"]
    image = cv2.imread(str(output))
    assert image.shape[0] > 700
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 500


def test_names_are_no_formulas(source, tmp_path):
    prepare(source.rename(tmp_path / r"$\frac$ cells"), tmp_path / "data", image_size_px=16)
    result = run_in_process("pipeline.explore", f"--data_dir={tmp_path / 'data'}", f"--output={tmp_path / 'x.png'}")
    assert result.returncode == 0, result.stderr


def test_mistakes_are_one_line(data_dir, tmp_path):
    result = run_in_process("pipeline.explore", f"--data_dir={tmp_path}")
    assert_one_line_error(result, "has no data set", "/1.0.0; make it with: python -m pipeline.preprocess")
    result = run_in_process("pipeline.explore", f"--data_dir={data_dir}", "--config=given")
    assert_one_line_error(result, "has no data set tfds_malaria/given/1.0.0 (but has --config=by_patient", "; make it")
    result = run_in_process("pipeline.explore", f"--data_dir={data_dir}", f"--output={tmp_path}/x.txt")
    assert_one_line_error(result, "expected a name that ends in .png")
    (tmp_path / "file").touch()
    result = run_in_process("pipeline.explore", f"--data_dir={data_dir}", f"--output={tmp_path}/file/x.png")
    assert_one_line_error(result, f"{tmp_path}/file", "cannot be read or written")


def test_a_corrupt_shard_is_named(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    directory, _ = manifest.read_dataset(str(tmp_path / "data"), "by_patient")
    shard = next(directory.glob("*-train.tfrecord-00000-of-?????"))
    flip_bit(shard, 1000)
    with pytest.raises(InputError, match=r"python -m pipeline\.verify"):
        explored(tmp_path / "data")


def test_a_corrupt_patient_is_named(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    directory, _ = manifest.read_dataset(str(tmp_path / "data"), "by_patient")
    shard = next(directory.glob("*-test.tfrecord-00000-of-?????"))
    flip_bit(shard, shard.stat().length - 5, 64)  # the last character of the last record's patient
    with pytest.raises(InputError, match="its checksum does not fit"):
        explored(tmp_path / "data")
