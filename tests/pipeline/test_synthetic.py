import collections
import itertools
import re
import zipfile

import cv2
import numpy as np
import pytest

from pipeline import synthetic
from pipeline.errors import InputError

_SMALL = {"num_patients": 8, "cells_per_patient": 4, "seed": 0}


@pytest.fixture(scope="module")
def generated():
    return list(synthetic.cells(8, 30, 0))


def test_cells_are_pinned(generated):
    """Golden up to the last bit of `exp` and `sin`, in which processors differ."""
    some = generated[::40]
    assert [pixels.shape[:2] for _, pixels in some] == [
        (120, 126),
        (130, 136),
        (118, 145),
        (120, 114),
        (139, 153),
        (139, 138),
    ]
    np.testing.assert_allclose(
        [pixels.mean() for _, pixels in some], [125.1, 117.95, 130.76, 138.96, 126.24, 126.01], atol=0.1
    )


def test_a_cell_depends_on_seed_patient_and_number_only(generated):
    expected = dict(generated)
    again = dict(synthetic.cells(3, 10, 0))
    assert again.keys() < expected.keys()
    assert all(np.array_equal(pixels, expected[name]) for name, pixels in again.items())
    other = [pixels for _, pixels in synthetic.cells(1, 10, 1)]
    assert not any(np.array_equal(pixels, cell) for pixels in other for _, cell in generated)


def test_names_tell_class_and_patient(generated):
    classes = collections.defaultdict(collections.Counter)
    for name, _ in generated:
        folder, base_name = name.split("/")
        assert re.fullmatch(r"C\d+[A-Za-z0-9_]*_IMG_\d{8}_\d{6}a?_cell_\d+\.png", base_name)
        classes[re.match(r"^(C\d+)", base_name)[1]][folder] += 1
    assert len({name.split("/")[1] for name, _ in generated}) == len(generated)
    assert list(classes) == [f"C{number}" for number in range(1, 9)]
    assert {patient for patient, counts in classes.items() if not counts["Parasitized"]} == {"C4", "C8"}
    assert all(counts["Uninfected"] and 15 <= counts.total() <= 60 for counts in classes.values())
    assert {name.split("/")[0] for name, _ in synthetic.cells(1, 1, 0)} == {"Parasitized", "Uninfected"}


def test_cells_are_masked_crops_of_real_sizes(generated):
    for _, pixels in generated:
        height, width, _ = pixels.shape
        assert pixels.dtype == np.uint8
        assert 40 <= height <= 385
        assert 46 <= width <= 394
        assert not pixels[:: height - 1, :: width - 1].any()
        assert 0.3 < pixels.all(axis=2).mean() < 0.95
        assert np.array_equal(pixels.all(axis=2), pixels.any(axis=2))
    assert np.allclose(np.median([pixels.shape for _, pixels in generated], axis=0), (130, 130, 3), atol=10)


def test_zips_hold_the_cells_and_are_equal(tmp_path):
    counts = {synthetic.write(tmp_path / name, **_SMALL) for name in ("a.zip", "b.zip")}
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert counts == {len(files) - 2}
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert {f"cell_images/{folder}/Thumbs.db" for folder in ("Parasitized", "Uninfected")} < files.keys()
    for name, pixels in synthetic.cells(**_SMALL):
        png = np.frombuffer(files[f"cell_images/{name}"], np.uint8)
        assert np.array_equal(cv2.imdecode(png, cv2.IMREAD_COLOR_RGB), pixels)


def test_failing_midway_leaves_nothing_behind(tmp_path, monkeypatch):
    steps, encode = itertools.count(), cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *given: encode(*given) if next(steps) < 5 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthetic.write(tmp_path / "cells.zip", **_SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "reason"), [(".", "exists"), ("absent/cells.zip", "No such file")])
def test_unusable_outputs_are_refused(tmp_path, name, reason):
    with pytest.raises((InputError, FileNotFoundError), match=reason):
        synthetic.write(tmp_path / name, **_SMALL)
    assert not list(tmp_path.iterdir())
