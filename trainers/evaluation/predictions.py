"""What a model says about cells: a run folder and a split in, probabilities out."""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from pipeline.errors import InputError
from pipeline.progress import progress_bar
from trainers import run_dir
from trainers.data import Split
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


def load_model(run_folder: str) -> keras.Model:
    """Loads the best epoch's model of a run.

    Raises:
      InputError: if the file is missing or damaged, or the model is none of cells.
    """
    path = Path(run_folder) / run_dir.MODEL
    if not path.exists():
        raise InputError(f"{run_folder} has no {run_dir.MODEL}; run its trainer first")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # a damaged archive fails in zipfile, json, h5py or Keras, each in its own way
        raise InputError(f"{path} cannot be loaded ({error}); train again into another --run_dir") from error
    if len(model.inputs) != 1 or len(model.input_shape) != 4 or model.input_shape[-1] != 3:
        raise InputError(f"{path} takes {model.input_shape}; expected RGB images [cells, height, width, 3]")
    if tuple(model.output_shape) != (None, 1):
        raise InputError(f"{path} gives {model.output_shape}; expected one probability a cell, [cells, 1]")
    return model


def check_inputs(model: keras.Model, split: Split, run_folder: str) -> None:
    """Raises InputError if a model takes images of another size than a split has."""
    expected, found = model.input_shape[1:], (split.image_size_px, split.image_size_px, 3)
    if expected != found:
        raise InputError(f"the model in {run_folder} takes images of shape {expected}, the data set has {found}")


def predictor(model: keras.Model, batch_size: int, test_time_flips: bool = False) -> Predictor:
    """A model as a function.

    Args:
      model: see `load_model`.
      batch_size: cells a step; smaller batches are filled up, since a new shape would compile the model anew.
      test_time_flips: the mean probability over the eight flips and quarter turns of each cell; eight times the work.
    """
    views = list(_flips()) if test_time_flips else [lambda images: images]

    def predict(images: np.ndarray) -> np.ndarray:
        num_cells = len(images)
        if num_cells < batch_size:
            images = np.concatenate([images, np.zeros((batch_size - num_cells, *images.shape[1:]), images.dtype)])
        views_said = [np.asarray(model.predict_on_batch(view(images)), np.float64)[:num_cells, 0] for view in views]
        probabilities = np.mean(views_said, axis=0)
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise InputError(f"{model.name} gives no probabilities in 0…1; train again")
        return probabilities

    return predict


def _flips() -> Iterable[Callable[[np.ndarray], np.ndarray]]:
    """The symmetries of the square: a cell has no up and no left."""
    for turns in range(4):
        for mirror in (False, True):
            yield functools.partial(_flipped, turns=turns, mirror=mirror)


def _flipped(images: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(images[:, :, ::-1] if mirror else images, turns, axes=(1, 2)))


def predict_split(predict: Predictor, split: Split, batch_size: int, description: str) -> Predictions:
    """Predicts every cell of a split once.

    Args:
      predict: see `predictor`.
      split: what to predict.
      batch_size: cells a step.
      description: stands before the progress bar.
    """
    columns: tuple[list[np.ndarray], ...] = ([], [], [], [])
    with progress_bar(split.num_cells, description, "images") as bar:
        for image, label, filename, patient_id in batching.evaluation_batches(split, batch_size):
            batch = (label.numpy(), predict(image.numpy()), _text(filename.numpy()), _text(patient_id.numpy()))
            for column, values in zip(columns, batch, strict=True):
                column.append(values)
            bar.update(len(label))
    return Predictions(*(np.concatenate(column) for column in columns))


def predict_files(
    predict: Predictor, decoded: Iterable[Decoded], batch_size: int
) -> Iterator[list[tuple[Decoded, float | None]]]:
    """Predicts decoded files in batches; those that could not be decoded keep their place, with None.

    Args:
      predict: see `predictor`.
      decoded: see `decoding.decode_files`.
      batch_size: cells a step.
    """

    def predicted(batch: list[Decoded]) -> list[tuple[Decoded, float | None]]:
        pixels = [cell.pixels for cell in batch if cell.pixels is not None]
        found = iter(predict(np.stack(pixels)).tolist() if pixels else [])
        return [(cell, None if cell.pixels is None else next(found)) for cell in batch]

    batch = []
    for cell in decoded:
        batch.append(cell)
        if len(batch) == batch_size:
            yield predicted(batch)
            batch = []
    if batch:
        yield predicted(batch)


def _text(values: np.ndarray) -> np.ndarray:
    return np.array([value.decode() for value in values], np.str_)


def fetch_images(splits: Iterable[Split], filenames: Iterable[str], batch_size: int = 256) -> dict[str, np.ndarray]:
    """Images by file name, uint8 RGB [size, size, 3] each: the splits are read once more, since nothing keeps them."""
    wanted = set(filenames)
    found: dict[str, np.ndarray] = {}
    for split in splits:
        if len(found) == len(wanted):
            break
        for image, _, names, _ in batching.evaluation_batches(split, batch_size):
            for row, name in enumerate(_text(names.numpy())):
                if name in wanted:
                    found[str(name)] = image[row].numpy()
    return found


def concatenate(parts: Iterable[Predictions]) -> Predictions:
    """Several splits' predictions as one."""
    return Predictions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
