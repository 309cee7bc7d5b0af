"""A run's folder: what is read from it, and when it may be used again."""

import json

import pytest

from pipeline.errors import InputError
from trainers import run_dir

WANTED = {"model": "basic_cnn", "flags": {"epochs": 2, "run_dir": "run"}, "data": {"fingerprint": "f"}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "is no run: it has no run.json; expected the --run_dir of a trainer"),
        ("{", "cannot be read"),
        ("[]", "it holds a list, expected an object"),
        ("{}", "model is missing"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_run(content, expected, tmp_path):
    if content is not None:
        (tmp_path / run_dir.RUN).write_text(content)
    with pytest.raises(InputError, match=expected):
        run_dir.read(str(tmp_path))


def test_what_tells_runs_apart():
    assert run_dir.differences(WANTED, WANTED) == []
    other = {"model": "vgg_ft", "flags": {"epochs": 3}, "data": {"fingerprint": "g"}}
    differences = run_dir.differences(other, WANTED)
    assert differences[0] == "its model is vgg_ft, wanted basic_cnn"
    assert "its --epochs is 3, wanted 2" in differences
    assert differences[-1] == "its data set was made from another source"


def test_runs_of_earlier_versions_can_continue():
    earlier = {**WANTED, "flags": {**WANTED["flags"], "max_corrupt_records": 0}}
    assert run_dir.differences(earlier, WANTED) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--run_dir=.*file/run cannot be written: .*; give another"):
        run_dir.acquire(str(tmp_path / "file" / "run"), WANTED)


def test_only_a_run_that_has_saved_nothing_is_released(tmp_path):
    for saved in (None, run_dir.MODEL, run_dir.HISTORY):
        folder = tmp_path / str(saved)
        folder.mkdir()
        (folder / run_dir.RUN).write_text(json.dumps(WANTED))
        if saved:
            (folder / saved).touch()
        run_dir.release(str(folder))
        assert (folder / run_dir.RUN).exists() == (saved is not None)
