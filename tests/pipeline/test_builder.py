import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import ROOT, data_set_digests, listing_of, prepare, write_source, zip_folder

import tfds_malaria
from pipeline.errors import InputError
from pipeline.records import manifest
from pipeline.splits.configs import CONFIGS


def manual(tmp_path, source):
    folder = tmp_path / "manual"
    folder.mkdir()
    return zip_folder(source, folder / "cell_images.zip", prefix="cell_images/").parent


class BuilderTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of builders: registered, prepared, read, reloaded, splits that do not overlap."""

    DATASET_CLASS = tfds_malaria.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ("by_patient",)
    SPLITS = {"train": 20, "validation": 4, "test": 12}  # noqa: RUF012 - TFDS's own form
    EXAMPLE_DIR = ROOT / "tfds_malaria"  # not read: the cells lie where the builder looks for them by default

    def setUp(self):
        super().setUp()
        write_source(Path(self.tmp_dir) / "downloads" / "manual")


def test_load_sees_the_splits_that_the_source_has(tmp_path):
    for split in ("train", "test"):
        write_source(tmp_path / "cells" / split, num_patients=2)
    prepare(tmp_path / "cells", tmp_path / "data", config="given", image_size_px=8)
    splits, info = tfds.load("tfds_malaria/given", data_dir=tmp_path / "data", with_info=True)
    assert set(splits) == {"train", "test"}
    assert all(cell["filename"].numpy().startswith(b"test/") for cell in splits["test"])
    assert info.splits["train"].num_examples == len(splits["train"]) == 8


@pytest.mark.parametrize("config", [config.name for config in tfds_malaria.Builder.BUILDER_CONFIGS])
def test_load_sees_every_cell_of_the_beam_jobs_folder(config, data_dir, synthetic_zip):
    splits, info = tfds.load(f"tfds_malaria/{config}", data_dir=data_dir, with_info=True)
    assert set(splits) == set(CONFIGS[config].splits)
    expected = {cell.filename: (cell.label, cell.patient_id) for cell in listing_of(synthetic_zip).cells}
    examples_by_name = {}
    for name, split in splits.items():
        examples = list(split.as_numpy_iterator())
        assert len(examples) == info.splits[name].num_examples
        for example in examples:
            assert example["image"].shape == (32, 32, 3)
            assert example["image"].dtype == "uint8"
            examples_by_name[example["filename"].decode()] = (int(example["label"]), example["patient_id"].decode())
    assert examples_by_name == expected
    assert info.features["label"].names == ["uninfected", "parasitized"]


def test_by_patient_is_the_default(data_dir):
    assert tfds.builder("tfds_malaria", data_dir=data_dir).info.config_name == "by_patient"
    assert tfds_malaria.Builder(data_dir=data_dir).info.config_name == "by_patient"
    with_info = tfds_malaria.Builder(data_dir=data_dir).info
    assert with_info.description == tfds.builder_from_directory(with_info.data_dir).info.description
    assert (with_info.citation, "27,558" in with_info.description) == ("", False), "these are not the NLM's cells"


def test_the_nlms_cells_have_its_description_and_citation(data_dir, tmp_path, monkeypatch):
    infos = [tfds_malaria.Builder(data_dir=tmp_path).info]
    num_cells = manifest.read_dataset(str(data_dir), "by_patient")[1]["source"]["num_cells"]
    monkeypatch.setattr(tfds_malaria.tfds_malaria_dataset_builder, "_NUM_NLM_CELLS", num_cells)
    infos.append(tfds_malaria.Builder(data_dir=data_dir).info)
    assert all("rajaraman2018" in info.citation and "27,558" in info.description for info in infos)


def test_as_supervised_sub_splits_and_dataframes(data_dir):
    builder = tfds_malaria.Builder(data_dir=data_dir)
    num_cells = builder.info.splits["train"].num_examples
    tenth = builder.as_dataset(split="train[:10%]", as_supervised=True)
    labels = [int(label) for _, label in tenth.as_numpy_iterator()]
    assert len(labels) == round(num_cells * 0.1)
    assert set(labels) == {0, 1}
    frame = tfds.as_dataframe(builder.as_dataset(split="validation"), builder.info)
    assert sorted(frame.columns) == ["filename", "image", "label", "patient_id"]
    assert len(frame) == builder.info.splits["validation"].num_examples


@pytest.mark.parametrize("image_encoding", ["raw", "png"])
def test_shuffled_files_and_pictures(image_encoding, data_dir, source, tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    if image_encoding == "png":
        prepare(source, tmp_path, image_size_px=12, image_encoding="png", cells_per_shard=5)
        data_dir = tmp_path
    options = {"data_dir": data_dir, "split": "train"}
    ordered, info = tfds.load("tfds_malaria/by_patient", with_info=True, **options)
    read_config = tfds.ReadConfig(shuffle_seed=1)
    shuffled = tfds.load("tfds_malaria/by_patient", shuffle_files=True, read_config=read_config, **options)
    names, other_names = ([cell["filename"] for cell in cells.as_numpy_iterator()] for cells in (ordered, shuffled))
    assert names != other_names
    assert sorted(names) == sorted(other_names)
    assert read_config.enable_ordering_guard, "the caller's own is as it was"
    figure = tfds.show_examples(ordered, info, rows=1, cols=2)
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, next(ordered.as_numpy_iterator())["image"])
    assert "data:image/png;base64" in tfds.as_dataframe(ordered.take(1), info)._repr_html_()
    assert isinstance(info.features["image"], tfds.features.Image)
    info.write_to_directory(tmp_path)
    written = (tmp_path / "features.json").read_bytes()
    assert written == (data_dir / "tfds_malaria/by_patient/1.0.0/features.json").read_bytes()


def test_a_process_without_the_project_reads_it(data_dir):
    folder = data_dir / "tfds_malaria" / "by_patient" / "1.0.0"
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"builder = tfds.builder_from_directory({str(folder)!r})\n"
        "examples = list(builder.as_dataset(split='test').as_numpy_iterator())\n"
        "assert len(examples) == builder.info.splits['test'].num_examples > 0\n"
        f"named = tfds.load('tfds_malaria', data_dir={str(data_dir)!r}, split='test')\n"
        "assert [e['filename'] for e in named.as_numpy_iterator()] == [e['filename'] for e in examples]\n"
        "assert not {'pipeline', 'tfds_malaria'} & set(sys.modules)\n"
        "print(builder.info.features['label'].names)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['uninfected', 'parasitized']"


def test_the_image_size_and_encoding_come_from_the_folder(source, tmp_path):
    prepare(source, tmp_path, image_size_px=12, image_encoding="png")
    builder = tfds_malaria.Builder(data_dir=tmp_path)
    assert isinstance(builder.info.features["image"], tfds.features.Image)
    assert next(builder.as_dataset(split="train").as_numpy_iterator())["image"].shape == (12, 12, 3)


def test_download_and_prepare_runs_the_same_job(source, tmp_path):
    ours = prepare(zip_folder(source, tmp_path / "cell_images.zip", prefix="cell_images/"), tmp_path / "ours")
    builder = tfds_malaria.Builder(data_dir=tmp_path / "theirs")
    config = tfds.download.DownloadConfig(manual_dir=manual(tmp_path, source))
    builder.download_and_prepare(download_config=config)
    assert data_set_digests(builder.data_path) == data_set_digests(ours.directory)
    assert builder.info.splits["train"].num_examples > 0
    assert len(list(builder.as_dataset(split="test"))) == builder.info.splits["test"].num_examples
    builder.download_and_prepare()  # finds it there, without a source


def test_without_a_source_one_message_tells_how(tmp_path):
    builder = tfds_malaria.Builder(data_dir=tmp_path)
    with pytest.raises(InputError, match=r"no cells in manual_dir=.*python -m pipeline.preprocess --source=nih"):
        builder.download_and_prepare()
    assert not builder.data_path.exists()


def test_a_half_filled_folder_is_never_a_data_set(source, tmp_path):
    directory = prepare(source, tmp_path / "data").directory
    (directory / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"no manifest.json"):
        tfds_malaria.Builder(data_dir=tmp_path / "data").download_and_prepare()
    directory.rename(directory.parent / "1.0.0.incomplete")
    builder = tfds_malaria.Builder(data_dir=tmp_path / "data")
    with pytest.raises(Exception, match=r"download_and_prepare|not found"):
        builder.as_dataset(split="train")


def test_tfds_build_makes_the_same_data_set(source, tmp_path):
    folder = manual(tmp_path, source)
    ours = prepare(folder / "cell_images.zip", tmp_path / "ours", config="by_cell")
    command = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build"]
    flags = ["--config=by_cell", f"--data_dir={tmp_path / 'built'}", f"--manual_dir={folder}"]
    result = subprocess.run(
        [*command, *flags], cwd=ROOT / "tfds_malaria", capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert data_set_digests(tmp_path / "built/tfds_malaria/by_cell/1.0.0") == data_set_digests(ours.directory)
