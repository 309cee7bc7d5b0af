"""What `make` would run."""

import shutil
import subprocess

import pytest
from conftest import ROOT

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
