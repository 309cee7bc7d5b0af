"""Predicts how probably each cell image is parasitized.

    python -m trainers.predict --run_dir=runs/basic_cnn cells/ other_cell.png > predictions.csv

Takes PNG, JPEG, TIFF, BMP and WebP files of any size, and folders of them. Each image is one cell, cropped, with a
black background as in training, and is resized as in training. Writes `file,probability,label,threshold,warning` to
standard output in the order of the files; the warning says how an image is unlike the training cells. A file name that
a spreadsheet would take for a formula (it begins with = + - or @) has an apostrophe before it. An image that cannot be
used gets a line on standard error, and the exit status is 1 then. Not a medical device.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from absl import flags

from pipeline.cells import LABELS
from pipeline.command import run
from pipeline.errors import InputError
from pipeline.terminal import csv_text, printable, progress_bar, quantity, say
from trainers import evaluation_flags, image_statistics, run_dir, tf_import
from trainers.evaluation.metrics import thresholds

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Folder of the run whose model predicts.", required=True)
_THRESHOLD = flags.DEFINE_string(
    "threshold",
    thresholds.DEFAULT,
    "A cell is labelled parasitized from this probability on: a number in 0…1, or the name of an operating point whose "
    f"threshold was fitted on validation when training ended: {', '.join(thresholds.NAMES)} (default is 0.5).",
)
_FORMAT = flags.DEFINE_enum("format", "csv", ["csv", "jsonl"], "csv has a header; jsonl is one JSON object per line.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Cells per step.", lower_bound=1)
evaluation_flags.define_model()
evaluation_flags.define_test_time_flips()
flags.adopt_module_key_flags(evaluation_flags)
_FIELDS = ("file", "probability", "label", "threshold", "warning")
_ONE_CLASS, _MIN_IMAGES = 0.95, 20  # when nearly all labels are one


def main(paths: Sequence[str]) -> int:
    """Predicts the images; the exit status is 1 if some cannot be used."""
    if not paths:
        raise InputError("got no images; expected paths of image files or folders after the flags")
    if zips := [path for path in paths if path.lower().endswith(".zip")]:
        raise InputError(f"{zips[0]} is a zip archive; expected image files or folders: unpack it first")
    record = run_dir.read(_RUN_DIR.value)
    if record["status"] != "finished":
        _warn(f"{_RUN_DIR.value} has not finished training: this is its best epoch so far")
    flips = flags.FLAGS.test_time_flips
    threshold = thresholds.read_threshold(_THRESHOLD.value, _RUN_DIR.value, flips)

    tf_import.import_tensorflow(flags.FLAGS.model)
    from trainers.evaluation import predictions
    from trainers.input_pipeline import image_files

    model = predictions.load_model(_RUN_DIR.value)
    predict = predictions.predictor(model, _BATCH_SIZE.value, flips)
    background = record["data"]["settings"].get("background", "keep")
    decoded = image_files.decode_files(image_files.image_files(paths), model.input_shape[1], background=background)
    write = _writer(_FORMAT.value)
    total, num_rejected = sum(1 for _ in image_files.image_files(paths)), 0
    converted: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    unlike: Counter[tuple[str, ...]] = Counter()
    with progress_bar(total, "predicting", "images") as bar:
        for batch in predictions.predict_files(predict, decoded, _BATCH_SIZE.value, record):
            for image, probability, reasons in batch:
                if probability is None:
                    num_rejected += 1
                    say(f"error: {image.file}: {image.error}", to_stderr=True)
                    continue
                is_large = image.side_px > image_statistics.MAX_SIDE_PX
                why = (image_statistics.WHOLE_IMAGE,) if is_large else reasons
                label = LABELS[probability >= threshold]
                converted.update(image.conversions)
                labels[label] += 1
                unlike[why] += 1
                write(image.file, round(probability, 6), label, round(threshold, 6), "; ".join(why))
            sys.stdout.flush()
            bar.update(len(batch))
    if kinds := ", ".join(f"{count:,} {kind}" for kind, count in sorted(converted.items())):
        _warn(f"converted to 8-bit RGB, as for training: {kinds}")
    if text := image_statistics.summarize(unlike):
        _warn(f"{text}; evaluate the model on labelled ones first, by trainers.evaluate")
    for label, count in labels.items():
        if count >= max(_MIN_IMAGES, _ONE_CLASS * labels.total()):
            _warn(f"the model calls {count:,} of {quantity(labels.total(), 'image')} {label}, nearly all")
    if "image_statistics" not in record:
        _warn(f"{_RUN_DIR.value} has no statistics of its training images, so nothing is said to be unlike them")
    if num_rejected:
        say(f"error: {num_rejected:,} of {total:,} could not be predicted, see above", to_stderr=True)
    return 1 if num_rejected else 0


def _warn(text: str) -> None:
    say(f"warning: {text}", to_stderr=True)


def _writer(file_format: str) -> Callable[[str, float, str, float, str], object]:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names need not be text
    if file_format == "jsonl":
        return lambda *row: print(json.dumps(dict(zip(_FIELDS, row, strict=True))))
    # Its own \r\n makes it quote names with either of them.
    writer = csv.writer(SimpleNamespace(write=lambda row: sys.stdout.write(row.removesuffix("\r\n") + "\n")))
    writer.writerow(_FIELDS)
    shown = printable if sys.stdout.isatty() else str
    return lambda file, *row: writer.writerow((csv_text(shown(file)), *row))


if __name__ == "__main__":
    run(main, takes_arguments=True)
