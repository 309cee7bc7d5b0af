"""What `pip install .` brings: the packages with their data, and what these import."""

import importlib.metadata
import os
import re
import subprocess
import sys
import time
import tomllib

import setuptools
from conftest import ROOT
from test_imports import PACKAGES, imports, is_within

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
INSTALLED = PACKAGES[:3]  # benchmarks and tests stay in the checkout
OPTIONAL = {"ai_edge_litert", "onnxruntime", "tf2onnx", "onnx", "jax"}


def declared(requirements):
    return {re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_everything_that_is_imported_is_declared():
    modules = {
        name.partition(".")[0] for module, names in imports().items() for name in names if is_within(module, INSTALLED)
    }
    modules -= {*sys.stdlib_module_names, *INSTALLED}
    distributions = importlib.metadata.packages_distributions()
    required, optional = (
        declared(PROJECT["dependencies"]),
        declared(requirement for group in ("export", "jax") for requirement in PROJECT["optional-dependencies"][group]),
    )
    for module in sorted(modules):
        names = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
        assert names & (required | optional if module in OPTIONAL else required), f"{module} of {names} is not declared"


def test_every_requirement_is_pinned():
    pinned = declared((ROOT / "constraints.txt").read_text().splitlines())
    groups = PROJECT["optional-dependencies"].values()
    missing = declared([*PROJECT["dependencies"], *(name for group in groups for name in group)]) - pinned
    assert not missing


def test_the_wheel_takes_every_file_of_the_packages():
    settings = PYPROJECT["tool"]["setuptools"]
    packages = setuptools.find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    taken = {path for package in packages for path in (ROOT / package.replace(".", "/")).glob("*.py")}
    for package, patterns in settings["package-data"].items():
        taken |= {path for pattern in patterns for path in (ROOT / package.replace(".", "/")).glob(pattern)}
    files = {path for package in INSTALLED for path in (ROOT / package).rglob("*") if path.is_file()}
    assert {path for path in files if "__pycache__" not in path.parts} == taken
    assert settings["dynamic"]["version"]["attr"] == "tfds_malaria.__version__"


SLURM = """#!/bin/bash
echo "$0 $*" | sed 's/.*\\///' >> calls
case "$0 $*" in
  *scontrol*) ;;
  *trainers.*) [ -e started ] && exit 0; touch started; trap 'exit 75' TERM; sleep 60 & wait $! ;;
esac
"""


def test_the_sbatch_example_requeues_a_training_that_ran_out_of_time(tmp_path):
    for name in ("python", "scontrol"):
        (tmp_path / name).write_text(SLURM)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = ["bash", ROOT / "docs/train.sbatch"]
    with subprocess.Popen(job, cwd=tmp_path, env=environment) as process:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        process.terminate()  # as Slurm does, see --signal in the file
    assert process.returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1] == "scontrol requeue 7"
    subprocess.run(job, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "calls").read_text().splitlines()[2:] == calls[:1], "the same command, and no other requeue"
