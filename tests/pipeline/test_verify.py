"""Whatever is done to a data set, `pipeline.verify` names it."""

import json
import random
import shutil

import pytest
from conftest import flip_bit, prepare, run_in_process, write_source

from pipeline.errors import InputError
from pipeline.job import build_manifest
from pipeline.records import manifest
from pipeline.verify import verify

TRAIN = "tfds_malaria-train.tfrecord-00000-of-00004"
OTHER = "tfds_malaria-train.tfrecord-00001-of-00004"


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """The root of a data set, to copy."""
    folder = tmp_path_factory.mktemp("intact")
    prepare(write_source(folder / "cell_images"), folder / "data", image_size_px=16, cells_per_shard=5)
    return folder / "data"


@pytest.fixture
def directory(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "data") / "tfds_malaria/by_patient/1.0.0"


def files_named(directory):
    return {problem.file for problem in verify(directory)}


def test_a_whole_data_set_has_no_problem(directory, tmp_path):
    assert verify(directory) == []
    result = run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'data'}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{directory}: complete\n"


def test_a_flipped_byte(directory, tmp_path):
    flip_bit(directory / TRAIN)
    assert files_named(directory) == {TRAIN}
    result = run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'data'}", "--config=by_patient")
    assert result.returncode == 1
    assert f"{directory / TRAIN}: its sha256 is not the manifest's" in result.stdout
    assert "record 0 at byte 0: its checksum does not fit" in result.stdout
    assert "by_patient has 2 problems" in result.stderr


def test_a_truncated_shard(directory):
    content = (directory / TRAIN).read_bytes()
    (directory / TRAIN).write_bytes(content[:-10])
    problems = verify(directory)
    assert {problem.file for problem in problems} == {TRAIN}
    assert any("bytes, the manifest says" in problem.what for problem in problems)


@pytest.mark.parametrize("name", [TRAIN, f"{TRAIN}.index.npy", "features.json"])
def test_a_missing_file(directory, name):
    (directory / name).unlink()
    assert (name, "is missing") in verify(directory)
    assert files_named(directory) == {name}


def test_a_folder_in_a_files_place(directory):
    for name in (TRAIN, f"{OTHER}.index.npy"):
        (directory / name).unlink()
        (directory / name).mkdir()
        assert any(problem.file == name and "cannot be read" in problem.what for problem in verify(directory))


def test_a_foreign_file(directory):
    shutil.copy(directory / TRAIN, directory / "tfds_malaria-train.tfrecord-00004-of-00004")
    assert verify(directory) == [("tfds_malaria-train.tfrecord-00004-of-00004", "does not belong to the data set")]


def test_swapped_shards(directory):
    one, other = (directory / TRAIN).read_bytes(), (directory / OTHER).read_bytes()
    (directory / TRAIN).write_bytes(other)
    (directory / OTHER).write_bytes(one)
    assert files_named(directory) >= {TRAIN, OTHER}


def rewrite(directory, change, signed):
    """Changes the manifest; signed anew, only its disagreement with the records can be noticed."""
    path = directory / "manifest.json"
    contents = json.loads(path.read_text())
    change(contents)
    contents.pop("checksum")
    contents.pop("files")
    content = build_manifest.sign(contents, directory) if signed else json.dumps(contents).encode()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m["splits"]["train"].update(num_cells=7), "split train: num_cells is 7, its records say 20"),
        (lambda m: m["splits"]["train"]["classes"].update(uninfected=0), "split train: classes is"),
        (lambda m: m["splits"]["test"]["patients"].append("C99"), "split test: patients is"),
        (lambda m: m["splits"]["train"]["shards"].pop(), "does not belong to the data set"),
        (lambda m: m["splits"]["train"]["shards"][0].update(num_records=1), "records, the manifest says 1"),
        (lambda m: m["settings"].update(image_size_px=17), "record 0 is not 17 pixels wide"),
        (lambda m: m["splits"]["train"]["shards"].append(m["splits"]["test"]["shards"].pop()), "is in the splits"),
    ],
)
def test_a_manifest_that_disagrees(directory, change, expected):
    rewrite(directory, change, signed=True)
    assert any(expected in problem.what for problem in verify(directory)), verify(directory)
    rewrite(directory, lambda contents: contents.update(version="1.0.0"), signed=False)
    assert verify(directory)


def test_another_configs_data_set_in_the_folder(source, directory):
    other = prepare(source, directory.parents[2], config="by_cell", image_size_px=16).directory
    shutil.rmtree(directory)
    shutil.copytree(other, directory)
    assert verify(directory) == [("manifest.json", "is that of by_cell/1.0.0, but lies in by_patient/1.0.0")]
    with pytest.raises(InputError, match="it is that of config by_cell"):
        manifest.read(directory)


def test_nothing_to_verify(tmp_path, directory):
    result = run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'nothing'}")
    assert result.returncode == 1
    assert "make it with: python -m pipeline.preprocess" in result.stderr
    (directory / "manifest.json").unlink()
    result = run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'data'}")
    assert result.returncode == 1
    assert "manifest.json: is missing: this is no complete data set" in result.stdout


def corrupt(directory, times, seed):
    """Flips one random bit of one random byte in one random file, and names where nobody noticed."""
    rng = random.Random(seed)
    files = sorted(directory.iterdir())
    unnoticed = []
    for _ in range(times):
        path = rng.choice(files)
        content = path.read_bytes()
        position, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
        flip_bit(path, position, bit)
        if path.name not in files_named(directory):
            unnoticed.append((path.name, position, bit))
        path.write_bytes(content)
    return unnoticed


def test_random_corruptions_are_found(directory):
    assert corrupt(directory, 25, seed=0) == []


@pytest.mark.slow
def test_a_thousand_random_corruptions_are_found(directory):
    assert corrupt(directory, 1000, seed=1) == []
