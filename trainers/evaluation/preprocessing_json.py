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

GOLDEN = "golden.npz"
_NUM_GOLDEN = 10
_KERNEL = "cubic, a = -0.75, without antialiasing: OpenCV's INTER_CUBIC"


def write(run_folder: str, run: run_dir.Run, model: keras.Model, cells: Split | None) -> list[Path]:
    """Writes both files, without `cells` only the first, and returns them; raises InputError if that fails."""
    folder, size_px = Path(run_folder) / export_formats.FOLDER, model.input_shape[1]
    fitted = thresholds.read(run_folder, test_time_flips=False)
    content = {
        "input": {
            "name": model.inputs[0].name,
            "shape": [None, size_px, size_px, 3],
            "dtype": dict.fromkeys(export_formats.OUTPUT_NAMES, "uint8"),
            "range": [0, 255],
            "channels": "RGB",
            "scaling": "none: the model scales its input itself",
        },
        "resize": {"kernel": _KERNEL, "size_px": size_px, "keeps_aspect_ratio": False},
        "background": run["data"]["settings"].get("background", "keep"),
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
    files = {"preprocessing.json": (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()}
    files |= {GOLDEN: _golden(model, cells)} if cells else {}
    try:
        folder.mkdir(exist_ok=True)
        (folder / GOLDEN).unlink(missing_ok=True)  # of an earlier export, perhaps of other cells
        for name, to_write in files.items():
            storage.write_atomic(folder / name, to_write)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}; fix that and export again") from error
    return [folder / name for name in files]


def _golden(model: keras.Model, split: Split) -> bytes:
    with batching.reading(split):
        images, labels, *_ = next(iter(batching.evaluation_batches(split, _NUM_GOLDEN)))
    image, buffer = images.numpy(), io.BytesIO()
    probability = export_formats.in_float32(model).predict(image, verbose=0)
    before = image[0][: -image.shape[1] // 4, : -image.shape[2] // 8]
    example = {"before_resize": before, "after_resize": decode.resize(before, image.shape[1])}
    np.savez_compressed(buffer, image=image, probability=probability, label=labels.numpy(), **example)
    return buffer.getvalue()
