"""The report in a real browser, where there is one, and that it needs nothing from anywhere."""

import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from evaluating import OPTIONS

from trainers.evaluation.metrics import metrics
from trainers.evaluation.report import plots, writer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DARK, LIGHT = 0, 1  # of Blink's preferredColorScheme

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def page(small_report):
    return small_report.folder / "report.html"


def browse(page, screenshot, scheme=LIGHT, width=1200, height=8000):
    """Opens a page without network; returns the screenshot, uint8 RGB, and the lines of the console."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={screenshot.with_suffix('.profile')}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--blink-settings=preferredColorScheme={scheme}"]
    command += ["--enable-logging=stderr", f"--window-size={width},{height}", f"--screenshot={screenshot}"]
    result = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert screenshot.exists(), result.stderr
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return cv2.cvtColor(cv2.imread(str(screenshot)), cv2.COLOR_BGR2RGB), console


def fraction_of(image, colour):
    return (np.abs(image.astype(int) - colour).max(axis=2) <= 3).mean()


@needs_browser
@pytest.mark.parametrize(("scheme", "width"), [(LIGHT, 1200), (DARK, 500)])
def test_it_renders_without_errors(page, tmp_path, scheme, width):
    image, console = browse(page, tmp_path / "page.png", scheme, width)
    assert console == []
    assert image.shape == (8000, width, 3)
    background, red = ((255, 255, 255), (253, 236, 234)) if scheme == LIGHT else ((20, 23, 27), (58, 25, 23))
    assert 0.3 < fraction_of(image, background) < 0.97, "neither blank nor covered"
    assert fraction_of(image[:800], red) > 0.01, "the leak is red at the top"
    assert fraction_of(image, (61, 127, 196)) > 0, "the plots are there"
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 500, "cells, curves and text"


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


def test_it_needs_nothing_from_anywhere(page):
    text = page.read_text()
    assert "<script" not in text
    for attribute, value in re.findall(r'\b(src|href|xlink:href)="([^"]*)"', text):
        assert value.startswith(("data:", "#")), (attribute, value[:80])
    assert not re.findall(r"url\((?!#)|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_names_are_escaped():
    name = "<script>alert(1)</script>"
    cells = [{"filename": name, "label": name, "probability": 0.5, "image": np.zeros((2, 2, 3), np.uint8)}]
    first = {"split": name, "num_cells": 1, "num_patients": 1, "external": False}
    contents = {"comparisons": [], "suspected_label_errors": 1, "disputed_labels": None}
    variables = {"models": [], "first": first, "contents": contents, "dataset": name, "config": name, "source": name}
    variables |= {"num_folds": 1, "warnings": [{"severity": "note", "text": name}], "roc": ""}
    variables |= {"label_issues": cells, "options": OPTIONS, "noun": name, "date": name, "is_nlm": True}
    html = writer.render("report.html.j2", **variables)
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") >= 6
    assert "<script>" not in plots.to_svg(plots.confusion({"tn": 1, "fp": 2, "fn": 3, "tp": 4}, name), name)


def test_published_figures_are_those_of_the_original_work():
    counts = {
        "basic_cnn": (3884, 191, 225, 3968),
        "vgg_frozen": (3871, 204, 312, 3881),
        "vgg_ft": (4004, 71, 260, 3933),
    }
    for model, (tn, fp, fn, tp) in counts.items():
        labels, predictions = (np.repeat(classes, (tn, fp, fn, tp)) for classes in ([0, 0, 1, 1], [0, 1, 0, 1]))
        expected = [*metrics.class_weighted(labels, predictions).values(), tp / (fn + tp), tn / (tn + fp)]
        assert writer.PUBLISHED[model] == tuple(round(value, 4) for value in expected)
