"""Writes a finished run's model in the formats of other runtimes.

    python -m trainers.export --run_dir=runs/basic_cnn --format=saved_model,onnx,litert

It takes a few seconds per format. How to use what it writes: see BUILD.md, "Exporting a model".
"""

from collections.abc import Sequence

from absl import flags

from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.terminal import say
from trainers import export_formats, run_dir, tf_import

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Folder of a run, as given to its trainer.", required=True)
_FORMAT = flags.DEFINE_list(
    "format", None, f"Formats to write, one or more of {', '.join(export_formats.NAMES)}.", required=True
)


def main(arguments: Sequence[str]) -> None:
    """Exports the run's best model; prints where to."""
    reject_arguments(arguments)
    if not _FORMAT.value:
        raise InputError(f"--format is empty; expected one or more of {','.join(export_formats.NAMES)}")
    export_formats.check(_FORMAT.value, "format")
    if run_dir.read(_RUN_DIR.value)["status"] != "finished":
        raise InputError(f"{_RUN_DIR.value} has not finished training; expected a finished run: run its trainer again")
    tf_import.import_tensorflow()
    from trainers.evaluation.predictions import load_model  # seconds of imports that mistakes need not wait for

    for path in export_formats.export(_RUN_DIR.value, load_model(_RUN_DIR.value), _FORMAT.value):
        say(path)


if __name__ == "__main__":
    run(main)
