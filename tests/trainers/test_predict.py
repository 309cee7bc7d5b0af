"""Predicting image files: the same pixels as in training, in order, in bounded memory, bad files by their own line."""

import csv
import io
import json

import cv2
import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_command, small_model, write_run

from pipeline import synthetic
from pipeline.errors import InputError
from trainers.evaluation import predictions
from trainers.evaluation.metrics import thresholds
from trainers.input_pipeline import image_files


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "basic_cnn", data_dir, small_model())


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder of cells with one of every format, and files that are none."""
    folder = tmp_path_factory.mktemp("files") / "cells"
    (folder / "deeper").mkdir(parents=True)
    for number, (_, pixels) in enumerate(synthetic.cells(8, 1, seed=3)):
        suffix = ("png", "jpg", "tif", "bmp", "PNG", "webp")[number % 6]
        path = folder / ("deeper" if number % 2 else "") / f"cell_{number:02d}.{suffix}"
        path.write_bytes(cv2.imencode(f".{suffix.lower()}", pixels[..., ::-1])[1].tobytes())
    (folder / "notes.txt").write_text("no image")
    return folder


def rows_of(result):
    return list(csv.DictReader(io.StringIO(result.stdout)))


def expected(run, files):
    """Decoded by OpenCV and resized as the original work does it, then predicted at once."""
    pixels = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
    resized = np.stack([cv2.resize(item, (32, 32), interpolation=cv2.INTER_CUBIC) for item in pixels])
    return predictions.load_model(str(run)).predict(resized, verbose=0)[:, 0]


def test_folders_and_files_in_order(run, cells):
    first = sorted(cells.glob("deeper/*"))[0]
    result = run_command("trainers.predict", f"--run_dir={run}", first, cells)
    assert result.returncode == 0, result.stderr
    files = [first, *sorted(cells.glob("*_*.*")), *sorted(cells.glob("deeper/*"))]
    rows = rows_of(result)
    assert [row["file"] for row in rows] == [str(file) for file in files]
    said = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(said, expected(run, files), atol=1e-5)
    assert [row["label"] for row in rows] == [("uninfected", "parasitized")[value >= 0.5] for value in said]


def test_a_bad_file_has_its_own_line(run, cells, tmp_path):
    good = sorted(cells.glob("*.png"))[0]
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    paths = (tmp_path / "broken.png", good, tmp_path / "missing.png", tmp_path / "text.png", tmp_path / "empty")
    result = run_command("trainers.predict", f"--run_dir={run}", "--format=jsonl", "--threshold=0", *paths)
    assert result.returncode == 1
    (row,) = (json.loads(line) for line in result.stdout.splitlines())
    assert row["file"] == str(good)
    assert row["label"] == "parasitized", "the threshold is 0"
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5
    for name, reason in (("broken.png", "decode"), ("missing.png", "does not exist"), ("empty", "has no images")):
        assert any(name in line and reason in line for line in errors), errors
    assert "4 of 5 could not be predicted" in errors[-1]
    assert "Traceback" not in result.stderr


def test_thresholds(run, tmp_path, data_dir):
    assert thresholds.find_threshold("default", str(run), False) == 0.5
    assert thresholds.find_threshold("0.25", str(run), False) == 0.25
    own = write_run(tmp_path / "own", data_dir, small_model())
    with pytest.raises(InputError, match="choose it with: python"):
        thresholds.find_threshold("youden", str(own), False)
    values = dict.fromkeys(("default", "youden", "specificity_95", "sensitivity_95"), 0.125)
    thresholds.write(str(own), False, thresholds.Choice("validation", 10, 2, values, 1.0))
    assert thresholds.find_threshold("youden", str(own), False) == 0.125
    with pytest.raises(InputError, match="--test_time_flips"):
        thresholds.find_threshold("youden", str(own), True)
    for value in ("1.5", "-0.1", "nan", "yuoden"):
        with pytest.raises(InputError, match=f"--threshold={value} is neither a number in 0…1 nor"):
            thresholds.find_threshold(value, str(own), False)


def test_mistakes_are_one_line(run, cells, tmp_path):
    assert_one_line_error(run_command("trainers.predict", f"--run_dir={run}"), "got no images")
    assert_one_line_error(run_command("trainers.predict", f"--run_dir={tmp_path}", cells), "is no run")
    result = run_command("trainers.predict", f"--run_dir={run}", "--threshold=x", cells)
    assert_one_line_error(result, "--threshold=x is neither")


def test_a_corrupt_model_is_one_line(data_dir, cells, tmp_path):
    folder = write_run(tmp_path / "run", data_dir, small_model())
    (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:1000])
    assert_one_line_error(run_command("trainers.predict", f"--run_dir={folder}", cells), "model.keras cannot be loaded")


def test_a_reader_that_has_seen_enough_ends_it_quietly(run, cells):
    import subprocess
    import sys

    command = f"{sys.executable} -m trainers.predict --run_dir={run} {cells} | head -1"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == "file,probability,label\n"
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_decoding_stays_a_bounded_number_of_files_ahead(cells):
    taken = 0

    def endless():
        nonlocal taken
        file = str(sorted(cells.glob("*.png"))[0])
        while taken < 100_000:
            taken += 1
            yield file, ""

    decoded = image_files.decode_files(endless(), 32, num_threads=2)
    for _ in range(100):
        assert next(decoded).pixels.shape == (32, 32, 3)
    assert taken <= 100 + 32 * 9
    decoded.close()


def test_batches_hold_failed_files_in_their_place():
    pixels = np.zeros((4, 4, 3), np.uint8)
    files = [image_files.Decoded(str(i), pixels if i % 3 else None, "" if i % 3 else "broken") for i in range(8)]
    sizes = []

    def say(images):
        sizes.append(len(images))
        return np.full(len(images), 0.5)

    found = [item for batch in predictions.predict_files(say, files, 3) for item in batch]
    assert [cell.file for cell, _ in found] == [str(i) for i in range(8)]
    assert [value is None for _, value in found] == [i % 3 == 0 for i in range(8)]
    assert sizes == [2, 2, 1]
