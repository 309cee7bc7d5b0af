"""Which package may import which: benchmarks, tests → trainers → tfds_malaria → pipeline, and the floors inside."""

import ast
import functools
import itertools
import resource
import subprocess
import sys

import pytest
from conftest import ROOT, run_command

PACKAGES = ["pipeline", "tfds_malaria", "trainers", "benchmarks", "tests"]  # each may import those before it
FLOORS = {  # from the ground up: a room imports only itself and the floors below. The commands are above all of them
    "pipeline": [
        ["cells errors label_list plot_style storage terminal command"],
        ["splits", "source"],
        ["records"],
        ["job"],
    ],
    "trainers": [
        ["run_dir image_statistics npz tf_import export_formats", "augmentation"],
        ["training_flags", "evaluation_flags"],
        ["data"],
        ["input_pipeline"],
        ["models"],
        ["evaluation"],
        ["training"],
    ],
}
ONLY_IN = {"apache_beam": ["pipeline.job", "benchmarks", "tests"], "keras": ["trainers", "benchmarks", "tests"]}
NEVER_REACHED = {  # neither directly nor through other modules
    "pipeline.records": ["apache_beam", "cv2", "pipeline.job"],
    "trainers.evaluation.metrics": ["trainers.evaluation.predictions", "trainers.evaluation.runs"],
    "trainers.evaluation.predictions": ["trainers.evaluation.report"],
    "trainers.evaluation.runs": ["trainers.evaluation.report"],
}


def is_within(module, packages):
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def imported(text, modules=()):
    """Names of the modules that source code imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            members = (f"{node.module}.{alias.name}" for alias in node.names)
            names.update(member if member in modules else node.module for member in members)
    return names


@functools.cache
def imports():
    """Each module of the repository, with what it imports."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    return {module: imported(path.read_text(), modules) for module, path in modules.items()}


def floor_and_room(module):
    package, name = f"{module}.".split(".")[:2]
    floors = FLOORS.get(package, [])
    rooms = ((number, room) for number, rooms in enumerate(floors) for room in rooms if name in room.split())
    return next(rooms, (len(floors), "commands"))


def violation(module, name):
    """Why a module may not import another one; None if it may."""
    package, other = module.partition(".")[0], name.partition(".")[0]
    if other in ONLY_IN and not is_within(module, ONLY_IN[other]):
        return f"{module} imports {name}, which only {', '.join(ONLY_IN[other])} may"
    if other in PACKAGES and PACKAGES.index(other) > PACKAGES.index(package):
        return f"{module} imports {name}, of a package above it"
    if other == package:
        (floor, room), (other_floor, other_room) = floor_and_room(module), floor_and_room(name)
        if room != other_room and floor <= other_floor:
            return f"{module} imports {name}, which is not below it"
    return None


def reached(package, graph):
    """Everything that a package imports, directly or through other modules."""
    modules, waiting = set(), [module for module in graph if is_within(module, [package])]
    while waiting:
        new = graph.get(waiting.pop(), set()) - modules
        modules |= new
        waiting.extend(new)
    return modules


def test_imports_lead_down():
    graph = imports()
    violations = (violation(module, name) for module, names in graph.items() for name in sorted(names))
    assert not [text for text in violations if text]


def test_each_package_imports_the_one_below_it():
    for lower, upper in itertools.pairwise(PACKAGES[:-1]):
        names = [name for module, names in imports().items() if is_within(module, [upper]) for name in names]
        assert any(is_within(name, [lower]) for name in names), f"{upper} imports nothing of {lower}"


@pytest.mark.parametrize("package", NEVER_REACHED)
def test_packages_that_must_not_be_reached(package):
    modules = reached(package, imports())
    assert modules
    assert not [name for name in modules if is_within(name, NEVER_REACHED[package])]


def test_the_checks_can_fail():
    graph = {"a": imported("def f():\n    from b import c", ["b.c"]), "b.c": imported("import cv2.x, keras")}
    assert reached("a", graph) == {"b.c", "cv2.x", "keras"}
    assert violation("pipeline.verify", "keras.layers")
    assert violation("tfds_malaria", "trainers.data")
    assert violation("pipeline.records.index", "pipeline.job.fill")
    assert violation("pipeline.splits.configs", "pipeline.source")
    assert violation("trainers.evaluation.runs", "trainers.training.fit")
    assert not violation("trainers.training.fit", "trainers.evaluation.runs")
    assert not violation("trainers.models.features", "trainers.models.vgg_weights")
    assert not violation("benchmarks.train_throughput", "apache_beam")


@pytest.mark.parametrize("module", ["pipeline.preprocess", "trainers.vgg_ft", "trainers.evaluate"])
def test_help_does_not_import_large_libraries(module):
    def seconds():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = seconds()
    assert "--data_dir" in run_command(module, "--help").stdout
    assert seconds() - before < 4, "CPU seconds; importing TensorFlow takes about six"


def test_importing_the_data_set_changes_nothing_of_the_process():
    modules = ["pipeline.job.beam_pipeline", "pipeline.job.fill", "pipeline.verify", "tfds_malaria"]
    code = f"""
import importlib, logging, os, warnings
import apache_beam, cv2, fsspec.config, PIL.Image, tensorflow_datasets

def state():
    loggers = [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    changed = {{each.name: [list(each.filters), each.level] for each in loggers if each.filters or each.level}}
    limits = [PIL.Image.MAX_IMAGE_PIXELS, logging.root.manager.disable, cv2.utils.logging.getLogLevel()]
    return [dict(os.environ), dict(fsspec.config.conf), changed, list(warnings.filters), limits]

before = state()
for module in {modules}:
    importlib.import_module(module)
for now, then in zip(state(), before, strict=True):
    assert now == then, (now, then)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
