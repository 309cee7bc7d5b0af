"""The picture of a data set, and the numbers in it."""

import shutil

import cv2
import numpy as np
import pytest
from conftest import assert_one_line_error, prepare, replace_image_by_zeros, run_command

from pipeline import exploration, exploration_picture
from pipeline.cells import LABELS
from pipeline.errors import InputError
from pipeline.records import manifest


@pytest.fixture(scope="module")
def explored(data_dir):
    directory, its_manifest = manifest.read_dataset(str(data_dir), "by_patient")
    return exploration.explore(directory, its_manifest), directory, its_manifest


def test_the_numbers_are_those_of_the_manifest(explored):
    found, _, its_manifest = explored
    for name, split in its_manifest["splits"].items():
        assert found.classes[name] == [split["classes"][label] for label in LABELS]
        assert sorted(found.patients[name]) == split["patients"]
        assert np.sum(list(found.patients[name].values()), axis=0).tolist() == found.classes[name]
    for side in ("height", "width"):
        statistics = its_manifest["image_size"]["train"][side]
        assert sum(found.sizes[side].values()) == its_manifest["splits"]["train"]["num_cells"]
        assert min(found.sizes[side]) <= statistics["min"] < min(found.sizes[side]) + manifest.SIZE_BIN_PX
        assert max(found.sizes[side]) <= statistics["max"] < max(found.sizes[side]) + manifest.SIZE_BIN_PX


def test_pixels_are_those_of_the_training_split(explored):
    found, _, its_manifest = explored
    trained = set(its_manifest["splits"]["train"]["patients"])
    assert len(found.samples) == 16
    assert {cell.patient_id for cell in found.samples} <= trained
    assert {patient for patient, _ in found.colours} == trained


def test_colours_leave_the_background_out():
    image = np.zeros((4, 4, 3), np.uint8)
    image[1:3, 1:3] = (200, 100, 50)
    colours = exploration._mean_colours(
        [exploration.CellImage(image, 1, "C1"), exploration.CellImage(image * 0, 0, "C1")]
    )
    assert list(colours) == [("C1", 1)]
    assert colours["C1", 1].tolist() == [200, 100, 50]


def test_png_records_and_raw_ones_look_alike(explored, synthetic_zip, tmp_path):
    found, *_ = explored
    prepare(synthetic_zip, tmp_path, config="by_patient", image_size_px=32, cells_per_shard=20, image_encoding="png")
    other = exploration.explore(*manifest.read_dataset(str(tmp_path), "by_patient"))
    for one, two in zip(found.samples, other.samples, strict=True):
        assert (one.image == two.image).all()
        assert one[1:] == two[1:]


def test_a_whole_record_that_is_no_png_is_named(source, tmp_path):
    directory = prepare(source, tmp_path, image_size_px=10, image_encoding="png").directory
    path = directory / "tfds_malaria-train.tfrecord-00000-of-00001"
    replace_image_by_zeros(path, 2)
    with pytest.raises(InputError, match=r"train.tfrecord-00000-of-00001: .*no PNG.*pipeline.verify"):
        exploration.explore(directory, manifest.read(directory))


def test_unknown_patients_are_no_patient(source, tmp_path):
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        path.rename(path.with_name(f"{number}.png"))
    prepare(source, tmp_path, config="by_cell", image_size_px=16)
    found = exploration.explore(*manifest.read_dataset(str(tmp_path), "by_cell"))
    assert found.patients == {"train": {}, "validation": {}, "test": {}}
    texts = {
        axis.get_title(): [text.get_text() for text in axis.texts] for axis in exploration_picture.draw(found).axes
    }
    assert texts["Patients by split"] == texts["Cells of each patient"] == ["no patient is known"]


def test_the_command(data_dir, tmp_path):
    output = tmp_path / "deep" / "folds.png"
    result = run_command("pipeline.explore", f"--data_dir={data_dir}", f"--output={output}", "--config=folds")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(output)
    picture = cv2.imread(str(output))
    assert picture.shape[0] > 700
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


def test_old_data_sets_have_no_size_distribution(explored, tmp_path):
    found, *_ = explored
    figure = exploration_picture.draw(found._replace(sizes=None))
    texts = [text.get_text() for part in figure.subfigs for axis in part.axes for text in axis.texts]
    assert any("make it again" in text for text in texts)


def test_mistakes_are_one_line(data_dir, tmp_path):
    result = run_command("pipeline.explore", f"--data_dir={tmp_path}")
    assert_one_line_error(result, "has no data set", "python -m pipeline.preprocess")
    result = run_command("pipeline.explore", f"--data_dir={data_dir}", f"--output={tmp_path}/x.txt")
    assert_one_line_error(result, "expected a name that ends in .png")
    (tmp_path / "file").touch()
    result = run_command("pipeline.explore", f"--data_dir={data_dir}", f"--output={tmp_path}/file/x.png")
    assert_one_line_error(result, "cannot be written")


def test_a_damaged_shard_is_named(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    directory, its_manifest = manifest.read_dataset(str(tmp_path / "data"), "by_patient")
    shard = next((tmp_path / "data/tfds_malaria/by_patient/1.0.0").glob("*-train.tfrecord-00000-of-?????"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match="check the data set with python -m pipeline"):
        exploration.explore(directory, its_manifest)
