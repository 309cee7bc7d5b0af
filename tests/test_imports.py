"""The house's one-way street: benchmarks, tests → trainers → tfds_malaria → pipeline."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["pipeline", "tfds_malaria", "trainers", "benchmarks", "tests"]  # each may import what stands before it
OWNERS = {
    "apache_beam": {"pipeline", "benchmarks", "tests"},
    "keras": {"trainers", "benchmarks", "tests"},
}
BEAM_MODULES = {"beam_pipeline.py"}
PARTS = ["input_pipeline", "augmentation", "models", "training", "evaluation"]  # of the trainers, in the same way


def imported(text):
    """Top-level names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            yield node.module.partition(".")[0]


def violations(package, names):
    ours = [name for name in names if name in ORDER and ORDER.index(name) > ORDER.index(package)]
    foreign = [name for name in names if package not in OWNERS.get(name, {package})]
    return ours + foreign


@pytest.mark.parametrize("package", ORDER)
def test_packages_import_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not violations(package, list(imported(path.read_text()))), path


def imported_parts(text):
    """The parts of the trainers that a file imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("trainers"):
            yield from (part for name in node.names if (part := f"{node.module}.{name.name}".split(".")[1]) in PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_the_trainers_import_one_way(part):
    files = sorted((ROOT / "trainers" / part).rglob("*.py"))
    assert files
    for path in files:
        assert all(PARTS.index(name) <= PARTS.index(part) for name in imported_parts(path.read_text())), path


def test_the_check_can_fail():
    assert list(imported_parts("from trainers import models\nfrom trainers.evaluation.runs import x")) == [
        "models",
        "evaluation",
    ]
    assert violations("pipeline", list(imported("def f():\n    from trainers import models"))) == ["trainers"]
    assert violations("pipeline", list(imported("import keras.layers"))) == ["keras"]
    assert violations("trainers", list(imported("import apache_beam as beam"))) == ["apache_beam"]


def test_only_the_runner_imports_beam():
    users = {
        path.name for path in (ROOT / "pipeline").rglob("*.py") if "apache_beam" in set(imported(path.read_text()))
    }
    assert users == BEAM_MODULES


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("pipeline.preprocess", ["apache_beam", "tensorflow", "sklearn"]),
        ("pipeline.job.prepare", ["tensorflow", "keras", "sklearn"]),
        ("pipeline.job.fill", ["apache_beam", "tensorflow", "tensorflow_datasets", "sklearn"]),
        ("pipeline.verify", ["apache_beam", "tensorflow", "sklearn"]),
        ("tfds_malaria", ["apache_beam", "tensorflow", "keras"]),
        ("trainers.basic_cnn", ["tensorflow", "keras"]),
        ("trainers.export", ["tensorflow", "keras"]),
        ("trainers.evaluate", ["tensorflow", "keras", "sklearn", "matplotlib"]),
    ],
)
def test_start_up_stays_light(module, unwanted):
    code = f"import sys, {module}; print([m for m in {unwanted} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["pipeline.verify", "trainers.input_pipeline.resident", "trainers.data"])
def test_tfds_is_there_before_threads_parse_records(module):
    """Imported by several threads at once, on Python 3.11 it is a deadlock now and then."""
    code = f"import sys, {module}; print('tensorflow_datasets.proto.tf_example_generated_pb2' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"
