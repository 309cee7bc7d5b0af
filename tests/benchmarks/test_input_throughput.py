"""The input benchmark: no reader can cheat, what is missing is named, and the file has the promised form."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import measured

from benchmarks.baselines.input_readers import READERS
from benchmarks.harness import input_cases, measurement
from benchmarks.harness.clock import Reader, Work, check, content_of, timed, total_of
from benchmarks.harness.input_cases import Case
from benchmarks.input_throughput import lay_out, leading_shards, ratios
from trainers.data import open_data_set

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 40, 40, 3), np.uint8)
LABELS = np.arange(10) % 2
EXPECTED = total_of([content_of((IMAGES[:6], LABELS[:6]), True), content_of((IMAGES[6:], LABELS[6:]), True)])
WORK = Work("reader", "", "", "", "", "", (), EXPECTED, batch_size=4, epochs=2)


def reader(images=IMAGES, labels=LABELS, epochs=None, size=10):
    def read(work):
        for epoch in range(epochs or work.epochs):
            order = np.random.default_rng(epoch).permutation(size)
            for first in range(0, size, work.batch_size):
                rows = order[first : first + work.batch_size]
                yield images[rows], labels[rows]

    return Reader(read)


def changed(array, *index):
    copy = array.copy()
    copy[index] ^= 1
    return copy


def test_an_honest_reader_is_timed_epoch_by_epoch():
    assert check(reader(), WORK) == {"num_checked": 10}
    assert check(reader(IMAGES.astype(np.float32)), WORK) == {"num_checked": 10}
    result = timed(reader(), WORK)
    assert len(result["epoch_seconds"]) == 2
    assert min(result["epoch_seconds"]) > 0
    assert result["closing_seconds"] >= 0
    assert result["cpu_seconds"] >= 0


@pytest.mark.parametrize(
    ("run", "cheat"),
    [
        (check, reader(changed(IMAGES, 3, 20, 20, 1))),
        (check, reader(labels=changed(LABELS, 3))),
        (check, reader(IMAGES[[0, 0, *range(2, 10)]])),
        (check, reader(size=9)),
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
    monkeypatch.setattr(input_cases, "_LIBRARIES_PYTHON", Path("no such python"))
    case = Case(dataclasses.replace(WORK, reader="ffcv"))
    case.run()
    row = case.row()
    assert row["images_per_second"] == row["first_epoch"] == {"median": None, "runs": []}
    assert "not measured: its environment is missing: make peers" in measurement.table([row], {})
    assert ratios([row], 10) == {}


def test_every_reader_gives_every_cell_once(data_dir, tmp_path):
    laid_out = lay_out(open_data_set(str(data_dir), "by_patient"), 60, tmp_path / "cells")
    for name, tested in READERS.items():
        (tmp_path / name).mkdir()
        work = dataclasses.replace(laid_out, reader=name, own=str(tmp_path / name), batch_size=8, epochs=2)
        for module in tested.modules:
            importlib.import_module(module)
        tested.prepare(work)
        assert check(tested, work) == {"num_checked": laid_out.expected.num_cells}, name


def test_a_run_is_a_process_of_its_own(tmp_path):
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\necho >>"${0%/*}/launched"\nexec "$@"\n')
    launcher.chmod(0o700)
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "labels.npy", LABELS)
    work = dataclasses.replace(WORK, reader="numpy_in_memory", arrays=str(tmp_path), own=str(tmp_path / "own"))
    result, peak = input_cases.run_once(work, [str(launcher)])
    assert len(result["epoch_seconds"]) == 2
    assert peak > 1e7
    assert (tmp_path / "launched").exists()


def test_input_throughput(data_dir, tmp_path, monkeypatch):
    def run_here(work, launcher):
        assert launcher == ["nice", "-n", "1"]
        return (check if work.is_check else timed)(READERS[work.reader], work), 1 << 20

    monkeypatch.setattr(input_cases, "run_once", run_here)
    flags = (f"--data_dir={data_dir}", "--num_cells=60", "--sizes=20,60", "--batch_sizes=8", "--epochs=2")
    output = tmp_path / "x.json"
    content = measured("input_throughput", output, *flags, "--readers=streaming,tf_data", "--launcher=nice -n 1")
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
        "streaming to TFRecordDataset → map → batch, steady",
        "streaming, slowest number of cells to fastest",
    }
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
