"""Probabilities of cells: in order, the same for every way a cell lies, and what is fitted on them."""

import numpy as np
import pytest
from conftest import open_split, small_model, write_run

from pipeline.errors import InputError
from trainers.data import open_data_set
from trainers.evaluation import predictions, runs
from trainers.evaluation.metrics import thresholds
from trainers.input_pipeline.image_files import Decoded


def test_predictions_and_images_have_the_order_of_the_records(small_run, data_dir):
    _, (model_runs,) = runs.group([str(small_run)], None, "train[:20]+test[:20]")
    data_set = open_data_set(str(data_dir), "by_patient")
    model = predictions.predict_runs(model_runs, data_set, 16, False)
    filenames = model.predictions.filenames.tolist()
    images = predictions.fetch_images(data_set.open_split("train[:20]+test[:20]"), filenames)
    assert images.shape == (40, 32, 32, 3)
    again = predictions.load_model(str(small_run)).predict(images, verbose=0)[:, 0]
    np.testing.assert_allclose(model.predictions.probabilities, again, rtol=1e-5)
    assert model.leak["train_patients"], "it was trained on them"


def test_flips_do_not_depend_on_how_a_cell_lies():
    model = small_model()
    images = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    predict = predictions.predictor(model, 8, test_time_flips=True)
    expected = predict(images)
    for turned in (images[:, ::-1], images[:, :, ::-1], np.rot90(images, axes=(1, 2)), images.transpose(0, 2, 1, 3)):
        np.testing.assert_allclose(predict(np.ascontiguousarray(turned)), expected, rtol=1e-5)
    views = [np.rot90(part, k, axes=(1, 2)) for k in range(4) for part in (images, images[:, :, ::-1])]
    mean = np.mean([model.predict(np.ascontiguousarray(view), verbose=0)[:, 0] for view in views], axis=0)
    np.testing.assert_allclose(expected, mean, rtol=1e-5)
    assert not np.allclose(expected, predictions.predictor(model, 8)(images))


def test_thresholds_are_fitted_on_validation_with_and_without_flips(small_run, data_dir):
    split, model = open_split(data_dir, "validation"), predictions.load_model(str(small_run))
    for flips in (False, True):
        expected = predictions.predict_split(predictions.predictor(model, 32, flips), split, 32, "validation")[0]
        fitted = thresholds.fit("validation", expected.labels, expected.probabilities, expected.patient_ids)
        assert thresholds.read(str(small_run), flips) == fitted
        assert fitted.num_cells == split.num_cells


def test_a_missing_or_corrupt_model(data_dir, tmp_path):
    folder = write_run(tmp_path / "run", data_dir, small_model())
    (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model.keras cannot be loaded"):
        predictions.load_model(str(folder))
    (folder / "model.keras").unlink()
    with pytest.raises(InputError, match=r"has no model.keras; run its trainer first"):
        predictions.load_model(str(folder))


def test_rejected_files_stay_in_their_place():
    pixels = np.zeros((4, 4, 3), np.uint8)
    files = [Decoded(str(i), pixels if i % 3 else None, "" if i % 3 else "broken") for i in range(8)]
    sizes = []

    def predict(images):
        sizes.append(len(images))
        return np.full(len(images), 0.5)

    rows = [row for batch in predictions.predict_files(predict, files, 3) for row in batch]
    assert [file.file for file, *_ in rows] == [str(i) for i in range(8)]
    assert [value is None for _, value, _ in rows] == [i % 3 == 0 for i in range(8)]
    assert sizes == [2, 2, 1]
