"""What the documents and the Makefile quote: commands that can be typed in; flags, links and files that exist."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import pytest
from absl import flags
from conftest import ROOT, run_in_process
from test_imports import PACKAGES

from pipeline import command

DOCUMENTS = ["README.md", "BUILD.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/decisions.md", "docs/python.md"]

NOT_TYPED_IN = {
    r"-m [\w.]+$": "is the name of a command, without its flags",
    r"\bpip\b|venv|apt-get|make peers": "installs packages",
    r"[<…]|Runner|^dask|make clusters": "needs a cluster; tests/clusters runs some",
    r"^make (?!demo)|SOURCE=|PYTHON=|pytest": "runs the tests or the benchmarks, or what another command runs",
    r"benchmarks\.|bench/": "takes minutes; tests/benchmarks runs it small",
    r"cross_validate|runs/fold_": "trains on folds; tests/trainers does",
    r"--repair": "needs a corrupt shard; tests/pipeline has some",
    r"KERAS_BACKEND=": "needs JAX; tests/trainers/test_jax.py trains on it",
    r"trainers\.custom": "needs a module; tests/test_python_page.py has it, and runs the Python of that page",
    r"^chromium": "needs a browser; tests/trainers/test_report.py looks at the report in it",
}

SMALLER = [  # a pattern, and what a test types in instead
    (r"--source=nih", "--source=path/to/cell_images.zip"),
    (r"-m pipeline.preprocess .*", r"\g<0> --image_size_px=32"),
    (r"(tfds build --data_dir=\.\./)data", r"\1built"),  # it has no flag for the size
    (r"^make demo.*", r"\g<0> EPOCHS=1"),
    (r"-m trainers\.(basic_cnn|vgg_\w+) .*", r"\g<0> --epochs=1"),
    (r"-m trainers\.vgg_.*", r"\g<0> --vgg_weights=none"),
]

LIBRARIES = r"\btfds\b|import tensorflow"  # these log what they like
NOISE = re.compile(r"warning|onednn|traceback|^[WEIF]\d{4} |deprecat|cuda", re.IGNORECASE | re.MULTILINE)
WARNING = re.compile(r"^ *warning: .*", re.MULTILINE)  # of the project, which speaks to the user


def quoted_commands(document):
    """The commands of a document, each once: the lines of indented blocks, then the commands within text."""
    text = re.sub(r"^```.*?^```", "", document, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\s*\\\n\s*", " ", text)
    blocks = [re.sub(r"\s+# .*", "", line.strip()) for line in text.splitlines() if line.startswith("    ")]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    code = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return list(dict.fromkeys(blocks + [span for span in code if re.match(r"make [a-zP]|(\S+=\S+ )?python -m ", span)]))


def commands_of(name):
    return quoted_commands((ROOT / name).read_text())


def check_flags(text, monkeypatch):
    """Lets a command of the project parse the arguments that it is quoted with, and do nothing else.

    Raises:
      absl.flags.Error: for unknown flags and values that are not allowed.
    """
    if not re.search(r" -m (pipeline|trainers|benchmarks)\.", text):
        return
    words = shlex.split(text)
    module, *words = words[words.index("-m") + 1 :]
    arguments = list(itertools.takewhile(lambda word: word not in (">", "|", "&&"), words))
    assert (ROOT / f"{module.replace('.', '/')}.py").exists(), text

    def parse(main, *, keep_unknown_flags=False, **_):
        if arguments:  # else only the module is named
            argv = command.find_flagfiles([module, *arguments])
            unknown.extend(flags.FLAGS(argv, known_only=keep_unknown_flags)[1:])

    unknown = []
    monkeypatch.setattr(command, "run", parse)
    run_in_process(module)
    if module == "trainers.cross_validate" and unknown:  # it hands them on
        check_flags(f"python -m trainers.basic_cnn --data_dir=x --run_dir=x {shlex.join(unknown)}", monkeypatch)


def commands_to_type_in(name):
    return [text for text in commands_of(name) if not any(re.search(pattern, text) for pattern in NOT_TYPED_IN)]


def type_in(commands, folder, archive):
    """Runs commands in a shell, one after the other, as someone does who has a copy of the project and no more."""
    project, home = folder / "project", folder / "home"
    home.mkdir()
    for package in PACKAGES[:-1]:
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, project)
        os.utime(project / name, (0, 0))  # or make would install what has changed
    (project / ".venv").symlink_to(sys.prefix)
    for place in ("path/to", "tfds_malaria/path/to/manual_dir"):
        (project / place).mkdir(parents=True)
        shutil.copy(archive, project / place / "cell_images.zip")
    with zipfile.ZipFile(archive) as cells:
        names = [name for name in cells.namelist() if name.endswith(".png")][::20]
        cells.extractall(project / "cells", names)
    shutil.copytree(project / "cells", project / "path/to/cells")
    (project / "more").mkdir()
    cv2.imwrite(str(project / "more/cell.tif"), cv2.imread(str(project / "cells" / names[0])))
    environment = {key: os.environ[key] for key in os.environ if not key.startswith(("TF_", "PYTHON", "COV"))}
    environment |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    problems = []
    for text in commands:
        for pattern, replacement in SMALLER:
            text = re.sub(pattern, replacement, text)
        shell = ["bash", "-c", text]
        result = subprocess.run(shell, cwd=project, env=environment, capture_output=True, text=True, check=False)
        is_noisy = NOISE.search(WARNING.sub("", result.stdout + result.stderr)) and not re.search(LIBRARIES, text)
        if result.returncode or is_noisy:
            problems.append(f"{text}\nstatus {result.returncode}\n{result.stdout}\n{result.stderr}")
    assert not problems, "\n\n".join(problems)


def test_the_commands_of_the_readme_lead_from_cells_to_predictions(tmp_path, synthetic_zip):
    commands = [text for text in commands_to_type_in("README.md") if not text.startswith("make")]
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(commands) >= 4
    assert blocks
    type_in([*commands, *(f"python -c {shlex.quote(block)}" for block in blocks)], tmp_path, synthetic_zip)


@pytest.mark.slow
def test_every_command(tmp_path, synthetic_zip):
    if not (Path(sys.prefix) / "installed").exists():
        pytest.skip("make has not made this environment")
    type_in(dict.fromkeys(text for name in DOCUMENTS for text in commands_to_type_in(name)), tmp_path, synthetic_zip)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_quoted_flags_and_their_values_are_allowed(name, monkeypatch):
    for text in commands_of(name):
        check_flags(text, monkeypatch)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_quoted_names_exist(name):
    document = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", document) if not link.startswith("http")]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)", target.read_text(), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings]
    for path in re.findall(r"`((?:tests|docs|" + "|".join(PACKAGES[:-1]) + r")/[\w/.-]+\.\w+)`", document):
        assert (ROOT / path).exists(), path


def dry_run(*arguments):
    """The commands that make would run."""
    make = ["make", "--dry-run", *arguments]
    return subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")


@pytest.mark.parametrize(
    ("source", "folder"),
    [("cells/cell_images.zip", "demo/cell_images"), ("path/to/my cells/", "demo/my cells")],
)
def test_the_demo_takes_any_path(source, folder):
    commands = dry_run("demo", f"SOURCE={source}")
    assert f'pipeline.preprocess --source="{source}" --data_dir="{folder}/data"\n' in commands
    assert f'--run_dirs="{folder}/runs/basic_cnn"' in commands


def test_the_makefile_gives_flags_that_are_allowed(monkeypatch):
    commands = [
        line
        for line in dry_run("demo", "bench", "results", "SEEDS=1", "SOURCE=my cells.zip").splitlines()
        if " -m " in line
    ]
    assert len(commands) >= 14
    for text in commands:
        check_flags(text, monkeypatch)


def test_quoted_targets_exist():
    quoted = [shlex.split(text) for name in DOCUMENTS for text in commands_of(name) if text.startswith("make ")]
    assert quoted
    for _, *arguments in quoted:
        dry_run(*arguments)


def test_the_checks_can_fail(monkeypatch):
    document = "`make\ndemo` and `--flag`\n\n    python -m x --a=1 \\\n      --b=2  # why\n\n```\n    no command\n```\n"
    assert quoted_commands(document) == ["python -m x --a=1 --b=2", "make demo"]
    for wrong in ("--datadir=x", "--data_dir=x --config=by_hand --epochs=many"):
        with pytest.raises(flags.Error):
            check_flags(f"python -m trainers.basic_cnn --run_dir=x {wrong} > file", monkeypatch)
    with pytest.raises(flags.Error):
        check_flags(
            "python -m trainers.cross_validate --model=vgg_ft --data_dir=x --output_dir=y --epoch=1", monkeypatch
        )
    assert NOISE.search("x\nW0000 00:00:00 something")
    assert not NOISE.search("epoch 1/1: loss 0.5")
