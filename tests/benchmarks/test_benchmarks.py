"""The benchmarks run and write the form that they promise; what they measure here is too small to mean anything."""

import json
import re
import sys

import pytest
from conftest import assert_one_line_error, run_command

from benchmarks.baselines.preprocess import PEERS
from benchmarks.harness.measurement import measure
from benchmarks.repeated_cells import lay_out
from pipeline.errors import InputError


def test_preprocess_throughput(synthetic_zip, tmp_path):
    flags = ("--num_cells=400", "--sizes=200,400", "--repeats=1", f"--work_dir={tmp_path}")
    output = tmp_path / "tables" / "x.json"
    result = run_command("benchmarks.preprocess_throughput", f"--source={synthetic_zip}", f"--output={output}", *flags)
    assert result.returncode == 0, result.stderr
    written = json.loads(output.read_text())
    assert written.keys() == {"machine", "commit", "cases", "ratios"}
    ours = ["pipeline.preprocess (213 cells)", "pipeline.preprocess (426 cells)"]
    assert [case["name"] for case in written["cases"]] == [*PEERS, *ours]
    for case in written["cases"]:
        assert case["images_per_second"]["median"] > 0
        assert len(case["images_per_second"]["runs"]) == 1
        assert case["images_per_second_without_start_up"]["median"] >= case["images_per_second"]["median"]
        assert case["cpu_seconds"] > 0
        assert case["peak_rss_bytes"] > 1e7
    assert set(written["ratios"]) >= {f"whole process, ours to {peer}" for peer in PEERS}
    assert [path.name for path in tmp_path.iterdir()] == ["tables"], "what was laid out is removed"


def test_repeated_cells_are_new_patients(synthetic_zip, tmp_path):
    assert lay_out(str(synthetic_zip), tmp_path / "cells", 600) == 3 * 213
    names = [path.name for path in (tmp_path / "cells").glob("*/*.png")]
    assert len(set(names)) == 3 * 213
    assert {re.match(r"C\d+", name)[0] for name in names} >= {"C1", "C1001", "C1002", "C16", "C16002"}


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(InputError, match=r"ended with status 3: too bad"):
        measure([sys.executable, "-c", "import sys; print('too bad', file=sys.stderr); sys.exit(3)"])


def test_bad_sizes(synthetic_zip, tmp_path):
    flags = (f"--source={synthetic_zip}", f"--output={tmp_path / 'x.json'}", "--sizes=many")
    assert_one_line_error(run_command("benchmarks.preprocess_throughput", *flags), "--sizes=many")


def test_predicting_without_a_run_is_told_at_once(tmp_path):
    flags = (f"--run_dir={tmp_path / 'nowhere'}", "--source=cells.zip", f"--output={tmp_path / 'predict.json'}")
    result = run_command("benchmarks.predict_throughput", *flags)
    assert_one_line_error(result, "nowhere is no run")
    assert len(result.stderr.splitlines()) == 1, "TensorFlow has not been asked"
