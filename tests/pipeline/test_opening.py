"""Opening a data set: what its manifest vouches for is compared, and nothing that somebody else wrote is believed."""

import hashlib
import io
import json
import os
import random
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import assert_one_line_error, flip_bit, prepare, run_in_process
from test_verify import rewrite

import tfds_malaria
from pipeline.errors import InputError
from pipeline.job import build_manifest
from pipeline.records import example, index, layout, manifest
from pipeline.records.random_access import Cells
from pipeline.verify import verify
from trainers.data import open_data_set

NESTED = b'{"dataset": "tfds_malaria", "x": ' + b"[" * 900 + b"]" * 900 + b"}"  # not too deep for a parser
OPENERS = {
    "trainers": lambda data_dir: open_data_set(data_dir, "by_patient"),
    "tfds": lambda data_dir: tfds.load("tfds_malaria", data_dir=data_dir),
}


@pytest.fixture
def directory(data_dir, tmp_path):
    """A version folder to change."""
    relative = "tfds_malaria/by_patient/1.0.0"
    return shutil.copytree(data_dir / relative, tmp_path / relative)


@pytest.fixture(params=OPENERS.values(), ids=OPENERS)
def open_it(request, directory):
    return lambda: request.param(str(directory.parents[2]))


def shard_of(directory):
    return next(directory.glob("*-train.tfrecord-00000-of-?????"))


def sign_index(directory, index_file):
    """Lets the manifest vouch for another index of the first shard."""
    sha256 = hashlib.sha256(index_file.read_bytes()).hexdigest()
    rewrite(directory, lambda m: m["splits"]["train"]["shards"][0].update(index_sha256=sha256), signed=True)


@pytest.mark.parametrize("name", [*layout.TFDS_FILES, "manifest.json", "index"])
def test_a_flipped_bit_is_named_by_all_that_open_a_data_set(name, directory, open_it):
    path = directory / (layout.index_name(shard_of(directory).name) if name == "index" else name)
    content = path.read_bytes()
    rng = random.Random(0)
    for _ in range(5):
        flip_bit(path, rng.randrange(len(content)), 1 << rng.randrange(8))
        with pytest.raises(InputError, match=path.name):
            open_it()
        path.write_bytes(content)


def test_a_shard_of_another_size_is_named_by_all_that_open_a_data_set(directory, open_it):
    shard = shard_of(directory)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{shard.name} has \d+ bytes, the manifest says .*--repair"):
        open_it()
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(InputError, match=f"{shard.name} cannot be read: .*not a regular file"):
        open_it()


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"{}"])
@pytest.mark.parametrize("name", layout.TFDS_FILES)
def test_files_that_tfds_cannot_read_are_named_even_if_signed(name, content, directory):
    (directory / name).write_bytes(content)
    result = run_in_process("pipeline.explore", f"--data_dir={directory.parents[2]}")
    assert_one_line_error(result, name, "its sha256 is not the manifest's")
    rewrite(directory, lambda _: None, signed=True)
    with pytest.raises(InputError, match="cannot be read"):
        tfds_malaria.Builder(data_dir=directory.parents[2])


def test_a_data_set_of_somebody_else_runs_no_code(directory, tmp_path, monkeypatch):
    (tmp_path / "somebodys_module.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = directory / "features.json"
    path.write_text(path.read_text().replace("tensorflow_datasets.core.features.text_feature", "somebodys_module"))
    rewrite(directory, lambda _: None, signed=True)
    with pytest.raises(InputError, match=r"features\.json is not what this project writes"):
        open_data_set(str(tmp_path), "by_patient")
    assert "somebodys_module" not in sys.modules
    assert any("features.json" in problem.what for problem in verify(directory))


def test_splits_that_only_tfds_file_tells_are_refused(directory):
    path = directory / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"][0] = "1"
    path.write_text(json.dumps(info))
    rewrite(directory, lambda _: None, signed=True)
    with pytest.raises(InputError, match=r"dataset_info\.json is not what this project writes"):
        tfds_malaria.Builder(data_dir=directory.parents[2])


def first_shard(contents):
    return contents["splits"]["train"]["shards"][0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: first_shard(m).update(file="../../secret"), r"splits\.train\.shards\.file is '\.\./\.\./secret'"),
        (lambda m: first_shard(m).update(index_file="/etc/passwd"), "index_file is '/etc/passwd'"),
        (lambda m: first_shard(m).update(num_records=-1), "num_records is '-1'"),
        (lambda m: first_shard(m).update(num_bytes=2**60), "num_bytes is "),
        (lambda m: first_shard(m).update(num_records=10**9), "cannot have 1000000000 records in"),
        (lambda m: first_shard(m).update(num_records=True), "num_records is 'True'"),
        (lambda m: first_shard(m).update(num_records=float("nan")), "num_records is 'nan'"),
        (lambda m: m["splits"]["train"]["shards"].reverse(), "names the shard .*expected .*00000-of"),
        (lambda m: m["splits"]["train"].update(num_cells=1), "split train: its numbers of cells"),
        (lambda m: m["splits"].update(more=m["splits"].pop("test")), "has the splits train, validation, more"),
        (lambda m: m["settings"].update(image_size_px=10**6), "image_size_px is '1000000'"),
        (lambda m: m["settings"].pop("image_encoding"), r"it lacks the entry settings\.image_encoding"),
        (lambda m: m.update(format=2), "its entry format is '2'"),
        (lambda m: m.update(dataset="tfds_cats"), "its entry dataset is 'tfds_cats', which cannot be"),
        (lambda m: m.update(splits=[]), r"its entry splits is '\[\]'"),
        (lambda m: m["image_size"]["train"]["width"]["histogram"].update(wide=1), "histogram is"),
        (lambda m: m["rejected"].append({"filename": ["x"], "reason": ""}), r"rejected\.filename is"),
    ],
)
def test_a_manifest_that_cannot_be_is_one_line(change, expected, directory):
    rewrite(directory, change, signed=True)
    with pytest.raises(InputError, match=rf"manifest\.json cannot be read \(.*{expected}"):
        manifest.read(directory)
    assert verify(directory)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        NESTED,
        b"9" * 10_000,
        b'"\\ud800"',
        b"",
        b"{",
        b"[]",
        b'{"dataset": "tfds_malaria"}',
        b"\xff",
        None,
    ],
)
def test_json_that_no_parser_should_meet_is_one_line(content, directory):
    path = directory / layout.MANIFEST
    if content is None:
        os.truncate(path, 1 << 40)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json cannot be read"):
        manifest.read(directory)
    assert verify(directory)


def test_an_index_that_asks_for_terabytes_or_points_elsewhere_is_refused(directory):
    shard = shard_of(directory)
    path = directory / layout.index_name(shard.name)
    content, rows = path.read_bytes(), np.load(path)
    shape = f"'shape': ({len(rows)}, 4)".encode()
    assert shape in content
    path.write_bytes(content.replace(shape, b"'shape': (1" + b"0" * 11 + b", 4)")[: len(content)])
    sign_index(directory, path)
    with pytest.raises(InputError, match="its index does not have the int64 columns"):
        index.read_index(str(shard))
    for row, column, value in [(3, 0, -1), (3, 1, 2**62), (3, 2, 2**63 - 1), (3, 2, -1), (-1, 1, 2**40), (0, 3, 2)]:
        changed = rows.copy()
        changed[row, column] = value
        np.save(path, changed)
        with pytest.raises(InputError, match="its index does not point at records"):
            index.read_index(str(shard))


def test_a_record_that_claims_to_be_enormous_is_corrupt(tmp_path):
    length = (2**62).to_bytes(8, "little")
    path = tmp_path / "shard"
    enormous = example._CRC.pack(example._masked_crc32c(length))
    path.write_bytes(length + enormous)
    with path.open("rb") as file, pytest.raises(example.CorruptRecord, match="claims 4611686018427387904 bytes"):
        list(example.read_records(file))


def test_the_command_that_makes_a_data_set_is_quoted_for_the_shell(tmp_path):
    with pytest.raises(InputError, match=r"'--data_dir=.*/a b;c' --config=folds"):
        manifest.read_dataset(str(tmp_path / "a b;c"), "folds")


def test_entries_that_early_manifests_lack_are_optional(source, tmp_path):
    result = prepare(source, tmp_path)
    early = dict(result.manifest)
    for name in ("package_versions", "converted", "image_size", "same_names", "files", "checksum"):
        del early[name]
    early["duplicates"] = {**early["duplicates"], "examples": [{"filenames": ["a.png"], "label_conflict": False}]}
    (result.directory / layout.MANIFEST).write_bytes(build_manifest.sign(early, result.directory))
    assert manifest.read_dataset(str(tmp_path), "by_patient")[1]["duplicates"] == early["duplicates"]
    assert prepare(source, tmp_path).num_filled == 0


@pytest.mark.parametrize("has_other_lengths", [True, False])
def test_another_shard_of_the_same_size_is_noticed(has_other_lengths, directory, open_it):
    shard = next(directory.glob("*-train.tfrecord-00000-*[0-9]"))
    cells = [example.parse(record) for _, record in example.read_records(io.BytesIO(shard.read_bytes()))]
    others = cells[::-1] if has_other_lengths else [cell._replace(label=1 - cell.label) for cell in cells]
    records = [example.encode(*cell)[0] for cell in others]
    content = b"".join(example.frame(record)[0] + record + example.frame(record)[1] for record in records)
    assert len(content) == shard.stat().st_size
    shard.write_bytes(content)
    for opens in (open_it, lambda: Cells(directory.parents[2], "train")):
        with pytest.raises(InputError, match=rf"{shard.name}: record .* is not the one that its index .*--repair"):
            opens()
