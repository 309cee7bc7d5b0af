"""The input benchmarks: no reader can cheat, what is missing is told, and the files have the promised form."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line_error, run_command

from benchmarks.baselines.input_readers import READERS
from benchmarks.harness import input_cases
from benchmarks.harness.clock import Reader, Work, check, summed, timed, total_of
from benchmarks.harness.input_cases import Case
from benchmarks.input_throughput import lay_out, leading_shards, ratios, table
from pipeline.records import manifest
from pipeline.records.layout import dataset_dir

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 40, 40, 3), np.uint8)
LABELS = np.arange(10) % 2


def work(**settings):
    expected = total_of([summed((IMAGES[:6], LABELS[:6]), True), summed((IMAGES[6:], LABELS[6:]), True)])
    return Work("reader", "", "", "", "", (), expected, batch_size=4, epochs=2, **settings)


def reader(images=IMAGES, labels=LABELS, epochs=None, size=10):
    def read(given):
        for epoch in range(epochs or given.epochs):
            order = np.random.default_rng(epoch).permutation(size)
            for first in range(0, size, given.batch_size):
                rows = order[first : first + given.batch_size]
                yield images[rows], labels[rows]

    return Reader(read)


def changed(array, *place):
    copy = array.copy()
    copy[place] ^= 1
    return copy


def test_an_honest_reader_is_timed_epoch_by_epoch():
    assert check(reader(), work()) == {"num_checked": 10}
    assert check(reader(IMAGES.astype(np.float32)), work()) == {"num_checked": 10}
    result = timed(reader(), work())
    assert len(result["epoch_seconds"]) == 2
    assert min(result["epoch_seconds"]) > 0
    assert result["closing_seconds"] >= 0
    assert result["cpu_seconds"] >= 0


@pytest.mark.parametrize(
    "cheat",
    [
        reader(changed(IMAGES, 3, 20, 20, 1)),
        reader(labels=changed(LABELS, 3)),
        reader(IMAGES[[0, 0, *range(2, 10)]]),
        reader(size=9),
    ],
)
def test_the_check_finds_any_other_content(cheat):
    with pytest.raises(ValueError, match="expected"):
        check(cheat, work())


@pytest.mark.parametrize(
    "cheat",
    [
        reader(np.zeros_like(IMAGES)),
        reader(IMAGES[[0, 0, *range(2, 10)]]),
        reader(size=9),
        reader(epochs=1),
        reader(epochs=3),
    ],
)
def test_the_clock_finds_what_was_not_read(cheat):
    with pytest.raises(ValueError, match="expected"):
        timed(cheat, work())


def test_leading_shards():
    def shards(name, *sizes):
        return {"shards": [{"file": f"{name}{i}", "num_records": size} for i, size in enumerate(sizes)]}

    made = {"splits": {"train": shards("a", 5, 5, 4), "test": shards("b", 3, 3)}}
    assert leading_shards(made, 6) == ("train[:2shard]", 10, ["a0", "a1"])
    assert leading_shards(made, 15) == ("train+test[:1shard]", 17, ["a0", "a1", "a2", "b0"])
    assert leading_shards(made, 999)[:2] == ("train+test", 20)


def test_a_peer_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(input_cases, "_PEERS_PYTHON", Path("no such python"))
    case = Case(Work("ffcv", "", "", "", "", (), work().expected))
    case.run()
    row = case.row()
    assert row["images_per_second"] == {"median": None, "runs": []}
    assert "not measured: no peers are installed: make peers" in table([row], {})
    assert ratios([row], 10) == {}


def test_every_reader_gives_every_cell_once(data_dir, tmp_path):
    laid_out = lay_out(Path(dataset_dir(str(data_dir), "by_patient")), 60, tmp_path / "cells")
    for name, this in READERS.items():
        own = tmp_path / name
        own.mkdir()
        given = dataclasses.replace(laid_out, reader=name, own=str(own), batch_size=8, epochs=2)
        for module in this.modules:
            importlib.import_module(module)
        this.prepare(given)
        assert check(this, given) == {"num_checked": laid_out.expected.num_cells}, name


def test_input_throughput(data_dir, tmp_path):
    output = tmp_path / "x.json"
    readers = ["streaming", "tf_data"]
    flags = ("--num_cells=60", "--sizes=20,60", "--batch_sizes=8", "--epochs=2", "--repeats=1")
    flags += (f"--readers={','.join(readers)}",)
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\necho >>"${0%/*}/launched"\nexec "$@"\n')
    launcher.chmod(0o700)
    flags += (f"--launcher={launcher}",)
    result = run_command("benchmarks.input_throughput", f"--data_dir={data_dir}", f"--output={output}", *flags)
    assert result.returncode == 0, result.stderr
    written = json.loads(output.read_text())
    assert written.keys() == {"machine", "commit", "cases", "ratios"}
    made = manifest.read(dataset_dir(str(data_dir), "by_patient"))
    small, large = (leading_shards(made, size)[1] for size in (20, 60))
    expected = [f"{name}, batch 8, {large} cells" for name in readers]
    expected.append(f"streaming, batch 8, {small} cells")
    assert [case["name"] for case in written["cases"]] == expected
    assert len((tmp_path / "launched").read_text()) == len(readers) + len(expected), "checks and runs"
    for case in written["cases"]:
        assert "error" not in case, case["error"]
        assert case["images_per_second"]["median"] > 0
        assert case["first_epoch"]["median"] > 0
        assert case["cpu_seconds"] > 0
        assert case["peak_rss_bytes"] > 1e7
        assert len(case["epoch_seconds"][0]) == case["epochs"] == 1 + -(-large // case["num_images"])
    assert written["ratios"].keys() == {
        "streaming to TFRecordDataset → map → batch, steady",
        "streaming, slowest number of cells to fastest",
    }
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_train_throughput(data_dir, tmp_path):
    output = tmp_path / "x.json"
    flags = (f"--data_dir={data_dir}", f"--output={output}", "--batch_size=8", "--steps=3", "--repeats=1")
    result = run_command("benchmarks.train_throughput", *flags)
    assert result.returncode == 0, result.stderr
    written = json.loads(output.read_text())
    names = ["fit on real data", "fit on one synthetic batch", "input alone"]
    assert [case["name"] for case in written["cases"]] == names
    assert all(case["images_per_second"]["median"] > 0 for case in written["cases"])
    assert written["ratios"]["fit on real data to fit on one synthetic batch"] > 0
    assert 0 <= written["ratios"]["share of the step time spent waiting for data"] <= 1


def test_what_frozen_features_gain_is_measured(data_dir, tmp_path):
    output = tmp_path / "x.json"
    flags = ("--model=vgg_frozen", "--split=train[:16]", "--batch_size=8", "--steps=1", "--repeats=1")
    result = run_command("benchmarks.train_throughput", f"--data_dir={data_dir}", f"--output={output}", *flags)
    assert result.returncode == 0, result.stderr
    written = json.loads(output.read_text())
    recomputed, once = written["cases"][-2:]
    assert (recomputed["name"], once["name"]) == ("25 epochs, recomputed", "25 epochs, features computed once")
    assert recomputed["num_images"] == once["num_images"] == 25 * 16
    assert written["ratios"]["recomputed to computed once"] == pytest.approx(
        recomputed["seconds"] / once["seconds"], rel=0.01
    )


def test_mistakes(data_dir, tmp_path):
    flags = (f"--data_dir={data_dir}", f"--output={tmp_path / 'x.json'}")
    for mistake in ("--readers=fast", "--peers=ffcv,fast", "--sizes=many", "--batch_sizes=0", "--work_dir=nowhere"):
        assert_one_line_error(run_command("benchmarks.input_throughput", *flags, mistake), mistake.split("=")[0])
    result = run_command("benchmarks.train_throughput", *flags, "--model=resnet")
    assert result.returncode != 0
    assert "--model=resnet: value should be one of" in result.stderr
    assert_one_line_error(run_command("benchmarks.train_throughput", *flags, "--batch_size=4096"), "--batch_size=4096")
