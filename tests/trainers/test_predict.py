"""Predicting image files: the same pixels as in training, in order, in bounded memory, rejected files on stderr."""

import csv
import io
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, open_split, prepare, run_in_process, small_model, write_run
from PIL import Image

from pipeline import synthetic
from trainers import run_dir
from trainers.evaluation import predictions
from trainers.evaluation.metrics import thresholds
from trainers.input_pipeline import image_files


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder with a cell of every format, and a file that is no image."""
    folder = tmp_path_factory.mktemp("files") / "cells"
    (folder / "deeper").mkdir(parents=True)
    for number, (_, pixels) in enumerate(synthetic.cells(8, 1, seed=3)):
        suffix = ("png", "jpg", "tif", "bmp", "PNG", "webp")[number % 6]
        path = folder / ("deeper" if number % 2 else "") / f"cell_{number:02d}.{suffix}"
        path.write_bytes(cv2.imencode(f".{suffix.lower()}", pixels[..., ::-1])[1].tobytes())
    (folder / "notes.txt").write_text("no image")
    return folder


def predict(run, *arguments):
    return run_in_process("trainers.predict", f"--run_dir={run}", *arguments)


def rows_of(result):
    return list(csv.DictReader(io.StringIO(result.stdout)))


def expected(run, files):
    """Decoded by OpenCV and resized as the original work does it, then predicted at once."""
    pixels = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
    resized = np.stack([cv2.resize(item, (32, 32), interpolation=cv2.INTER_CUBIC) for item in pixels])
    return predictions.load_model(str(run)).predict(resized, verbose=0)[:, 0]


def test_folders_and_files_in_order(small_run, cells):
    first = sorted(cells.glob("deeper/*"))[0]
    result = predict(small_run, first, cells)
    assert result.returncode == 0, result.stderr
    files = [first, *sorted(cells.glob("*_*.*")), *sorted(cells.glob("deeper/*"))]
    rows = rows_of(result)
    assert [row["file"] for row in rows] == [str(file) for file in files]
    probabilities = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(probabilities, expected(small_run, files), atol=1e-5)
    assert [row["label"] for row in rows] == [("uninfected", "parasitized")[value >= 0.5] for value in probabilities]


def test_names_with_quotes_and_ends_of_lines_are_one_row(small_run, cells, tmp_path):
    names = sorted(["a\rb.png", "a\nb.png", 'a"b.png', "a,b.png", "a\r\nb.png"])
    for name in names:
        shutil.copy(sorted(cells.glob("*.png"))[0], tmp_path / name)
    rows = list(csv.reader(io.StringIO(predict(small_run, tmp_path).stdout, newline="")))
    assert [row[0] for row in rows[1:]] == [str(tmp_path / name) for name in names]


def test_a_rejected_file_has_its_own_line(small_run, cells, tmp_path):
    good = sorted(cells.glob("*.png"))[0]
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    paths = (tmp_path / "broken.png", good, tmp_path / "missing.png", tmp_path / "text.png", tmp_path / "empty")
    result = predict(small_run, "--format=jsonl", "--threshold=0", *paths)
    assert result.returncode == 1
    (row,) = (json.loads(line) for line in result.stdout.splitlines())
    assert row["file"] == str(good)
    assert row["label"] == "parasitized", "the threshold is 0"
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5
    for name, reason in (("broken.png", "decode"), ("missing.png", "does not exist"), ("empty", "has no images")):
        assert any(name in line and reason in line for line in errors), errors
    assert "4 of 5 could not be predicted" in errors[-1]


def test_conversions_are_counted_in_one_line(small_run, cells, tmp_path):
    page = Image.new("RGB", (40, 40))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    page.save(tmp_path / "frames.png", save_all=True, append_images=[page.rotate(9, fillcolor="red")])
    page.convert("L").save(tmp_path / "grey.png")
    result = predict(small_run, tmp_path, cells)
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: converted to 8-bit RGB, as for training: 2 first of several frames, 1 grey",
        "warning: 3 of 19 images are unlike the cells of the training split, so their probabilities may mean nothing "
        "(3 blank); evaluate the model on labelled ones first, by trainers.evaluate",
    ]


def test_columns_say_the_threshold_and_what_is_unlike_the_training_cells(small_run, cells, tmp_path):
    _, cell = next(iter(synthetic.cells(1, 1, seed=5)))
    white = np.where(cell.max(2, keepdims=True) == 0, 255, cell)
    dark = cv2.cvtColor(cell, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 16
    images = {"cell": cell, "inverted": 255 - cell, "smear": np.tile(white, (9, 9, 1)), "white": white, "dark": dark}
    for name, pixels in images.items():
        (tmp_path / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    result = predict(small_run, "--threshold=0", *[tmp_path] * 5)
    assert result.returncode == 0, result.stderr
    rows = {Path(row["file"]).stem: row for row in rows_of(result)}
    assert list(rows["cell"])[:5] == ["file", "probability", "label", "threshold", "warning"]
    assert {row["threshold"] for row in rows.values()} == {"0.0"}
    assert rows["smear"]["warning"] == "a whole smear or photograph, not one cell"
    assert rows["cell"]["warning"] == ""
    assert all(reason in rows["dark"]["warning"] for reason in ("too dark", "grey"))
    for line in ("of 25 images are unlike the cells", "out of scope: cut single cells out", "calls 25 of 25 images"):
        assert line in result.stderr


def test_what_is_no_regular_file_is_neither_waited_for_nor_read(small_run, cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    good = sorted(cells.glob("*.png"))[0]
    os.mkfifo("fifo.png")
    with socket.socket(socket.AF_UNIX) as listening, Path("sparse.png").open("wb") as sparse:
        listening.bind("socket.png")
        sparse.truncate(3 << 30)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = predict(small_run, tmp_path, "/dev/zero", good, "x" * 300)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"
    assert [row["file"] for row in rows_of(result)] == [str(good)]
    errors = [line.partition(": ")[2] for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors[:-1] == [
        f"{tmp_path}/fifo.png: not a regular file",
        f"{tmp_path}/socket.png: not a regular file",
        f"{tmp_path}/sparse.png: 3221225472 bytes; expected at most 67108864",
        "/dev/zero: not a regular file",
        f"{'x' * 300}: cannot be read: File name too long",
    ]


def test_a_link_to_a_folder_is_not_left_out_without_a_word(small_run, cells, tmp_path):
    (tmp_path / "link").symlink_to(cells)
    shutil.copy(sorted(cells.glob("*.png"))[0], tmp_path)
    result = predict(small_run, tmp_path)
    assert result.returncode == 1
    assert f"error: {tmp_path}/link: symbolic link to a folder, which is not followed" in result.stderr
    assert len(rows_of(result)) == 1


@pytest.mark.parametrize("flips", [False, True])
def test_a_fitted_threshold_decides_on_the_label(small_run, cells, flips):
    result = predict(small_run, "--threshold=youden", f"--test_time_flips={flips}", cells)
    assert result.returncode == 0, result.stderr
    threshold = thresholds.read(str(small_run), flips).thresholds["youden"]
    assert {(float(row["probability"]) >= threshold, row["label"]) for row in rows_of(result)} <= {
        (False, "uninfected"),
        (True, "parasitized"),
    }


def test_mistakes_are_one_line(small_run, cells, data_dir, tmp_path):
    assert_one_line_error(predict(small_run), "got no images")
    assert_one_line_error(predict(small_run, cells, "cells.zip"), "cells.zip is a zip archive", "unpack it")
    assert_one_line_error(predict(tmp_path, cells), "is no run")
    assert_one_line_error(predict(small_run, "--threshold=x", cells), "--threshold=x is neither")
    unfitted = write_run(tmp_path / "unfitted", data_dir, small_model())
    result = predict(unfitted, "--threshold=youden", cells)
    command = f"python -m trainers.basic_cnn --run_dir={unfitted}"
    assert_one_line_error(result, "has no thresholds.json", "run its training command again", command)


def test_an_unfinished_run_predicts_with_a_word(cells, data_dir, tmp_path):
    run = write_run(tmp_path / "run", data_dir, small_model())
    run_dir.write(str(run), {**run_dir.read(str(run)), "status": "unfinished"})
    result = predict(run, cells)
    assert result.returncode == 0, result.stderr
    assert f"warning: {run} has not finished training" in result.stderr


def test_a_reader_that_closes_the_pipe_ends_it_quietly(small_run, cells):
    command = f"{sys.executable} -m trainers.predict --run_dir={small_run} {cells} | head -1"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == "file,probability,label,threshold,warning\n"
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


def test_a_run_remembers_that_its_data_set_made_surroundings_black(tmp_path):
    source = tmp_path / "source"
    for name, pixels in synthetic.cells(9, 4, seed=3):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        framed = cv2.copyMakeBorder(pixels, 9, 9, 9, 9, cv2.BORDER_CONSTANT)
        on_light = np.where(framed.max(axis=-1, keepdims=True) > 0, framed, 250).astype(np.uint8)
        cv2.imwrite(str(source / name), on_light[..., ::-1])
    prepare(source, tmp_path / "data", image_size_px=32, background="black")
    run = write_run(tmp_path / "run", tmp_path / "data", small_model())
    rows = rows_of(predict(run, source))
    names = ["/".join(Path(row["file"]).parts[-2:]) for row in rows]
    stored = predictions.fetch_images(open_split(tmp_path / "data", "train+validation+test"), names)
    assert not stored[:, 0, 0].any(), "the corners of all cells are black"
    expected = predictions.load_model(str(run)).predict(stored, verbose=0)[:, 0]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=1e-5)
