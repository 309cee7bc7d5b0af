"""Says of cell images how probably each is parasitized.

    python -m trainers.predict --run_dir=runs/basic_cnn cells/ other_cell.png > predictions.csv

Takes PNG, JPEG, TIFF, BMP and WebP files of any size, and folders of them; each image is one cell, cut out and its
background black as in training, and is resized as there. Writes `file,probability,label` to standard output in the
order of the files; a file that cannot be used gets a line on standard error, and the exit status is 1 then. Memory does
not grow with their number. Not a medical device.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Sequence

from absl import flags

from pipeline.cells import LABELS
from pipeline.command import run
from pipeline.errors import InputError
from trainers import run_dir, tf_import
from trainers.evaluation.metrics import operating_points, thresholds

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Folder of the run whose model predicts.", required=True)
_THRESHOLD = flags.DEFINE_string(
    "threshold",
    operating_points.DEFAULT,
    "A cell is called parasitized from this probability on: a number in 0…1, or the name of an operating point that "
    f"trainers.evaluate chose on validation: {', '.join(operating_points.NAMES)} (0.5 is the default).",
)
_FORMAT = flags.DEFINE_enum("format", "csv", ["csv", "jsonl"], "csv has a header; jsonl is one JSON object a line.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Cells a step.", lower_bound=1)
_FLIPS = flags.DEFINE_bool(
    "test_time_flips", False, "Mean probability over the 8 flips and quarter turns of a cell: 8 times the work."
)
_FIELDS = ("file", "probability", "label")


def main(paths: Sequence[str]) -> int:
    """Predicts the images; the exit status is 1 if some could not be."""
    try:
        return _predict(paths)
    except BrokenPipeError:  # whoever read this has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _predict(paths: Sequence[str]) -> int:
    if not paths:
        raise InputError("got no images; expected paths of image files or folders behind the flags")
    run_dir.read(_RUN_DIR.value)
    threshold = thresholds.find_threshold(_THRESHOLD.value, _RUN_DIR.value, _FLIPS.value)

    tf_import.import_tensorflow()
    from pipeline.progress import progress_bar  # and seconds of imports that mistakes need not wait for
    from trainers.evaluation import predictions
    from trainers.input_pipeline import image_files

    model = predictions.load_model(_RUN_DIR.value)
    size = model.input_shape[1]
    if model.input_shape[1] != model.input_shape[2]:
        raise InputError(
            f"the model in {_RUN_DIR.value} takes images of shape {model.input_shape[1:]}; expected squares"
        )
    predict = predictions.predictor(model, _BATCH_SIZE.value, _FLIPS.value)
    write = _writer(_FORMAT.value)
    total = sum(1 for _ in image_files.image_files(paths))
    num_failed = 0
    with progress_bar(total, "predicting", "images") as bar:
        decoded = image_files.decode_files(image_files.image_files(paths), size)
        for batch in predictions.predict_files(predict, decoded, _BATCH_SIZE.value):
            for cell, probability in batch:
                if probability is None:
                    num_failed += 1
                    print(f"error: {cell.file}: {cell.error}", file=sys.stderr)
                else:
                    write(cell.file, round(probability, 6), LABELS[probability >= threshold])
            sys.stdout.flush()
            bar.update(len(batch))
    if num_failed:
        print(f"error: {num_failed:,} of {total:,} could not be predicted, see above", file=sys.stderr)
    return 1 if num_failed else 0


def _writer(form: str) -> Callable[[str, float, str], object]:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names need not be text
    if form == "jsonl":
        return lambda *row: print(json.dumps(dict(zip(_FIELDS, row, strict=True))))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_FIELDS)
    return lambda *row: writer.writerow(row)


if __name__ == "__main__":
    run(main)
