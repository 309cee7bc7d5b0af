"""README.md and BUILD.md, typed in by a reader: every command that they quote is run, or it is said here why not.

A document's commands run one after the other in a copy of the project, with small synthetic cells, one epoch, no home.
"""

import functools
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
from conftest import ROOT
from test_imports import ORDER

COMMAND = re.compile(r"make [\w=. -]+$|(?!-)\S+ .*(?:--|install |pytest )")  # and not only a name of one

NOT_RUN = {  # the first that is found in a command counts
    r"pip install|pip freeze|pip wheel|venv|apt-get|make peers": "installs packages; CI does so in a fresh clone",
    r"^make bench|benchmarks\.": "takes minutes; tests/test_benchmarks.py and test_input_benchmarks.py run it small",
    r"PYTHON=": "needs another Python",
    r"runs/(8|25) ?$": "is the training before it, for more epochs",
    r"runs/fold_4": "is what tests/test_training.py runs",
    r"make demo SOURCE": "is `make demo` with other cells; tests/test_makefile.py reads what it would run",
    r"make (test|lint|format|coverage)|-m pytest": "is what runs this test, or stands beside it in .ci/run",
    r"KERAS_BACKEND=jax": "needs JAX; tests/test_jax.py trains on it",
    r"[<…]|Runner|^dask": "needs a cluster; tests/test_clusters.py runs one of Dask",
    r"cross_validate": "trains five times; tests/test_cross_validate.py does",
    r"^chromium": "needs a browser; tests/test_report.py looks at the page in it",
}

SMALLER = [  # a pattern, and what a test runs in its place
    (r"--source=nih", "--source=path/to/cell_images.zip"),  # tests/test_download.py downloads
    (r"-m pipeline.preprocess .*", r"\g<0> --image_size_px=32"),
    (r"(tfds build --data_dir=\.\./)data", r"\1built"),  # it has no such flag
    (r"^make demo.*", r"\g<0> EPOCHS=1"),
    (r"-m trainers\.(basic_cnn|vgg_\w+) .*", r"\g<0> --epochs=1"),
    (r"-m trainers\.vgg_.*", r"\g<0> --vgg_weights=none"),
    (r"=saved_model,onnx,litert", "=saved_model"),  # tests/test_export.py writes them all where their packages are
]

NOISY = r"\btfds\b|import tensorflow"  # libraries speak for themselves there; BUILD.md says that it is harmless
NOISE = re.compile(r"warning|onednn|traceback|^[WEIF]\d{4} |deprecat|cuda", re.IGNORECASE | re.MULTILINE)


def without_comment(line: str) -> str:
    return re.sub(r"\s+# .*", "", line.strip())


def quoted_commands(document: str) -> list[str]:
    """The commands of a document in its order, each once: those of indented blocks, and whole ones within text."""
    text = re.sub(r"^```.*?^```", "", document, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\s*\\\n\s*", " ", text)
    found = []
    for line in text.splitlines():
        if line.startswith("    "):
            found.append(without_comment(line))
        else:
            found.extend(code for code in re.findall(r"`([^`]+)`", line) if COMMAND.match(code))
    return list(dict.fromkeys(found))


def python_blocks(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document, flags=re.DOTALL | re.MULTILINE)


def reason_not_to_run(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)), None)


def smaller(command: str) -> str:
    for pattern, replacement in SMALLER:
        command = re.sub(pattern, replacement, command)
    return command


class Reader:
    """Someone with a copy of the project who types commands into a shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        home = folder / "home"
        home.mkdir()
        ours = ("TF_", "PYTHON", "COV")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        for package in ORDER[:-1]:
            shutil.copytree(ROOT / package, self.folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "pyproject.toml", "requirements.txt", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)
        (self.folder / ".venv").symlink_to(Path(sys.prefix))
        for name in ("requirements.txt", "constraints.txt"):
            os.utime(self.folder / name, (0, 0))  # or make would install what has changed
        if not (self.folder / ".venv" / "installed").exists():
            pytest.skip("make has not made this environment")

    def bring_cells(self, archive: Path) -> None:
        """Puts cells where the documents' placeholders say that a reader has some."""
        place = self.folder / "path" / "to"
        place.mkdir(parents=True)
        shutil.copy(archive, place / "cell_images.zip")
        manual_dir = self.folder / "tfds_malaria" / "path" / "to" / "manual_dir"
        manual_dir.mkdir(parents=True)
        shutil.copy(archive, manual_dir / "cell_images.zip")
        with zipfile.ZipFile(archive) as cells:
            names = [name for name in cells.namelist() if name.endswith(".png")][::20]
            for folder in (place / "cells", self.folder / "cells"):
                cells.extractall(folder, names)
        (self.folder / "more").mkdir()
        for number, path in enumerate(sorted((self.folder / "cells").rglob("*.png"))[:2]):
            assert cv2.imwrite(str(self.folder / "more" / f"{number}.tif"), cv2.imread(str(path)))

    def type_in(self, command: str) -> str | None:
        """Runs a command in a shell; what is wrong with what came out, None if nothing is."""
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if result.returncode:
            return f"{command}\nends with status {result.returncode}:\n{result.stdout}\n{result.stderr}"
        noise = NOISE.search(result.stdout + result.stderr)
        if noise and not re.search(NOISY, command):
            return f"{command}\nis noisy ({noise[0]}):\n{result.stdout}\n{result.stderr}"
        return None


@pytest.mark.parametrize("name", ["README.md", "BUILD.md"])
def test_what_a_document_quotes_can_be_typed_in(name, tmp_path, synthetic_zip):
    document = (ROOT / name).read_text()
    commands = [smaller(command) for command in quoted_commands(document) if not reason_not_to_run(command)]
    if name == "BUILD.md":
        commands = [command for command in commands if not command.startswith("make demo")]  # once is enough
    if name == "README.md":  # tests/test_export.py runs those of BUILD.md
        commands += [f"python -c {shlex.quote(block)}" for block in python_blocks(document)]
    assert len(commands) > 6, commands
    reader = Reader(tmp_path)
    reader.bring_cells(synthetic_zip)
    problems = [problem for command in dict.fromkeys(commands) if (problem := reader.type_in(command))]
    assert not problems, "\n\n".join(problems)


DOCUMENTS = ["README.md", "BUILD.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/decisions.md"]


@functools.cache
def flags_of(module: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return set(re.findall(r"^  --(?:\[no\])?(\w+):", result.stdout, flags=re.MULTILINE))


def unknown_flags(command: str) -> set[str]:
    """Flags that a command of the project does not have, whether it is run here or not."""
    match = re.search(r"python -m ((?:pipeline|trainers|benchmarks)\.\w+) (.*)", command)
    if not match:
        return set()
    module, arguments = match.groups()
    known = flags_of(module) | {"flagfile"}
    if module == "trainers.cross_validate":  # it hands flags on
        known |= flags_of("trainers.basic_cnn")
    return set(re.findall(r"(?<!\S)--(\w+)", arguments)) - known


def test_flags_in_documents_exist():
    for name in DOCUMENTS:
        for command in quoted_commands((ROOT / name).read_text()):
            assert not unknown_flags(command), f"{name}: {command}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    document = (ROOT / name).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", document)
    assert links
    for link in links:
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(), flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, link


def test_the_checks_can_fail():
    document = (
        "text `make demo` and `--flag`\n\n    python -m x --a=1 \\\n      --b=2  # why\n\n```\n    no command\n```\n"
    )
    assert quoted_commands(document) == ["make demo", "python -m x --a=1 --b=2"]
    assert reason_not_to_run("pip install x")
    assert not reason_not_to_run("python -m pipeline.verify --data_dir=data")
    assert unknown_flags("python -m pipeline.verify --data_dir=x --datadir=y") == {"datadir"}
    assert NOISE.search("x\nW0000 00:00:00 something")
    assert not NOISE.search("epoch 1/1: loss 0.5")
