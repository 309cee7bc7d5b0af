"""Predictions: a run folder and a split in, the probability of every cell out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from pipeline.errors import InputError
from pipeline.terminal import progress_bar
from trainers import image_statistics, run_dir
from trainers.data import DataSet, Split
from trainers.evaluation import runs
from trainers.evaluation.metrics import thresholds
from trainers.evaluation.metrics.thresholds import Thresholds
from trainers.evaluation.runs import ModelRuns
from trainers.input_pipeline import batching
from trainers.input_pipeline.image_files import Decoded
from trainers.models import custom

Predictor = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [n, size, size, 3] in, probability of being parasitized float64 [n] in 0…1 out."""


class Predictions(NamedTuple):
    """Every cell of a split once, in the order of its records."""

    labels: np.ndarray  # int64 [cells], 1 is parasitized
    probabilities: np.ndarray  # float64 [cells] in 0…1, of being parasitized
    filenames: np.ndarray  # str [cells]
    patient_ids: np.ndarray  # str [cells]


class ModelPredictions(NamedTuple):
    """The predictions of one model, with all that the report needs besides."""

    model_runs: ModelRuns
    predictions: Predictions  # of all runs, one after the other
    run_index: np.ndarray  # int64 [cells], which run predicted each cell
    thresholds: tuple[Thresholds, ...]  # one per run
    leak: dict[str, Any]  # see `runs.find_leak`
    unlike: Counter[tuple[str, ...]] | None = None  # cells by `image_statistics.find_unlike`; None without statistics

    @property
    def name(self) -> str:  # key in `metrics.json`
        return self.model_runs.name

    @property
    def is_calibrated(self) -> bool:  # whether every run has a fitted temperature
        return not any(fitted.not_fitted for fitted in self.thresholds)

    @property
    def calibrated_probabilities(self) -> np.ndarray:  # float64 [cells] in 0…1, each run's by its own temperature
        temperatures = np.array([fitted.temperature for fitted in self.thresholds])[self.run_index]
        return thresholds.apply_temperature(self.predictions.probabilities, temperatures)


def load_model(run_folder: str) -> keras.Model:
    """Loads a run's model; raises InputError if the file is missing or corrupt, or does not classify cells."""
    path = Path(run_folder) / run_dir.MODEL
    if not path.exists():
        raise InputError(f"{run_folder} has no {run_dir.MODEL}; run its trainer first")
    try:
        model = custom.load(path)
    except ValueError as error:
        own = run_dir.read(run_folder)["flags"].get("model")
        advice = f"give --model={own} if it has layers of its own, or " if own else ""
        raise InputError(f"{path} cannot be loaded ({error}); {advice}train again into another --run_dir") from error
    takes, returns = model.input_shape, model.output_shape
    if len(model.inputs) != 1 or len(takes) != 4 or takes[-1] != 3 or tuple(returns) != (None, 1):
        expected = "one probability per cell, [cells, 1], of RGB images [cells, height, width, 3]"
        raise InputError(f"{path} takes {takes} and returns {returns}; expected {expected}")
    return model


def predictor(model: keras.Model, batch_size: int, test_time_flips: bool = False) -> Predictor:
    """A model as a function; with flips, of the mean probability over the eight flips and quarter turns of each cell.

    Smaller batches are padded to the batch size, since a new shape would compile the model anew.
    """
    views = [(turns, mirror) for turns in range(4) for mirror in (False, True)] if test_time_flips else [(0, False)]

    def predict_view(images: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
        view = np.rot90(images[:, :, ::-1] if mirror else images, turns, axes=(1, 2))
        return model.predict_on_batch(np.ascontiguousarray(view))[:, 0]

    def predict(images: np.ndarray) -> np.ndarray:
        padding = np.zeros((max(0, batch_size - len(images)), *images.shape[1:]), images.dtype)
        padded = np.concatenate([images, padding]) if len(padding) else images
        probabilities = np.array([predict_view(padded, *view) for view in views], np.float64).mean(axis=0)
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise InputError(f"{model.name} returns values outside 0…1; expected probabilities: train again")
        return probabilities[: len(images)]

    return predict


def predict_split(
    predict: Predictor, split: Split, batch_size: int, description: str, statistics: dict[str, Any] | None = None
) -> tuple[Predictions, Counter[tuple[str, ...]]]:
    """Predicts every cell of a split once; also counts how they are unlike the `statistics` of a run."""
    batches, unlike = [], Counter[tuple[str, ...]]()
    with batching.reading(split), progress_bar(split.num_cells, description, "images") as bar:
        for image, label, *texts in batching.evaluation_batches(split, batch_size).as_numpy_iterator():
            batches.append((label, predict(image), *map(_text, texts)))
            unlike.update(image_statistics.find_unlike(image, statistics))
            bar.update(len(label))
    return _concatenate(batches), unlike


def _text(values: np.ndarray) -> np.ndarray:
    return np.array([value.decode() for value in values], np.str_)


def _concatenate(parts: Iterable[tuple[np.ndarray, ...]]) -> Predictions:
    return Predictions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def fit_thresholds(run_folder: str, model: keras.Model, validation: Split, batch_size: int) -> Predictions:
    """Fits and writes the `thresholds.json` of a run and its model; returns the predictions without flips."""
    both = [
        predict_split(predictor(model, batch_size, flips), validation, batch_size, description)[0]
        for flips, description in ((False, "fitting thresholds"), (True, "fitting thresholds, with flips"))
    ]
    fitted = [thresholds.fit(validation.expression, item.labels, item.probabilities, item.patient_ids) for item in both]
    thresholds.write(run_folder, *fitted)
    return both[0]


def predict_runs(model_runs: ModelRuns, data_set: DataSet, batch_size: int, test_time_flips: bool) -> ModelPredictions:
    """Predicts the test cells of every run; raises InputError if the model or the cells' classes do not fit."""
    parts, fitted, leaks = [], [], []
    unlike: Counter[tuple[str, ...]] = Counter()
    for run, split in zip(model_runs.runs, runs.open_splits(data_set, model_runs), strict=True):
        # First: where there are thresholds the model is final, and not replaced by its trainer while it is loaded.
        fitted.append(thresholds.read(run.path, test_time_flips) or thresholds.defaults(thresholds.missing(run.path)))
        model = load_model(run.path)
        shape = (split.image_size_px, split.image_size_px, 3)
        if model.input_shape[1:] != shape:
            text = f"the model in {run.path} takes images of shape {model.input_shape[1:]}, the data set has {shape}"
            raise InputError(f"{text}; give the --data_dir of a data set with images of that size")
        predict, statistics = predictor(model, batch_size, test_time_flips), image_statistics.of_run(run.record)
        title = f"{model_runs.name}: {split.expression}"
        predictions, counted = predict_split(predict, split, batch_size, title, statistics)
        unlike += counted
        if len(np.unique(predictions.labels)) < 2:
            text = f"split {split.expression} of {data_set.directory} has cells of one class only"
            raise InputError(f"{text}; expected uninfected and parasitized cells: give another --split")
        parts.append(predictions)
        leaks.append(runs.find_leak(run.record, predictions.patient_ids.tolist(), data_set.identity))
    run_index, leak = np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts]), runs.merge_leaks(leaks)
    is_counted = all(image_statistics.of_run(run.record) for run in model_runs.runs)
    return ModelPredictions(
        model_runs, _concatenate(parts), run_index, tuple(fitted), leak, unlike if is_counted else None
    )


def predict_files(
    predict: Predictor, decoded: Iterable[Decoded], batch_size: int, record: run_dir.Run | None = None
) -> Iterator[list[tuple[Decoded, float | None, tuple[str, ...]]]]:
    """Predicts decoded files in batches: its probability, None if rejected, and why it is unlike a run's cells."""
    files = iter(decoded)
    while batch := list(islice(files, batch_size)):
        pixels = [file.pixels for file in batch if file.pixels is not None]
        probabilities = iter(predict(np.stack(pixels)).tolist() if pixels else [])
        reasons = iter(image_statistics.find_unlike(np.array(pixels), image_statistics.of_run(record or {})))
        results = ((None, ()) if file.pixels is None else (next(probabilities), next(reasons)) for file in batch)
        yield [(file, *result) for file, result in zip(batch, results, strict=True)]


def fetch_images(split: Split, filenames: Sequence[str]) -> np.ndarray:
    """Images of some cells, uint8 RGB [n, size, size, 3]: the split is read once more, since nothing keeps them."""
    images: dict[str, np.ndarray] = {}
    with batching.reading(split):
        for image, _, names, _ in batching.evaluation_batches(split, 256):
            images |= {name: image[row].numpy() for row, name in enumerate(_text(names.numpy())) if name in filenames}
    return np.stack([images[name] for name in filenames])
