"""Writes a finished run's model in the formats of other runtimes.

    python -m trainers.export --run_dir=runs/basic_cnn --format=saved_model,onnx,litert
    python -m trainers.export --run_dir=runs/basic_cnn --format=litert --quantize=int8

It takes a few seconds per format. How to use what it writes: see BUILD.md, "Exporting a model".
"""

from absl import flags

from pipeline.command import run
from pipeline.errors import InputError
from pipeline.terminal import say
from trainers import evaluation_flags, export_formats, run_dir, tf_import
from trainers.data import Split, open_data_set

_CALIBRATION_CELLS = 500

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Folder of a run, as given to its trainer.", required=True)
_FORMAT = flags.DEFINE_list(
    "format", None, f"Formats to write, one or more of {', '.join(export_formats.NAMES)}.", required=True
)
_QUANTIZE = flags.DEFINE_enum(
    "quantize",
    None,
    ["int8"],
    "Compute in 8-bit integers, calibrated on 500 training cells; only with --format=litert.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Root of the run's data sets if it has moved: golden.npz and --quantize take cells from there."
)
evaluation_flags.define_model()
flags.adopt_module_key_flags(evaluation_flags)


def main() -> None:
    """Exports the run's best model, and prints where to."""
    formats = ",".join(_FORMAT.value)
    if _QUANTIZE.value and formats != "litert":
        raise InputError(f"--quantize={_QUANTIZE.value} is for --format=litert alone; got --format={formats}")
    export_formats.check(_FORMAT.value or [""], "format")
    run = run_dir.read(_RUN_DIR.value)
    if run["status"] != "finished":
        raise InputError(f"{_RUN_DIR.value} has not finished training; expected a finished run: run its trainer again")
    split, golden = _open_split(run, "train_split") if _QUANTIZE.value else None, None
    try:
        golden = _open_split(run, "test_split")
    except InputError as error:
        if _DATA_DIR.value:
            raise
        say(f"warning: no golden.npz: {error}", to_stderr=True)
    tf_import.import_tensorflow(flags.FLAGS.model)
    from trainers.evaluation import preprocessing_json
    from trainers.evaluation.predictions import load_model  # seconds of imports that mistakes need not wait for
    from trainers.input_pipeline import batching

    model, calibration = load_model(_RUN_DIR.value), None
    if split:
        with batching.reading(split):
            calibration = next(iter(batching.evaluation_batches(split, _CALIBRATION_CELLS)))[0].numpy()
    exported = export_formats.export(_RUN_DIR.value, model, _FORMAT.value, calibration)
    say(*exported, *preprocessing_json.write(_RUN_DIR.value, run, model, golden))


def _open_split(run: run_dir.Run, flag: str) -> Split:
    data_set = open_data_set(_DATA_DIR.value or str(run["flags"].get("data_dir", "data")), run["flags"]["config"])
    if differing := "; ".join(run_dir.data_differences(run["data"], data_set.identity)):
        text = f"{data_set.directory} is not what the run was trained on: {differing}"
        raise InputError(f"{text}; give the --data_dir of its data set")
    return data_set.open_split(run["flags"][flag], flag)


if __name__ == "__main__":
    run(main)
