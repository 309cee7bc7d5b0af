"""Images unlike the training cells: each kind is named, and cells of other patients are not."""

import itertools
import json
import re
from collections import Counter

import cv2
import numpy as np
import pytest

from pipeline import synthetic
from pipeline.source import decode
from trainers import image_statistics


def grey(images):
    return np.repeat(images.mean(3, keepdims=True), 3, axis=3).astype(np.uint8)


KINDS = {  # and the least fraction that is named
    "blank": (lambda images: np.full_like(images, 230), 1),
    "inverted": (lambda images: 255 - images, 0.8),
    "red and blue swapped (BGR)": (lambda images: images[..., ::-1], 0.3),
    "grey": (grey, 1),
    "too dark": (lambda images: grey(images) // 16, 1),
    image_statistics.LIGHT_BORDER: (
        lambda images: np.where(images.max(3, keepdims=True) < 8, 255, images).astype(np.uint8),
        0.9,
    ),
    "blurred": (lambda images: np.stack([cv2.GaussianBlur(image, (0, 0), 4) for image in images]), 0.9),
    image_statistics.WHOLE_IMAGE: (
        lambda images: np.stack([cv2.resize(np.tile(image, (6, 6, 1)), (64, 64)) for image in images]),
        0.9,
    ),
}


def test_what_is_unlike_the_training_cells_is_named_and_other_patients_are_not():
    names, pixels = zip(*synthetic.cells(48, 3, seed=1), strict=True)
    images = np.stack([decode.resize(item, 64) for item in pixels])
    patients = np.array([re.search(r"C\d+", name)[0] for name in names])
    is_training = np.isin(patients, np.unique(patients)[::2])
    fitted = image_statistics.fit(images[is_training], patients[is_training])
    statistics, others = json.loads(json.dumps(fitted)), images[~is_training]
    assert np.mean([reasons == () for reasons in image_statistics.find_unlike(others, statistics)]) > 0.9, (
        "12 patients are few"
    )
    for kind, (change, least) in KINDS.items():
        named = [kind in reasons for reasons in image_statistics.find_unlike(change(others), statistics)]
        assert np.mean(named) >= least, kind
    assert image_statistics.find_unlike(others[:1], None) == [()], "a run without statistics"
    robust = image_statistics.of_run({"flags": {"surroundings": 0.5}, "image_statistics": statistics})
    on_light = KINDS[image_statistics.LIGHT_BORDER][0](others)
    named = image_statistics.find_unlike(on_light, robust)
    assert np.mean([reasons == () for reasons in named]) > 0.9, "trained with other surroundings"
    for change, trained in itertools.product(
        (KINDS["blurred"][0], lambda cells: cells[..., ::-1]), (statistics, robust)
    ):
        named = image_statistics.find_unlike(change(on_light), trained)
        assert {*named} <= {(), (image_statistics.LIGHT_BORDER,)}, "the border alone explains the rest"
        assert trained is robust or named.count((image_statistics.LIGHT_BORDER,)) > 0.9 * len(named)
    dark = image_statistics.find_unlike(on_light // 4 + 128 * (on_light > 200).astype(np.uint8), robust)
    assert (image_statistics.LIGHT_BORDER, "too dark") in dark, "the border does not explain everything"


@pytest.mark.parametrize("size_px", [1, 2, 3, 16])
def test_one_cell_has_statistics(size_px):
    image = np.random.default_rng(0).integers(0, 256, (1, size_px, size_px, 3), np.uint8)
    assert image_statistics.find_unlike(image, image_statistics.fit(image, np.array([""]))) in ([()], [("blank",)])


def test_a_summary_says_so_where_many_are_unlike():
    unlike = Counter({(): 94, ("grey",): 3, ("grey", image_statistics.WHOLE_IMAGE): 3})
    assert image_statistics.count(unlike) == {"num_cells": 6, "reasons": {"grey": 6, image_statistics.WHOLE_IMAGE: 3}}
    text = image_statistics.summarize(unlike)
    assert text.startswith("6 of 100 images are unlike the cells of the training split")
    assert "(6 grey; 3 a whole smear" in text
    assert "Cellpose" in text
    assert "--background=black" not in text
    assert "--background=black masks" in image_statistics.summarize(Counter({(image_statistics.LIGHT_BORDER,): 9}))
    assert image_statistics.summarize(Counter({(): 95, ("grey",): 5})) == ""
