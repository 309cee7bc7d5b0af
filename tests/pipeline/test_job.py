import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import data_set_digests, listing_of, png, prepare, write_source, zip_folder

from pipeline.errors import InputError
from pipeline.job import fill
from pipeline.job.plan import Shard
from pipeline.records import layout

SHARDS = {"image_size_px": 16, "cells_per_shard": 5}


def records(directory):
    """Every record by stock TensorFlow, in the order of files and records."""
    import tensorflow as tf

    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "filename": tf.io.FixedLenFeature([], tf.string),
        "patient_id": tf.io.FixedLenFeature([], tf.string),
    }
    for path in sorted(directory.glob("*.tfrecord-?????-of-?????")):
        for record in tf.data.TFRecordDataset(str(path)):
            yield path, {name: value.numpy() for name, value in tf.io.parse_example(record, spec).items()}


def test_the_exact_files_that_are_left(source, tmp_path):
    outcome = prepare(source, tmp_path / "data", **SHARDS)
    names = {
        path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*") if path.is_file()
    }
    shards = [shard for split in outcome.manifest["splits"].values() for shard in split["shards"]]
    expected = {"dataset_info.json", "features.json", "label.labels.txt", "manifest.json"}
    expected |= {shard[key] for shard in shards for key in ("file", "index_file")}
    folder = "tfds_malaria/by_patient/1.0.0/"
    assert names == {folder + name for name in expected} | {"tfds_malaria/.config/metadata.json"}


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_stored_pixels_equal_opencvs(encoding, source, tmp_path):
    directory = prepare(source, tmp_path / "data", image_encoding=encoding, **SHARDS).directory
    names = set()
    for _, record in records(directory):
        name = record["filename"].decode()
        bgr = cv2.resize(cv2.imread(str(source / name)), (16, 16), interpolation=cv2.INTER_CUBIC)
        stored = np.frombuffer(record["image"], np.uint8)
        rgb = stored.reshape(16, 16, 3) if encoding == "raw" else cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(rgb, bgr[..., ::-1])
        assert record["label"] == int(name.startswith("Parasitized"))
        assert record["patient_id"].decode() == name.split("/")[1].split("P")[0]
        names.add(name)
    assert names == {cell.filename for cell in listing_of(source).cells}


def test_the_index_points_at_the_images(source, tmp_path):
    outcome = prepare(source, tmp_path / "data", **SHARDS)
    by_file = {}
    for path, record in records(outcome.directory):
        by_file.setdefault(path.name, []).append(record)
    for name, records_of_file in by_file.items():
        content = (outcome.directory / name).read_bytes()
        index = np.load(outcome.directory / layout.index_name(name))
        assert index.dtype == np.int64
        for (offset, image_offset, num_bytes, label), record in zip(index, records_of_file, strict=True):
            assert content[image_offset : image_offset + num_bytes] == record["image"]
            assert label == record["label"]
            assert offset < image_offset


def test_folder_zip_and_any_number_of_workers_give_the_same_shards(source, tmp_path, monkeypatch):
    one = prepare(source, tmp_path / "one", **SHARDS)
    archive = zip_folder(source, tmp_path / "cells.zip", prefix="deep/")
    two = prepare(archive, tmp_path / "two", **SHARDS)
    options = ["--direct_num_workers=3", "--direct_running_mode=multi_threading"]
    three = prepare(source, tmp_path / "three", pipeline_options=options, **SHARDS)
    monkeypatch.setattr(fill, "num_processors", lambda: 5)
    four = prepare(source, tmp_path / "four", **SHARDS)
    five = prepare(source, tmp_path / "five", pipeline_options=[], **SHARDS)
    assert all(data_set_digests(other.directory) == data_set_digests(one.directory) for other in (three, four, five))
    by_zip = data_set_digests(two.directory)
    assert {name for name in by_zip if by_zip[name] != data_set_digests(one.directory)[name]} == {"manifest.json"}


def test_the_manifest_vouches_for_the_shards(source, tmp_path):
    (source / "Uninfected" / "Thumbs.db").write_bytes(b"x")
    outcome = prepare(source, tmp_path / "data", **SHARDS)
    manifest = json.loads((outcome.directory / "manifest.json").read_text())
    assert manifest == outcome.manifest
    assert manifest["source"]["skipped"] == {"not an image by name": 1}
    assert manifest["source"]["num_cells"] == 36
    assert sum(split["num_cells"] for split in manifest["splits"].values()) == 36
    all_patients = [patient for split in manifest["splits"].values() for patient in split["patients"]]
    assert sorted(all_patients) == sorted(f"C{i}" for i in range(1, 10))
    digests = data_set_digests(outcome.directory)
    counts = {}
    for path, record in records(outcome.directory):
        counts.setdefault(path.name, []).append(record["label"])
    for split in manifest["splits"].values():
        assert split["classes"]["uninfected"] + split["classes"]["parasitized"] == split["num_cells"]
        assert split["num_patients"] == len(split["patients"])
        for shard in split["shards"]:
            assert digests[shard["file"]] == shard["sha256"]
            assert digests[shard["index_file"]] == shard["index_sha256"]
            assert (outcome.directory / shard["file"]).stat().length == shard["num_bytes"]
            assert len(counts[shard["file"]]) == shard["num_records"]
    num_trained = manifest["splits"]["train"]["num_cells"]
    assert manifest["image_size"] == {
        "train": {
            "height": {"min": 20, "mean": 20.0, "median": 20.0, "max": 20, "histogram": {"20": num_trained}},
            "width": {"min": 24, "mean": 24.0, "median": 24.0, "max": 24, "histogram": {"20": num_trained}},
        }
    }


def test_size_statistics_see_the_training_split_only(source, tmp_path):
    first = prepare(source, tmp_path / "a", **SHARDS)
    tested = set(first.manifest["splits"]["test"]["patients"])
    for path in source.rglob("*.png"):
        is_tested = path.name.split("P")[0] in tested
        path.write_bytes(png(1, height=200 if is_tested else 30, width=40))
    statistics = prepare(source, tmp_path / "b", **SHARDS).manifest["image_size"]
    assert statistics["train"]["height"]["max"] == 30
    assert set(prepare(source, tmp_path / "c", config="folds", **SHARDS).manifest["image_size"]) == {
        f"fold_{i}" for i in range(5)
    }


def test_bad_images_are_rejected_and_listed(source, tmp_path):
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    (source / names[0]).write_bytes(b"")
    (source / names[1]).write_bytes(png()[:100])
    (source / names[2]).write_bytes(png(channels=1))
    with pytest.raises(
        InputError, match=r"2 of 36 images cannot be used, more than --max_rejected_fraction=0.001: .*empty file"
    ):
        prepare(source, tmp_path / "data", **SHARDS)
    with pytest.raises(InputError, match="more than --max_rejected_fraction=nan"):
        prepare(source, tmp_path / "data", max_rejected_fraction=float("nan"), **SHARDS)
    assert not layout.dataset_dir(str(tmp_path / "data"), "by_patient").exists()
    outcome = prepare(source, tmp_path / "data", max_rejected_fraction=0.1, **SHARDS)
    assert outcome.num_filled == 0, "what was filled before is used"
    assert [item["filename"] for item in outcome.manifest["rejected"]] == names[:2]
    assert outcome.manifest["converted"] == {"grey": 1}
    assert sum(split["num_cells"] for split in outcome.manifest["splits"].values()) == 34
    assert names[0] not in {record["filename"].decode() for _, record in records(outcome.directory)}


def test_a_split_of_bad_images_only_is_refused(source, tmp_path):
    first = prepare(source, tmp_path / "a", **SHARDS)
    for patient in first.manifest["splits"]["validation"]["patients"]:
        for path in source.rglob(f"{patient}P*.png"):
            path.write_bytes(b"")
    with pytest.raises(InputError, match="every image of split validation was rejected"):
        prepare(source, tmp_path / "b", max_rejected_fraction=1.0, **SHARDS)


def test_another_source_or_setting_is_told_apart_and_overwrite_replaces(source, tmp_path):
    first = prepare(source, tmp_path / "data", **SHARDS)
    with pytest.raises(InputError, match="its image_size_px is 16, wanted 8; give --overwrite"):
        prepare(source, tmp_path / "data", image_size_px=8, cells_per_shard=5)
    other = write_source(tmp_path / "other" / "cells", num_patients=6)
    with pytest.raises(InputError, match=r"its source is cell_images with 36 cells .*, wanted cells with 24"):
        prepare(other, tmp_path / "data", **SHARDS)
    assert prepare(source, tmp_path / "data", **SHARDS).manifest == first.manifest
    replaced = prepare(other, tmp_path / "data", overwrite=True, **SHARDS)
    assert replaced.manifest["source"]["num_cells"] == 24
    assert [path.name for path in replaced.directory.parent.iterdir()] == ["1.0.0"]


def test_the_same_names_and_sizes_are_not_the_same_source(tmp_path):
    for name, shift in (("one", 0), ("two", 1)):
        folder = write_source(tmp_path / name / "cells")
        for i, path in enumerate(sorted(folder.rglob("*.png"))):
            pixels = np.random.default_rng(i + shift).integers(0, 255, (9, 9, 3), np.uint8)
            path.write_bytes(cv2.imencode(".bmp", pixels)[1].tobytes())
    prepare(tmp_path / "one" / "cells", tmp_path / "data", **SHARDS)
    with pytest.raises(InputError, match=r"its source is cells with 36 cells .*, wanted cells with 36"):
        prepare(tmp_path / "two" / "cells", tmp_path / "data", **SHARDS)


def test_a_damaged_manifest_is_one_line(source, tmp_path):
    directory = prepare(source, tmp_path / "data", **SHARDS).directory
    (directory / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json cannot be read .*--overwrite"):
        prepare(source, tmp_path / "data", **SHARDS)


def test_a_folder_without_a_manifest_is_no_data_set(source, tmp_path):
    target = layout.dataset_dir(str(tmp_path / "data"), "by_patient")
    target.mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no manifest.json, so it is not a complete data set"):
        prepare(source, tmp_path / "data", **SHARDS)
    assert prepare(source, tmp_path / "data", overwrite=True, **SHARDS).num_filled == 36


def fail_at(number, monkeypatch):
    """Lets filling fail once, at the n-th shard; returns the list of the shards that it begins from now on."""
    real, shards = fill.fill_shard, []

    def fails(file_name, *target):
        shards.append(file_name)
        if len(shards) == number:
            raise OSError(28, "No space left on device")
        return real(file_name, *target)

    monkeypatch.setattr(fill, "fill_shard", fails)
    return shards


def test_a_job_that_breaks_off_continues(source, tmp_path, monkeypatch):
    undisturbed = prepare(source, tmp_path / "undisturbed", **SHARDS)
    shards = fail_at(3, monkeypatch)
    with pytest.raises(InputError, match=r"could not be filled: \[Errno 28\] No space left on device; fix that"):
        prepare(source, tmp_path / "data", **SHARDS)
    target = layout.dataset_dir(str(tmp_path / "data"), "by_patient")
    assert not target.exists()
    assert layout.incomplete_dir(target).exists()
    num_begun = len(shards)
    continued = prepare(source, tmp_path / "data", **SHARDS)
    assert len(shards) - num_begun == sum(len(split["shards"]) for split in undisturbed.manifest["splits"].values()) - 2
    assert data_set_digests(continued.directory) == data_set_digests(undisturbed.directory)
    assert not layout.incomplete_dir(target).exists()


def test_a_shard_is_filled_again_if_its_cells_changed_while_the_job_was_stopped(source, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.source.listing._FILES_WITH_CHECKSUM", 1)  # as with many cells: most are not looked at
    cells = [source / cell.filename for cell in listing_of(source).cells]
    for path in cells:
        path.with_suffix(".bmp").write_bytes(cv2.imencode(".bmp", cv2.imread(str(path)))[1].tobytes())
        path.unlink()
    before = listing_of(source).fingerprint
    shards = fail_at(3, monkeypatch)
    with pytest.raises(InputError, match="No space left"):
        prepare(source, tmp_path / "data", **SHARDS)
    (first,) = layout.incomplete_dir(layout.dataset_dir(str(tmp_path / "data"), "by_patient")).glob(
        f"*/{shards[0]}.plan*"
    )
    for cell in Shard.from_json(first.read_text()).cells:
        content = (source / cell.filename).read_bytes()
        (source / cell.filename).write_bytes(content[:-999] + bytes(999))
        if listing_of(source).fingerprint == before:
            break
        (source / cell.filename).write_bytes(content)
    continued = prepare(source, tmp_path / "data", **SHARDS)
    assert data_set_digests(continued.directory) == data_set_digests(
        prepare(source, tmp_path / "new", **SHARDS).directory
    )


def test_an_unfinished_job_with_other_settings_is_told_apart(source, tmp_path, monkeypatch):
    fail_at(2, monkeypatch)
    with pytest.raises(InputError, match="No space left"):
        prepare(source, tmp_path / "data", **SHARDS)
    monkeypatch.undo()
    with pytest.raises(InputError, match="unfinished data set of another source or other settings; give --overwrite"):
        prepare(source, tmp_path / "data", image_size_px=8, cells_per_shard=5)
    assert prepare(source, tmp_path / "data", image_size_px=8, cells_per_shard=5, overwrite=True).num_filled == 36


def test_overwrite_replaces_a_link_to_a_data_set(source, tmp_path):
    first = prepare(source, tmp_path / "data", **SHARDS).directory
    first.rename(tmp_path / "moved")
    Path(first).symlink_to(tmp_path / "moved")
    again = prepare(source, tmp_path / "data", split_seed=7, overwrite=True, **SHARDS)
    assert again.manifest["settings"]["split_seed"] == 7
    assert [path.name for path in again.directory.parent.iterdir()] == ["1.0.0"]
    assert (tmp_path / "moved" / "manifest.json").exists()


def test_a_job_that_filled_no_shard_stands_in_nobodys_way(source, tmp_path, monkeypatch):
    monkeypatch.setattr(fill, "fill_shard", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(InputError, match="gone"):
        prepare(source, tmp_path / "data", **SHARDS)
    monkeypatch.undo()
    assert prepare(source, tmp_path / "data", image_size_px=8, cells_per_shard=5).num_filled == 36


def test_a_source_that_cannot_be_split_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="too few patients"):
        prepare(write_source(tmp_path / "cells", num_patients=2), tmp_path / "data")
    assert not (tmp_path / "data").exists()
