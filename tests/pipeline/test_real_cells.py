"""What the NLM's own cells must come out as; runs where MALARIA_CELLS names the archive of 9,259 cells."""

import json

import pytest
from conftest import prepare, run_command


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
