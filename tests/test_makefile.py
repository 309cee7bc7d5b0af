"""What `make` would run."""

import shutil
import subprocess

import pytest
from conftest import ROOT
from test_documents import check_flags, commands_of

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


def dry_run(*arguments):
    command = ["make", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("cells/cell_images.zip", "demo/cell_images"),
        ("my cells/cell_images.zip", "demo/cell_images"),
        ("path/to/my cells/", "demo/my cells"),
    ],
)
def test_the_demo_takes_any_path(source, folder):
    commands = dry_run("demo", f"SOURCE={source}")
    assert f'pipeline.preprocess --source="{source}" --data_dir="{folder}/data"\n' in commands
    assert f'--run_dirs="{folder}/runs/basic_cnn"' in commands


def test_flags_of_the_commands_are_allowed(monkeypatch):
    commands = [line for line in dry_run("demo", "bench", "SOURCE=my cells.zip").splitlines() if " -m " in line]
    assert len(commands) >= 8
    for command in commands:
        check_flags(command, monkeypatch)


def test_quoted_targets_exist():
    targets = [
        text.split()[1:]
        for name in ("README.md", "BUILD.md", "CONTRIBUTING.md")
        for text in commands_of(name)
        if text.startswith("make ")
    ]
    assert targets
    for arguments in targets:
        dry_run(*arguments)
