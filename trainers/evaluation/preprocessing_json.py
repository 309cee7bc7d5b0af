"""What leaves with an exported model, so that another program's port of the preprocessing can be checked.

export/preprocessing.json   how an image becomes the model's input, and what its output means
export/golden.npz           ten cells of the test split with their probabilities, and one resized example
"""

import io
import json
from pathlib import Path

import keras
import numpy as np

from pipeline import storage
from pipeline.cells import LABELS
from pipeline.errors import InputError
from pipeline.source import decode
from trainers import export_formats, run_dir
from trainers.data import Split
from trainers.evaluation.metrics import thresholds
from trainers.input_pipeline import batching

FILE = "preprocessing.json"
GOLDEN = "golden.npz"
_NUM_GOLDEN = 10


def write(run_folder: str, run: run_dir.Run, model: keras.Model, cells: Split | None) -> list[Path]:
    """Writes both files of a run with its exports; without `cells`, where the data set is not at hand, only the first.

    Returns what was written. Raises InputError if it cannot be.
    """
    folder = Path(run_folder) / export_formats.FOLDER
    size_px, name = model.input_shape[1], model.inputs[0].name
    fitted = thresholds.read(run_folder, test_time_flips=False)
    content = {
        "input": {
            "name": name,
            "shape": [None, size_px, size_px, 3],
            "dtype": {file: "float32" if "int8" in file else "uint8" for file in export_formats.OUTPUT_NAMES},
            "range": [0, 255],
            "channels": "RGB",
            "scaling": "none: the model scales its input itself",
        },
        "resize": {
            "kernel": "cubic, a = -0.75, without antialiasing: OpenCV's INTER_CUBIC",
            "size_px": size_px,
            "keeps_aspect_ratio": False,
        },
        "background": run["data"].get("background", "keep"),
        "output": {
            "name": export_formats.OUTPUT_NAMES,
            "shape": [None, 1],
            "dtype": "float32",
            "meaning": f"probability of {LABELS[1]}",
        },
        "labels": list(LABELS),
        "thresholds": (fitted or thresholds.defaults("")).thresholds,
        "golden": GOLDEN if cells else "none: the data set was not at hand",
    }
    files = {FILE: (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()}
    if cells:
        files[GOLDEN] = _golden(name, model, cells)
    try:
        folder.mkdir(exist_ok=True)
        for file, to_write in files.items():
            storage.write_atomic(folder / file, to_write)
        if not cells:  # of an earlier export, perhaps of other cells
            (folder / GOLDEN).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}; fix that and export again") from error
    return [folder / file for file in files]


def _golden(name: str, model: keras.Model, split: Split) -> bytes:
    with batching.reading(split):
        images, labels, *_ = next(iter(batching.evaluation_batches(split, _NUM_GOLDEN)))
    image = images.numpy()
    probability = export_formats.in_float32(model, "uint8").predict(image, verbose=0)
    before = image[0][: -image.shape[1] // 4, : -image.shape[2] // 8]
    arrays = {name: image, "probability": probability, "label": labels.numpy()}
    arrays |= {"before_resize": before, "after_resize": decode.resize(before, image.shape[1])}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
