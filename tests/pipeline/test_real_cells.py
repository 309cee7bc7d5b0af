"""What the NLM's own cells must come out as; runs where MALARIA_CELLS names the archive of 9,259 cells."""

import json

import cv2
import numpy as np
import pytest
from conftest import listing_of, prepare, run_command

from pipeline.source.archive import open_source


@pytest.fixture(scope="module")
def outcome(real_cells, tmp_path_factory):
    return prepare(real_cells, tmp_path_factory.mktemp("real"))


def test_counts_and_no_leak(outcome):
    manifest = outcome.manifest
    splits = manifest["splits"]
    assert sum(split["num_cells"] for split in splits.values()) == 9_259
    assert sum(split["classes"]["parasitized"] for split in splits.values()) == 5_098
    assert manifest["source"]["skipped"] == {"not an image by name": 2}
    assert manifest["rejected"] == []
    assert manifest["converted"] == {}
    patients = [set(split["patients"]) for split in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 60
    for name, fraction in (("train", 0.63), ("validation", 0.07), ("test", 0.30)):
        assert splits[name]["num_cells"] / 9_259 == pytest.approx(fraction, abs=0.003)


def test_pinned_bytes(real_cells, tmp_path):
    """Golden: the first shard of each split, as every machine makes it without IPP, which differs by processor."""
    flags = (f"--source={real_cells}", f"--data_dir={tmp_path}")
    result = run_command("pipeline.preprocess", *flags, OPENCV_IPP="disabled")
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "tfds_malaria/by_patient/1.0.0/manifest.json").read_text())
    assert {name: split["shards"][0]["sha256"][:16] for name, split in manifest["splits"].items()} == {
        "train": "5a6e51953c4130b7",
        "validation": "529a78388999131d",
        "test": "86de70c0cc9e4f89",
    }


def test_pixels_equal_opencvs(outcome, real_cells):
    import tensorflow_datasets as tfds

    examples = tfds.builder_from_directory(outcome.directory).as_dataset(split="validation[:50]+test[:50]")
    source = open_source(str(real_cells))
    cells = {cell.filename: cell for cell in listing_of(real_cells).cells}
    for example in examples.as_numpy_iterator():
        name = example["filename"].decode()
        encoded = np.frombuffer(source.read("cell_images/", cells[name]), np.uint8)
        bgr = cv2.resize(cv2.imdecode(encoded, cv2.IMREAD_COLOR), (125, 125), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(example["image"], bgr[..., ::-1])
        assert example["label"] == name.startswith("Parasitized/")
        assert name.split("/")[1].startswith(example["patient_id"].decode())
