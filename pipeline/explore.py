"""Draws what a prepared data set holds.

    python -m pipeline.explore --data_dir=data --output=exploration.png [--config=by_patient]

One picture: cells and patients by split, image sizes before resizing, cells of each patient, the mean colour of each
patient's cells, and sixteen labelled cells in true colours. Sizes, colours and cells are those of the training split.
Some five seconds for 27,558 cells.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pipeline.command import reject_arguments, run
from pipeline.errors import InputError
from pipeline.records import manifest
from pipeline.splits.configs import CONFIGS

_SUFFIXES = (".png", ".pdf", ".svg")


def main(arguments: Sequence[str]) -> None:
    """Draws the picture."""
    reject_arguments(arguments)
    values = flags.FLAGS
    output = Path(values.output)
    if output.suffix not in _SUFFIXES:
        raise InputError(f"--output={output} is no picture; expected a name that ends in {', '.join(_SUFFIXES)}")
    directory, its_manifest = manifest.read_dataset(values.data_dir, values.config)

    from matplotlib import pyplot as plt  # a second that mistakes need not wait for

    from pipeline import exploration, exploration_picture

    figure = exploration_picture.draw(exploration.explore(directory, its_manifest))
    partial = output.with_name(f".partial-{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, dpi=110)
        partial.replace(output)
    except OSError as error:
        raise InputError(f"--output={output} cannot be written: {error.strerror}; give another") from error
    plt.close(figure)
    print(output)


if __name__ == "__main__":  # flags are not defined on import: other commands have some of the same names
    flags.DEFINE_string("data_dir", None, "Root of the data sets.", required=True)
    flags.DEFINE_string("output", "exploration.png", "Picture to write: .png, .pdf or .svg.")
    flags.DEFINE_enum("config", next(iter(CONFIGS)), list(CONFIGS), "Config of the data set.")
    run(main)
