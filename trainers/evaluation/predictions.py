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

Predictor = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [n, size, size, 3] in, probability of being parasitized float64 [n] in 0…1 out."""


class Predictions(NamedTuple):
    """Every cell of a split once, in the order of its records.

    Attributes:
      labels: int64 [cells], 1 is parasitized.
      probabilities: float64 [cells] in 0…1, of being parasitized.
      filenames, patient_ids: str [cells].
    """

    labels: np.ndarray
    probabilities: np.ndarray
    filenames: np.ndarray
    patient_ids: np.ndarray


class ModelPredictions(NamedTuple):
    """The predictions of one model, with all that the report needs besides.

    Attributes:
      model_runs: the runs that predicted.
      predictions: of all runs, one after the other.
      run_index: int64 [cells], which run predicted each cell.
      thresholds: one per run.
      leak: see `runs.find_leak`.
      test_time_flips: whether probabilities are means over flips and quarter turns.
      unlike: number of cells by their reasons, see `image_statistics.find_unlike`; None if a run has no statistics.
    """

    model_runs: ModelRuns
    predictions: Predictions
    run_index: np.ndarray
    thresholds: tuple[Thresholds, ...]
    leak: dict[str, Any]
    test_time_flips: bool
    unlike: Counter[tuple[str, ...]] | None = None

    @property
    def name(self) -> str:
        """Key in `metrics.json`."""
        return self.model_runs.name

    @property
    def is_calibrated(self) -> bool:
        """Whether every run has a fitted temperature."""
        return not any(fitted.not_fitted for fitted in self.thresholds)

    @property
    def calibrated_probabilities(self) -> np.ndarray:
        """float64 [cells] in 0…1, each run's scaled by its own temperature."""
        temperatures = np.array([fitted.temperature for fitted in self.thresholds])[self.run_index]
        return thresholds.apply_temperature(self.predictions.probabilities, temperatures)

    @property
    def cell_thresholds(self) -> dict[str, np.ndarray]:
        """Threshold of each cell, float64 [cells], for the operating points that every run has."""
        return {
            name: np.array([fitted.thresholds[name] for fitted in self.thresholds])[self.run_index]
            for name in thresholds.NAMES
            if all(name in fitted.thresholds for fitted in self.thresholds)
        }


def load_model(run_folder: str) -> keras.Model:
    """Loads the best epoch's model of a run.

    Raises:
      InputError: if the file is missing or corrupt, or the model does not classify cells.
    """
    path = Path(run_folder) / run_dir.MODEL
    if not path.exists():
        raise InputError(f"{run_folder} has no {run_dir.MODEL}; run its trainer first")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # a corrupt archive fails in zipfile, json, h5py or Keras, each in its own way
        raise InputError(f"{path} cannot be loaded ({error}); train again into another --run_dir") from error
    if len(model.inputs) != 1 or len(model.input_shape) != 4 or model.input_shape[-1] != 3:
        raise InputError(f"{path} takes {model.input_shape}; expected RGB images [cells, height, width, 3]")
    if tuple(model.output_shape) != (None, 1):
        raise InputError(f"{path} returns {model.output_shape}; expected one probability per cell, [cells, 1]")
    return model


def predictor(model: keras.Model, batch_size: int, test_time_flips: bool = False) -> Predictor:
    """A model as a function.

    Args:
      model: see `load_model`.
      batch_size: smaller batches are padded to it, since a new shape would compile the model anew.
      test_time_flips: return the mean probability over the eight flips and quarter turns of each cell, at eight times
        the work.
    """
    views = [(turns, mirror) for turns in range(4) for mirror in (False, True)] if test_time_flips else [(0, False)]

    def predict(images: np.ndarray) -> np.ndarray:
        num_cells = len(images)
        if num_cells < batch_size:
            images = np.concatenate([images, np.zeros((batch_size - num_cells, *images.shape[1:]), images.dtype)])
        by_view = [model.predict_on_batch(_flipped(images, *view))[:num_cells, 0] for view in views]
        probabilities = np.array(by_view, np.float64).mean(axis=0)
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise InputError(f"{model.name} returns values outside 0…1; expected probabilities: train again")
        return probabilities

    return predict


def watched(predict: Predictor, record: run_dir.Run, reasons: list[tuple[str, ...]]) -> Predictor:
    """The same, but it also appends to `reasons` why each image is unlike the training cells of a run."""

    def watch(images: np.ndarray) -> np.ndarray:
        reasons.extend(image_statistics.find_unlike(images, record.get("image_statistics")))
        return predict(images)

    return watch


def _flipped(images: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    """One of the symmetries of the square: a cell has no up and no left."""
    return np.ascontiguousarray(np.rot90(images[:, :, ::-1] if mirror else images, turns, axes=(1, 2)))


def predict_split(predict: Predictor, split: Split, batch_size: int, description: str) -> Predictions:
    """Predicts every cell of a split once, under a progress bar with a description."""
    batches = []
    with batching.reading(split), progress_bar(split.num_cells, description, "images") as bar:
        for image, label, filename, patient_id in batching.evaluation_batches(split, batch_size):
            batches.append((label.numpy(), predict(image.numpy()), _text(filename.numpy()), _text(patient_id.numpy())))
            bar.update(len(label))
    return _concatenate(batches)


def _text(values: np.ndarray) -> np.ndarray:
    return np.array([value.decode() for value in values], np.str_)


def _concatenate(parts: Iterable[tuple[np.ndarray, ...]]) -> Predictions:
    return Predictions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def fit_thresholds(run_folder: str, model: keras.Model, validation: Split, batch_size: int) -> Predictions:
    """Fits thresholds and temperature of a run on its validation split, with and without test-time flips.

    Writes `thresholds.json` for the model, that of `load_model`; returns its predictions without flips.

    Raises:
      OSError: if the file cannot be written.
    """
    without_flips, with_flips = (
        predict_split(predictor(model, batch_size, flips), validation, batch_size, description)
        for flips, description in ((False, "fitting thresholds"), (True, "fitting thresholds, with flips"))
    )
    fitted = (
        thresholds.fit(validation.expression, labels, probabilities, patient_ids)
        for labels, probabilities, _, patient_ids in (without_flips, with_flips)
    )
    thresholds.write(run_folder, *fitted)
    return without_flips


def predict_runs(model_runs: ModelRuns, data_set: DataSet, batch_size: int, test_time_flips: bool) -> ModelPredictions:
    """Predicts the test cells of every run of a model.

    Raises:
      InputError: if a model does not fit the data, or the cells are of one class only.
    """
    parts, fitted, leaks = [], [], []
    unlike: list[tuple[str, ...]] = []
    for run, split in zip(model_runs.runs, runs.open_splits(data_set, model_runs), strict=True):
        # First: where there are thresholds the model is final, and not replaced by its trainer while it is loaded.
        fitted.append(thresholds.read(run.path, test_time_flips) or thresholds.defaults(thresholds.missing(run.path)))
        model = load_model(run.path)
        shape = (split.image_size_px, split.image_size_px, 3)
        if model.input_shape[1:] != shape:
            raise InputError(
                f"the model in {run.path} takes images of shape {model.input_shape[1:]}, the data set has {shape}; "
                "give the --data_dir of a data set with images of that size"
            )
        predict = watched(predictor(model, batch_size, test_time_flips), run.record, unlike)
        predictions = predict_split(predict, split, batch_size, f"{model_runs.name}: {split.expression}")
        if len(np.unique(predictions.labels)) < 2:
            raise InputError(
                f"split {split.expression} of {data_set.directory} has cells of one class only; expected uninfected "
                "and parasitized cells: give another --split"
            )
        parts.append(predictions)
        leaks.append(runs.find_leak(run.record, predictions.patient_ids.tolist(), data_set.identity))
    run_index = np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts])
    return ModelPredictions(
        model_runs,
        _concatenate(parts),
        run_index,
        tuple(fitted),
        runs.merge_leaks(leaks),
        test_time_flips,
        Counter(unlike) if all("image_statistics" in run.record for run in model_runs.runs) else None,
    )


def predict_files(
    predict: Predictor, decoded: Iterable[Decoded], batch_size: int
) -> Iterator[list[tuple[Decoded, float | None]]]:
    """Predicts files of `image_files.decode_files` in batches; rejected ones stay in their place, with None."""
    files = iter(decoded)
    while batch := list(islice(files, batch_size)):
        pixels = [file.pixels for file in batch if file.pixels is not None]
        probabilities = iter(predict(np.stack(pixels)).tolist() if pixels else [])
        yield [(file, None if file.pixels is None else next(probabilities)) for file in batch]


def fetch_images(split: Split, filenames: Sequence[str]) -> np.ndarray:
    """Images of some cells, uint8 RGB [n, size, size, 3]: the split is read once more, since nothing keeps them."""
    images: dict[str, np.ndarray] = {}
    with batching.reading(split):
        for image, _, names, _ in batching.evaluation_batches(split, 256):
            images |= {name: image[row].numpy() for row, name in enumerate(_text(names.numpy())) if name in filenames}
    return np.stack([images[name] for name in filenames])
