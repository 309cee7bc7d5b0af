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
from benchmarks.harness.clock import Content, Reader, Work, content_of, timed, total_of
from benchmarks.input_throughput import Case, lay_out, leading_shards, ratios
from trainers.data import open_data_set

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 40, 40, 3), np.uint8)
LABELS = np.arange(10) % 2
EXPECTED = total_of([content_of((IMAGES[:6], LABELS[:6]), True), content_of((IMAGES[6:], LABELS[6:]), True)])
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


def test_leading_shards():
    def shards(name, *sizes):
        return {"shards": [{"file": f"{name}{i}", "num_records": size} for i, size in enumerate(sizes)]}

    contents = {"splits": {"train": shards("a", 5, 5, 4), "test": shards("b", 3, 3)}}
    assert leading_shards(contents, 6) == ("train[:2shard]", 10, ["a0", "a1"])
    assert leading_shards(contents, 15) == ("train+test[:1shard]", 17, ["a0", "a1", "a2", "b0"])
    assert leading_shards(contents, 999)[:2] == ("train+test", 20)


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(input_throughput, "_LIBRARIES_PYTHON", Path("no such python"))
    case = Case(dataclasses.replace(WORK, reader="ffcv"))
    case.run()
    row = case.row()
    assert row["images_per_second"] == row["first_epoch"] == {"median": None, "runs": []}
    assert "not measured: its environment is missing: make peers" in measurement.table([row], {})
    assert ratios([row]) == {}


def test_every_reader_gives_every_cell_once(data_dir, tmp_path):
    laid_out = lay_out(open_data_set(str(data_dir), "by_patient"), 60, tmp_path, with_arrays=True)
    for name, tested in READERS.items():
        work = dataclasses.replace(laid_out, reader=name, batch_size=8)
        work.own.mkdir()
        for module in tested.modules:
            importlib.import_module(module)
        tested.prepare(work)
        check(tested, work)


def test_a_run_is_a_process_of_its_own(tmp_path):
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\necho >>"${0%/*}/launched"\nexec "$@"\n')
    launcher.chmod(0o700)
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "labels.npy", LABELS)
    work = dataclasses.replace(WORK, reader="numpy_in_memory", folder=str(tmp_path))
    result = input_throughput.run_once(work, [str(launcher)])
    assert len(result["epoch_seconds"]) == 2
    assert result["peak_rss_bytes"] > 1e6  # a busy machine may be looked at early
    assert (tmp_path / "launched").exists()


def test_input_throughput(data_dir, tmp_path, monkeypatch):
    def measure_here(name, command, with_descendants):
        assert command[:3] == ["nice", "-n", "1"]
        fields = json.loads(command[-1])
        work = Work(**{**fields, "expected": Content(*fields["expected"])})
        return measurement.Measurement(0, 0, 1 << 20, json.dumps(timed(READERS[work.reader], work)))

    monkeypatch.setattr(measurement, "measure", measure_here)
    flags = (f"--data_dir={data_dir}", "--num_cells=60", "--sizes=20,60", "--batch_sizes=8", "--epochs=2")
    content = measured(
        "input_throughput",
        tmp_path / "x.json",
        *flags,
        "--repeats=1",
        "--readers=streaming,tf_data",
        "--launcher=nice -n 1",
    )
    contents = open_data_set(str(data_dir), "by_patient").manifest
    small, large = (leading_shards(contents, size)[1] for size in (20, 60))
    expected = [f"{name}, batch 8, {large} cells" for name in ("streaming", "tf_data")]
    expected.append(f"streaming, batch 8, {small} cells")
    assert [case["name"] for case in content["cases"]] == expected
    for case in content["cases"]:
        assert case["first_epoch"]["median"] > 0
        assert case["peak_rss_bytes"] == 1 << 20
        assert len(case["epoch_seconds"][0]) == case["epochs"] == 1 + -(-large // case["num_images"])
    assert content["ratios"].keys() == {
        "streaming to tf_data, steady",
        "streaming to tf_data, first epoch",
        "streaming, slowest number of cells to fastest",
    }
