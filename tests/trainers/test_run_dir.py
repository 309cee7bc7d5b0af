"""A run's folder: what is read from it, and when it may be used again."""

import json
import os
import shlex
import shutil
from importlib import metadata

import numpy as np
import pytest
from absl import flags
from conftest import flip_bit, open_split, small_model, write_run

from pipeline.errors import InputError
from trainers import run_dir
from trainers.evaluation.metrics import thresholds
from trainers.training import checkpoint

DATA = {"fingerprint": "f", "settings": {"split_seed": 42}, "content_digest": "d", "train_patients": ["C1"]}
WANTED = {"model": "basic_cnn", "backend": "tensorflow", "flags": {"epochs": 2, "run_dir": "run"}, "data": DATA}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "is no run: it has no run.json; expected the --run_dir of a trainer"),
        ("{", "cannot be read"),
        ("[]", "it holds a list, expected an object"),
        ("{}", "its checksum is missing"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_run(content, expected, tmp_path):
    if content is not None:
        (tmp_path / run_dir.RUN).write_text(content)
    with pytest.raises(InputError, match=expected):
        run_dir.read(str(tmp_path))


def test_tensorflow_may_be_installed_as_tensorflow_cpu(monkeypatch):
    names = {"keras": ["keras"], "numpy": ["numpy"], "tensorflow_datasets": ["tensorflow-datasets"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: names | {"tensorflow": ["tensorflow-cpu"]})
    monkeypatch.setattr(
        metadata, "version", {name: name for name in (*names, "tensorflow-cpu", "tensorflow-datasets")}.get
    )
    assert run_dir.versions()["tensorflow"] == "tensorflow-cpu"


def test_what_tells_runs_apart():
    assert run_dir.differences(WANTED, WANTED) == []
    other = {"model": "vgg_ft", "backend": "jax", "flags": {"epochs": 3}, "data": {**DATA, "fingerprint": "g"}}
    differences = run_dir.differences(other, WANTED)
    assert differences[0] == "its model is vgg_ft, wanted basic_cnn"
    assert differences[1] == "its KERAS_BACKEND is jax, wanted tensorflow"
    assert "its --epochs is 3, wanted 2" in differences
    assert differences[-1] == "its data set was made from another source"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"settings": {"split_seed": 7}, "content_digest": "e"}, "its data set's split_seed was 42, is 7"),
        ({"content_digest": "e"}, "its data set has other shards now, of the same source and settings"),
    ],
)
def test_a_run_is_tied_to_the_contents_of_its_data_set(change, expected):
    assert run_dir.data_differences(DATA, {**DATA, **change}) == [expected]


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """The folder of a finished run whose `run.json` vouches for its model and history."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", data_dir, small_model())
    run_dir.write(str(folder), {**run_dir.read(str(folder)), "files": run_dir.digests(str(folder))})
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run's folder, to change."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ("flags", None, "its entry flags is 'None'"),
        ("flags.epochs", -5, "its entry flags.epochs is '-5', which cannot be"),
        ("flags.test_split", 3, "its entry flags.test_split is '3'"),
        ("status", ["finished"], "its entry status is"),
        ("timings.seconds", float("nan"), "it holds NaN"),
        ("data.train_patients", "C1", "its entry data.train_patients is 'C1'"),
        ("hardware", {"policy": "float8"}, "its entry hardware.policy is 'float8'"),
        ("model", "x; rm -r ~", "its entry model is 'x; rm"),
        ("files", {"../model.keras": ""}, "its entry files is .*../model.keras"),
    ],
)
def test_values_that_no_trainer_writes(entry, value, expected, run):
    content = run_dir.read(str(run))
    *parents, name = entry.split(".")
    part = content
    for parent in parents:
        part = part[parent]
    part[name] = value
    run_dir.write(str(run), content)
    with pytest.raises(InputError, match=rf"run.json cannot be read \({expected}.*another --run_dir"):
        run_dir.read(str(run))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (run_dir.RUN, "its checksum is missing or does not fit"),
        *((name, "saved") for name in (run_dir.MODEL, run_dir.HISTORY)),
    ],
)
def test_a_flipped_bit_in_a_runs_folder_is_noticed(name, expected, run):
    content = (run / name).read_bytes()
    flip_bit(run / name, content.index(b"finished") if name == run_dir.RUN else len(content) // 2)
    with pytest.raises(InputError, match=expected):
        run_dir.read(str(run))


def _outcome(read):
    try:
        return read()
    except InputError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("is_finished", [True, False])
def test_no_flipped_bit_changes_what_is_read(is_finished, run, data_dir, random_seed):
    """A bit is found, or it is one that nobody reads; nothing but `run.json` vouches for the model of a stopped run."""
    from trainers.evaluation import predictions

    rng, images = np.random.default_rng(random_seed), np.zeros((1, 32, 32, 3), np.uint8)
    model = small_model()
    predictions.fit_thresholds(str(run), model, open_split(data_dir, "validation"), 32)
    if not is_finished:
        record = {**run_dir.read(str(run)), "status": "unfinished"}
        del record["files"]
        run_dir.write(str(run), record)
    rows = [dict.fromkeys(run_dir.HISTORY_COLUMNS, 0.0)]
    checkpoint.save(run / "checkpoint", checkpoint.Checkpoint(1, 2, rows, 3.5, {"0000:x": np.arange(9)}, "run", ""), 9)

    def read_model():
        run_dir.read(str(run))
        return predictions.predictor(predictions.load_model(str(run)), 1)(images).tolist()

    def read_checkpoint():
        newest = checkpoint.read_newest(run / "checkpoint", "run")
        return newest and (*newest[:4], newest.arrays["0000:x"].tolist(), len(newest.arrays))

    readers = {
        run / run_dir.RUN: (2000, lambda: run_dir.read(str(run))),
        run / run_dir.MODEL: (500, read_model),
        run / thresholds.FILE: (2000, lambda: thresholds.read(str(run), False)),
        next((run / "checkpoint").iterdir()): (2000, read_checkpoint),
    }
    for path, (num_flips, read) in readers.items():
        intact, expected = path.read_bytes(), read()
        for position, bit in rng.integers(0, (len(intact), 8), (num_flips, 2)).tolist():
            flip_bit(path, position, 1 << bit)
            assert _outcome(read) in (expected, None), (path.name, position, bit)
            path.write_bytes(intact)


def test_a_checksum_that_was_removed_is_noticed(run):
    record = json.loads((run / run_dir.RUN).read_text())
    del record["checksum"]
    (run / run_dir.RUN).write_text(json.dumps(record))
    with pytest.raises(InputError, match="its checksum is missing"):
        run_dir.read(str(run))


def test_a_history_that_is_damaged_is_named(tmp_path):
    for content in ("epoch,loss\n0,x\n", "epoch,loss\n0\n", "epoch\n0,1\n"):
        (tmp_path / run_dir.HISTORY).write_text(content)
        with pytest.raises(InputError, match=r"history.csv cannot be read"):
            run_dir.read_history(tmp_path / run_dir.HISTORY)


def test_two_trainers_do_not_share_a_folder(tmp_path):
    holder = rf"process {os.getpid()} on .* holds .*run\.lock\); wait until it has ended"
    with (
        run_dir.lock(str(tmp_path / "run")),
        pytest.raises(InputError, match=holder),
        run_dir.lock(str(tmp_path / "run")),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["a;b", "a,b", 'a "b", c', "a'b"])
def test_the_next_command_names_the_run_that_it_is_of(name):
    *_, run_dirs, _, model = shlex.split(run_dir.next_steps(name, "my data", "mine:cnn").partition("next: ")[2])
    assert model == "--model=mine:cnn"
    assert flags.ListParser().parse(run_dirs.removeprefix("--run_dirs=")) == [name]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("file", "file/run"):
        error = rf"--run_dir=.*{folder} cannot be written: .*; give another"
        with pytest.raises(InputError, match=error), run_dir.lock(str(tmp_path / folder)):
            pass


def test_only_a_run_that_has_saved_nothing_is_released(tmp_path):
    for saved in (None, run_dir.MODEL, run_dir.HISTORY):
        folder = tmp_path / str(saved)
        folder.mkdir()
        (folder / run_dir.RUN).write_text(json.dumps(WANTED))
        if saved:
            (folder / saved).touch()
        run_dir.release(str(folder))
        assert (folder / run_dir.RUN).exists() == (saved is not None)


@pytest.mark.parametrize("name", ["\udcff", "a\nb", ""])
def test_a_name_that_no_command_could_print_is_an_error(name, tmp_path):
    folder = name and f"{tmp_path}/{name}"
    with pytest.raises(InputError, match="is empty, not UTF-8 or has control"), run_dir.lock(folder):
        pass
    assert list(tmp_path.iterdir()) == []
