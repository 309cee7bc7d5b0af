"""Extracts features as the tests do, here or in a process of its own that is killed on the way.

    python tests/trainers/extraction.py <data set folder> <split> <cache> <block|progress>

kills itself at the third block: when its values are written, or before the file that tells of it gets its name.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import keras
import numpy as np
from etils import epath
from trainers.input_pipeline.splits import open_split

from pipeline.records import manifest
from trainers.models import architectures, feature_file, features, parts

BLOCK_CELLS, BATCH_SIZE = 16, 8


def build():
    keras.utils.set_random_seed(0)
    model = architectures.vgg_frozen(32)
    last = model.get_layer("probability").kernel
    last.assign(0.1 * np.asarray(last))  # or the probabilities of an untrained head would all be 0
    return model


def extract(directory, expression, cache, model, **options):
    directory = epath.Path(directory)
    return features.extract(
        parts.split(model).backbone,
        open_split(directory, expression),
        manifest.read(directory),
        cache,
        **{"vgg_input": "imagenet", "batch_size": BATCH_SIZE} | options,
    )


def kill_at_third(moment):
    seen = []

    def count():
        seen.append(moment)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    if moment == "block":
        original = feature_file._checksum
        feature_file._checksum = lambda *columns: count() or original(*columns)
    else:
        sys.addaudithook(
            lambda event, arguments: count() if event == "os.rename" and "progress" in str(arguments[0]) else None
        )


if __name__ == "__main__":
    features._BLOCK_CELLS = BLOCK_CELLS
    kill_at_third(sys.argv[4])
    extract(*sys.argv[1:4], build())
