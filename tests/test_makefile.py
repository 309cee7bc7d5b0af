"""What `make` would run."""

import shutil
import subprocess

import pytest
from conftest import ROOT
from test_documents import unknown_flags

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("cells/cell_images.zip", "demo/cell_images"),
        ("my cells/cell_images.zip", "demo/cell_images"),
        ("path/to/my cells/", "demo/my cells"),
    ],
)
def test_the_demo_takes_any_path(source, folder):
    result = subprocess.run(
        ["make", "--dry-run", "demo", f"SOURCE={source}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f'pipeline.preprocess --source="{source}" --data_dir="{folder}/data"\n' in result.stdout
    assert f'--run_dirs="{folder}/runs/basic_cnn"' in result.stdout


def test_every_flag_of_the_benchmarks_exists():
    result = subprocess.run(
        ["make", "--dry-run", "bench", "SOURCE=my cells.zip"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    commands = [line for line in result.stdout.replace("\\\n", " ").splitlines() if " -m " in line]
    assert len(commands) >= 8
    assert [unknown_flags(command) for command in commands] == [set()] * len(commands)
    assert any('--source="my cells.zip"' in command for command in commands)
