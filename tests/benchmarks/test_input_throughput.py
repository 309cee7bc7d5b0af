"""The input benchmark: no reader can cheat, what is missing is named, and the file has the promised form."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import measured

from benchmarks import input_throughput
from benchmarks.baselines.input_readers import READERS
from benchmarks.harness import measurement
from benchmarks.harness.clock import Content, Reader, Work, timed
from benchmarks.input_throughput import Case, lay_out, ratios
from trainers.data import open_data_set

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 40, 40, 3), np.uint8)
LABELS = np.arange(10) % 2
EXPECTED = Content().plus((IMAGES[:6], LABELS[:6]), True).plus((IMAGES[6:], LABELS[6:]), True)
WORK = Work("reader", "", "", "", "", [], EXPECTED, batch_size=4, epochs=2)


def reader(images=IMAGES, labels=LABELS, epochs=None, size=10):
    def read(work):
        for epoch in range(epochs or work.epochs):
            order = np.random.default_rng(epoch).permutation(size)
            for first in range(0, size, work.batch_size):
                rows = order[first : first + work.batch_size]
                yield images[rows], labels[rows]

    return Reader(read)


def check(tested, work):
    timed(tested, dataclasses.replace(work, is_check=True, epochs=1))


def changed(array, *index):
    copy = array.copy()
    copy[index] ^= 1
    return copy


def test_an_honest_reader_is_timed_epoch_by_epoch():
    check(reader(IMAGES.astype(np.float32)), WORK)
    result = timed(reader(), WORK)
    assert len(result["epoch_seconds"]) == 2
    assert min(*result["epoch_seconds"], result["closing_seconds"]) > 0


@pytest.mark.parametrize(
    ("run", "cheat"),
    [
        (check, reader(changed(IMAGES, 3, 20, 20, 1))),
        (check, reader(labels=changed(LABELS, 3))),
        (check, reader(IMAGES[[0, 0, *range(2, 10)]])),
        (timed, reader(np.zeros_like(IMAGES))),
        (timed, reader(IMAGES[[0, 0, *range(2, 10)]])),
        (timed, reader(size=9)),
        (timed, reader(epochs=1)),
        (timed, reader(epochs=3)),
    ],
)
def test_any_other_content_is_an_error(run, cheat):
    with pytest.raises(ValueError, match="expected"):
        run(cheat, WORK)


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(input_throughput, "_LIBRARIES_PYTHON", Path("no such python"))
    case = Case(dataclasses.replace(WORK, reader="ffcv"))
    case.run()
    row = case.row()
    assert row["images_per_second"] == row["first_epoch"] == {"median": None, "runs": []}
    assert "not measured: its environment is missing: make peers" in measurement.table([row])
    assert ratios([row]) == {}


def test_every_reader_gives_every_cell_once(data_dir, tmp_path):
    laid_out = lay_out(open_data_set(str(data_dir), "by_patient").open_split("validation"), str(data_dir), tmp_path)
    for name, tested in READERS.items():
        work = dataclasses.replace(laid_out, reader=name, batch_size=8)
        work.own.mkdir()
        for module in tested.modules:
            importlib.import_module(module)
        tested.prepare(work)
        check(tested, work)


def test_a_run_is_a_process_of_its_own(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "labels.npy", LABELS)
    work = dataclasses.replace(WORK, reader="numpy_in_memory", folder=str(tmp_path))
    run, epochs = input_throughput.run_once(work)
    assert len(epochs) == 2
    assert run.seconds >= epochs[1]
    assert run.peak_rss_bytes > 1e6  # a busy machine may be looked at early


def test_input_throughput(data_dir, tmp_path, monkeypatch):
    def measure_here(name, command):
        fields = json.loads(command[-1])
        work = Work(**{**fields, "expected": Content(*fields["expected"])})
        return measurement.Measurement(0, 0, 1 << 20, json.dumps(timed(READERS[work.reader], work)))

    monkeypatch.setattr(measurement, "measure", measure_here)
    flags = (f"--data_dir={data_dir}", "--split=validation", "--batch_sizes=8", "--epochs=2", "--repeats=1")
    content = measured("input_throughput", tmp_path / "x.json", *flags, "--readers=streaming,tf_data")
    num_cells = open_data_set(str(data_dir), "by_patient").open_split("validation").num_cells
    assert [case["name"] for case in content["cases"]] == [
        f"{name}, batch 8, {num_cells} cells" for name in ("streaming", "tf_data")
    ]
    for case in content["cases"]:
        assert case["first_epoch"]["median"] > 0
        assert case["peak_rss_bytes"] == 1 << 20
        assert len(case["epoch_seconds"][0]) == 2
    assert content["ratios"].keys() == {
        "streaming to tf_data, batch 8, steady",
        "streaming to tf_data, batch 8, first epoch",
    }
