"""A data set that is replaced, as `--overwrite` does, while a command reads it: it stops, and saves nothing of it."""

import json

import keras
import numpy as np
import pytest
from conftest import assert_one_line_error, open_split, prepare, run_in_process, small_model

from pipeline.errors import InputError
from trainers import run_dir
from trainers.evaluation import predictions
from trainers.models import features

MESSAGE = "has been replaced while it was read"


@pytest.fixture
def data_set(synthetic_zip, tmp_path):
    """A function that makes the data set below `data`, again with another seed."""

    def make(split_seed):
        settings = {"image_size_px": 32, "cells_per_shard": 20, "split_seed": split_seed, "overwrite": True}
        prepare(synthetic_zip, tmp_path / "data", **settings)

    make(42)
    return make


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_a_training_stops(mode, data_set, tmp_path, monkeypatch):
    write_history = run_dir.write_history

    def write_and_replace(history, path):
        write_history(history, path)
        data_set(7)

    monkeypatch.setattr(run_dir, "write_history", write_and_replace)
    flags = (f"--input={mode}", "--epochs=2", "--batch_size=16", f"--data_dir={tmp_path / 'data'}")
    result = run_in_process("trainers.basic_cnn", *flags, f"--run_dir={tmp_path / 'run'}")
    assert_one_line_error(result, MESSAGE, "nothing that was read since was saved")
    assert len(run_dir.read_history(tmp_path / "run/history.csv")) == 1
    assert not list((tmp_path / "run").glob("checkpoint/*")), "the first epoch's was not saved either"
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "unfinished"


def test_predictions_and_features_stop(data_set, tmp_path, monkeypatch):
    seeds, predict_on_batch = [7], keras.Model.predict_on_batch

    def replace_once(self, x):
        if seeds:
            data_set(seeds.pop())
        return predict_on_batch(self, x)

    split = open_split(tmp_path / "data", "train")
    model = small_model()
    with monkeypatch.context() as context:
        context.setattr(keras.Model, "predict_on_batch", replace_once)
        with pytest.raises(InputError, match=MESSAGE):
            predictions.predict_split(predictions.predictor(model, 16), split, 16, "predicting")
    with pytest.raises(InputError, match=MESSAGE):
        predictions.fetch_images(split, [])
    backbone = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()])
    with pytest.raises(InputError, match=MESSAGE):
        features.extract(backbone, split, tmp_path / "cache", vgg_input=None)
    assert not list((tmp_path / "cache").iterdir())
    again = open_split(tmp_path / "data", "train")
    assert np.unique(predictions.predict_split(predictions.predictor(model, 16), again, 16, "")[0].labels).tolist() == [
        0,
        1,
    ]
