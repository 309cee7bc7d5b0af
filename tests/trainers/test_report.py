"""The report in a real browser, where there is one, and that it needs nothing from anywhere."""

import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from conftest import small_model, write_run

from trainers.evaluation import evaluate
from trainers.evaluation.data_set import DataSet
from trainers.evaluation.report import writer
from trainers.evaluation_flags import Options

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DARK, LIGHT = 0, 1  # of Blink's preferredColorScheme

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def page(data_dir, tmp_path_factory):
    """The report of two models, one of which has seen the patients that it is judged on."""
    folder = tmp_path_factory.mktemp("report")
    runs = [
        write_run(folder / "honest", data_dir, small_model("basic_cnn")),
        write_run(
            folder / "leaky", data_dir, small_model("vgg_ft", seed=1), splits=("train+test", "validation", "test")
        ),
    ]
    _, planned = runs.plan([str(run) for run in runs], None, None)
    options = Options(32, False, 100, 0, 0.01)
    evaluate.evaluate(planned, DataSet(str(data_dir), "by_patient"), options, str(folder / "report"))
    return folder / "report" / "report.html"


def browse(page, screenshot, scheme=LIGHT, width=1200, height=4000):
    """Opens a page without network; returns the picture, uint8 RGB, and what the console said."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={screenshot.with_suffix('.profile')}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--blink-settings=preferredColorScheme={scheme}"]
    command += ["--enable-logging=stderr", f"--window-size={width},{height}", f"--screenshot={screenshot}"]
    result = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert screenshot.exists(), result.stderr
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return cv2.cvtColor(cv2.imread(str(screenshot)), cv2.COLOR_BGR2RGB), console


def share_of(picture, colour):
    return (np.abs(picture.astype(int) - colour).max(axis=2) <= 3).mean()


@needs_browser
@pytest.mark.parametrize(("scheme", "width"), [(LIGHT, 1200), (DARK, 1200), (LIGHT, 500)])
def test_it_renders_without_a_word_on_the_console(page, tmp_path, scheme, width):
    picture, console = browse(page, tmp_path / "page.png", scheme, width)
    assert console == []
    assert picture.shape == (4000, width, 3)
    background, red = ((255, 255, 255), (253, 236, 234)) if scheme == LIGHT else ((20, 23, 27), (58, 25, 23))
    assert 0.3 < share_of(picture, background) < 0.97, "neither blank nor covered"
    assert share_of(picture[:800], red) > 0.01, "the leak is red at the top"
    assert share_of(picture, (61, 127, 196)) > 0, "the pictures are there"
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500, "cells, curves and text"


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_it_fits_its_window(page, tmp_path, width):
    script = "<script>document.title = 'fits ' + (document.documentElement.scrollWidth <= innerWidth)</script></body>"
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", script))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--dump-dom", copy.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "<title>fits true</title>" in result.stdout


@needs_browser
def test_the_browser_check_can_fail(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text('<body><img src="https://example.org/x.png"><script>missing()</script></body>')
    picture, console = browse(broken, tmp_path / "broken.png")
    assert len(console) >= 1
    assert share_of(picture, (255, 255, 255)) > 0.97


def test_it_needs_nothing_from_anywhere(page):
    text = page.read_text()
    assert "<script" not in text
    for attribute, value in re.findall(r'\b(src|href|xlink:href)="([^"]*)"', text):
        assert value.startswith(("data:", "#")), (attribute, value[:80])
    assert not re.findall(r"url\((?!#)|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_names_are_escaped(page, tmp_path):
    text = writer.render("model_card.md.j2", **card_contents(name="<script>alert(1)</script>"))
    assert "<script>" in text, "Markdown is text"
    html = writer.render("report.html.j2", **page_contents(split="<script>alert(1)</script>"))
    assert "<script>" not in html


def card_contents(name):
    metric = {"value": 0.5, "ci95": None}
    entry = dict.fromkeys(writer._TITLES, metric)
    smear = {"num_cells": 5000, "prevalence": 0.01, "positive_predictive_value": None, "uninfected_patients": None}
    entry |= {"split": "test", "num_cells": 2, "num_patients": 1, "folds": None, "operating_points": {}, "smear": smear}
    flags = dict.fromkeys(("epochs", "learning_rate", "batch_size", "train_split", "validation_split"), 1)
    data = {"dataset": "d", "source": "s", "num_train_cells": 1, "num_validation_cells": 1}
    members = [{"name": "run", "run": {"flags": flags, "data": data, "seed": 0}}]
    return {
        "name": name,
        "model": "m",
        "entry": entry,
        "members": members,
        "dataset": "d",
        "image_size_px": 32,
        "cautions": [],
    }


def page_contents(split):
    contents = {"models": [], "split": split, "num_cells": 1, "num_patients": 1, "dataset": "d", "config": "by_patient"}
    contents |= {"source": "s", "uses_folds": False, "num_folds": 1, "test_time_flips": False, "cautions": []}
    contents |= {"comparisons": [], "forest": "", "roc": "", "num_suspects": 0, "suspects": [], "num_voices": 1}
    return contents | {"num_resamples": 100, "bootstrap_seed": 0}
