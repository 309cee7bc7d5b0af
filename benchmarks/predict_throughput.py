"""Times `trainers.predict` on a folder of files, and its model alone on as many cells from memory.

    python -m benchmarks.predict_throughput --run_dir=runs/basic_cnn --source=cell_images.zip --output=predict.json

The source's cells are laid out in a folder and repeated up to about `--num_cells`. Both run in one process, in turn
and warm, without start-up. Memory is noted after each repeat: it should not grow.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.harness import measurement
from benchmarks.repeated_cells import lay_out
from pipeline.command import run
from trainers import run_dir, tf_import

ALONE, COMMAND = "model alone", "trainers.predict"


def main() -> None:
    """Measures, writes the file, prints the table."""
    values = flags.FLAGS
    run_dir.read(values.run_dir)
    with tempfile.TemporaryDirectory() as folder:
        num_cells = lay_out(values.source, Path(folder), values.num_cells)
        tf_import.import_tensorflow()

        from trainers.evaluation import predictions
        from trainers.input_pipeline import image_files  # seconds of imports that mistakes need not wait for

        model = predictions.load_model(values.run_dir)
        predict = predictions.predictor(model, values.batch_size)
        size = model.input_shape[1]
        batch = np.random.default_rng(0).integers(0, 256, (values.batch_size, size, size, 3), np.uint8)
        predict(batch)

        def predict_batch() -> float:
            started = time.perf_counter()
            for first in range(0, num_cells, values.batch_size):
                predict(batch[: num_cells - first])
            return time.perf_counter() - started

        def predict_files() -> float:
            started = time.perf_counter()
            files = image_files.decode_files(image_files.image_files([folder]), size)
            for _ in predictions.predict_files(predict, files, values.batch_size):
                pass
            return time.perf_counter() - started

        functions = {ALONE: predict_batch, COMMAND: predict_files}
        cases, runs = measurement.measure_in_turn(functions, num_cells, values.repeats)
    ratios = {f"{COMMAND} / {ALONE}": measurement.ratio(runs, COMMAND, ALONE)}
    memory = [repeat.peak_rss_bytes for repeat in runs[COMMAND]]
    measurement.report(values.output, cases, ratios, rss_bytes_after_each_repeat=memory)
    print(f"memory after each repeat: {', '.join(f'{used / 1e6:,.0f}' for used in memory)} MB")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Run whose model predicts.", required=True)
    flags.DEFINE_string("source", None, "Folder or zip of the NLM's cells.", required=True)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_integer("num_cells", 20_000, "About how many files to predict.", lower_bound=256)
    flags.DEFINE_integer("batch_size", 256, "Cells per batch.", lower_bound=1)
    flags.DEFINE_integer("repeats", 3, "Repeats of each.", lower_bound=1)
    run(main)
