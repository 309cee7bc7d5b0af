"""The benchmarks run and write the form that they promise; what they measure here is too small to mean anything."""

import json
import os
import re
import subprocess
import sys
import tempfile

import pytest
from conftest import assert_one_line_error, run_in_process, small_model, write_run

from benchmarks.baselines import preprocess
from benchmarks.harness.measurement import measure
from benchmarks.repeated_cells import lay_out
from benchmarks.train_throughput import host_milliseconds
from pipeline.errors import InputError
from trainers import run_dir


def measured(module, output, *flags):
    """The file that a benchmark writes."""
    result = run_in_process(f"benchmarks.{module}", f"--output={output}", *flags)
    assert result.returncode == 0, result.stderr
    content = json.loads(output.read_text())
    assert content.keys() >= {"machine", "commit", "cases", "ratios"}
    for case in content["cases"]:
        assert "error" not in case, case["error"]
        assert case["images_per_second"]["median"] > 0
        assert len(case["images_per_second"]["runs"]) == 1
    return content


@pytest.mark.parametrize("names", [["plain_processes"], pytest.param([*preprocess.BASELINES], marks=pytest.mark.slow)])
def test_preprocess_throughput(names, synthetic_zip, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(preprocess, "BASELINES", {name: preprocess.BASELINES[name] for name in names})
    flags = (f"--source={synthetic_zip}", "--num_cells=400", "--repeats=1")
    content = measured("preprocess_throughput", tmp_path / "tables" / "x.json", *flags)
    assert [case["name"] for case in content["cases"]] == [*names, "pipeline.preprocess"]
    for case in content["cases"]:
        assert case["num_images"] == 426
        assert case["images_per_second_without_start_up"]["median"] >= case["images_per_second"]["median"]
        assert case["cpu_seconds"] > 0
        assert case["peak_rss_bytes"] > 1e7
    assert content["ratios"].keys() >= {f"complete process, ours to {baseline}" for baseline in names}
    assert [path.name for path in tmp_path.iterdir()] == ["tables"], "what was laid out is removed"


def test_train_throughput(data_dir, tmp_path):
    """With the model that has the most cases."""
    flags = (
        f"--data_dir={data_dir}",
        "--model=vgg_frozen",
        "--split=train[:16]",
        "--batch_size=8",
        "--steps=1",
        "--repeats=1",
        "--host_steps=0",
    )
    content = measured("train_throughput", tmp_path / "x.json", *flags)
    assert [case["name"] for case in content["cases"]] == [
        "fit on real data",
        "fit on one synthetic batch",
        "input alone",
        "fit on one synthetic batch, augmented",
        "25 epochs, features computed once",
    ]
    assert content["ratios"]["fit on real data to fit on one synthetic batch"] > 0
    assert 0 <= content["ratios"]["share of the step time spent waiting for data"] <= 1
    real, once = content["cases"][0], content["cases"][-1]
    assert once["num_images"] == 25 * 16
    assert content["ratios"]["25 epochs, features computed once to fit on real data"] == pytest.approx(
        once["images_per_second"]["median"] / real["images_per_second"]["median"], rel=0.01
    )


@pytest.mark.slow
def test_the_hosts_time():
    times = host_milliseconds(4)
    assert len(times) == 2
    assert all(0 < time < 1000 for time in times.values())


def test_repeated_cells_are_new_patients(synthetic_zip, tmp_path):
    assert lay_out(str(synthetic_zip), tmp_path / "cells", 600) == 3 * 213
    names = [path.name for path in (tmp_path / "cells").glob("*/*.png")]
    assert len(set(names)) == 3 * 213
    assert {re.match(r"C\d+", name)[0] for name in names} >= {"C1", "C1001", "C1002", "C16", "C16002"}


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(InputError, match=r"^it ended with status 3: too bad"):
        measure("it", [sys.executable, "-c", "import sys; print('too bad', file=sys.stderr); sys.exit(3)"])


def test_mistakes_are_one_line(data_dir, synthetic_zip, tmp_path):
    output = f"--output={tmp_path / 'x.json'}"
    assert_one_line_error(run_in_process("benchmarks.preprocess_throughput", "--source=none.zip", output), "none.zip")
    flags = (f"--data_dir={data_dir}", output)
    for mistake in ("--readers=fast", "--peers=ffcv,fast", "--batch_sizes=0", "--split=train[:5]"):
        result = run_in_process("benchmarks.input_throughput", *flags, mistake)
        assert_one_line_error(result, mistake.partition("=")[0])
    for mistake in ("--model=resnet", "--batch_size=4096"):
        assert_one_line_error(run_in_process("benchmarks.train_throughput", *flags, mistake), mistake)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "cases", "inputs"),
    [
        ("tensorflow", "basic_cnn, 1 step per call: tf", ["tf.data"]),
        ("tensorflow", "basic_cnn, 32 steps per call, without XLA", ["device"]),
        ("jax", "basic_cnn, 32 steps per call: ", ["one batch on the GPU", "device", "resident"]),
    ],
)
def test_gpu_throughput_in_miniature(backend, cases, inputs, data_dir, tmp_path):
    if backend == "jax":
        pytest.importorskip("jax")
    output = tmp_path / "gpu.json"
    flags = (f"--output={output}", f"--data_dir={data_dir}", "--batch_size=2", f"--cases={cases}", "--repeats=1")
    command = [sys.executable, "-m", "benchmarks.gpu_throughput", *flags, "--steps=1", "--allow_cpu"]
    environment = os.environ | {"KERAS_BACKEND": backend}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    content = json.loads(output.read_text())
    assert [case["input"] for case in content["cases"]] == inputs
    for case in content["cases"]:
        assert case["images_per_second"]["median"] > 0
        assert 0 <= case["waiting_share"] <= 1
        assert f"| {case['name']} |" in result.stdout
    assert [case["share_of_ceiling"] for case in content["cases"]][:1] == [1 if backend == "jax" else None]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_gpu_throughput_without_a_gpu(tmp_path):
    assert_one_line_error(run_in_process("benchmarks.gpu_throughput", f"--output={tmp_path / 'x'}"), "sees no GPU here")


def test_gpu_throughput_with_mistaken_cases(tmp_path):
    result = run_in_process("benchmarks.gpu_throughput", f"--output={tmp_path / 'x'}", "--cases=resnet")
    assert_one_line_error(result, "--cases=resnet is in no case's name")


def test_the_table_of_results_has_a_row_per_recipe(data_dir, tmp_path):
    metrics = {}
    for name, accuracy in (("basic_cnn_original-1", 0.92), ("basic_cnn-1", 0.96), ("basic_cnn-2", 0.97)):
        folder = write_run(tmp_path / "runs" / name, data_dir, small_model())
        run_dir.write(str(folder), {**run_dir.read(str(folder)), "seed": int(name[-1])})
        (folder / run_dir.HISTORY).write_text("epoch,seconds\n0,90.0\n1,4.0\n2,4.0\n")
        metrics[name] = {"accuracy": {"value": accuracy}, "auc": {"value": 0.99}}
    folder = f"--folder={tmp_path}"
    assert_one_line_error(run_in_process("benchmarks.results", folder), "has no report")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "metrics.json").write_text(json.dumps({"models": metrics}))
    lines = run_in_process("benchmarks.results", folder).stdout.splitlines()
    assert [line.count("|") for line in lines] == [10] * 4
    assert lines[2].startswith("| basic_cnn_original | 1 | 3 | 0.9200 | 0.9900 |  |  | 4.0 |")
    assert lines[3].startswith("| basic_cnn | 1, 2 | 3 | 0.9650 (0.9600–0.9700) | 0.9900 |  |  | 4.0 |")


def test_make_results_looks_for_its_lists_first(tmp_path):
    lists = (f"SOURCE={tmp_path / 'cells.zip'}", f"DISPUTED={tmp_path / 'nowhere.csv'}", f"RESULTS={tmp_path / 'x'}")
    command = ["make", "--old-file=.venv/installed", "results", *lists]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"error: {lists[1]} does not exist" in result.stderr
    assert not (tmp_path / "x").exists()
