"""Names from outside are text: in plots, in the page, in model cards, in CSVs and on terminals."""

import csv
import io
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from conftest import listing_of, open_split, png, run_in_process, run_job, small_model, write_run
from evaluating import OPTIONS, evaluate_runs, make_predictions, model_predictions

from pipeline.cells import DEFAULT_CLASS_FOLDERS
from pipeline.job import plan
from pipeline.terminal import csv_text
from trainers.evaluation import predictions
from trainers.evaluation.metrics import label_issues
from trainers.evaluation.report import plots, writer

NAMES = ['_$\\frac{"><img src=x onerror=y>', "=cmd|' onload=`z` font: 1px $\x1b[31m\udcff\n# &amp; [a](b) |#1b1f24"]
PATIENTS = ["_$x^中", "=1+1 <b>", "@\x1b[2J$\\q", "-`*_a_"]
"""Names of run folders, which are file names of any bytes, and of patients."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report on two runs of one model, whose names are those of their folders."""
    folder = tmp_path_factory.mktemp("hostile")
    source, number = folder / "$_<i>", 0
    for label, class_folder in enumerate(DEFAULT_CLASS_FOLDERS):
        (source / class_folder).mkdir(parents=True)
        for patient in [f"{name}{i}" for name in PATIENTS for i in range(3)]:
            for cell in range(3):
                number += 1
                (source / class_folder / f"{patient}~{label}{cell}.png").write_bytes(png(number))
    settings = plan.Settings(image_size_px=32, patient_regex=r"^(.+)~")
    listing = listing_of(source, patient_regex=settings.patient_regex)
    options = ["--runner=FnApiRunner"]
    run_job(listing, settings, source=str(source), data_dir=str(folder / "data"), pipeline_options=options)
    run_dirs = [write_run(folder / name, folder / "data", small_model(seed=i)) for i, name in enumerate(NAMES)]
    for run in run_dirs:
        model = predictions.load_model(str(run))
        predictions.fit_thresholds(str(run), model, open_split(folder / "data", "validation"), 32)
    report, text, metrics = evaluate_runs(folder / "data", run_dirs, folder / "report")
    return SimpleNamespace(data_dir=folder / "data", report=report, text=text, metrics=metrics, run_dirs=run_dirs)


def test_evaluation_takes_any_name(hostile):
    assert set(hostile.metrics["models"]) == set(NAMES)
    assert "could not be made" not in hostile.text
    assert all(character.isprintable() for character in hostile.text.replace("\n", ""))
    assert len(list(hostile.report.glob("*_confusion.png"))) == len(list(hostile.report.glob("model_card_*.md"))) == 2


def test_no_name_becomes_markup(hostile):
    class Parser(HTMLParser):
        tags, attributes, texts = set(), [], []

        def handle_starttag(self, tag, attributes):
            self.tags.add(tag)
            self.attributes += attributes

        def handle_data(self, data):
            self.texts.append(data)

    parser = Parser()
    parser.feed((hostile.report / writer.REPORT).read_text())
    assert not parser.tags & {"i", "script"}
    assert not [name for name, _ in parser.attributes if name.startswith("on")]
    assert {value[:5] for name, value in parser.attributes if name == "src"} == {"data:"}
    shown = NAMES[0], NAMES[1].replace("\x1b", "\\x1b").replace("\udcff", "\\udcff").replace("\n", "\\n")
    labels = [value for name, value in parser.attributes if name == "aria-label"]
    for name in shown:
        assert f"Confusion matrix of {name}" in labels
        assert parser.texts.count(name) >= 4, "headings, and the title of the plot, which is text in an SVG"
    assert f" {NAMES[0]}" in {text.partition(", AUC")[0] for text in parser.texts}, "in a legend"


def test_files_of_two_models_have_different_names():
    assert writer.slug_of("vgg_ft-2.1") == "vgg_ft-2.1"
    assert len({writer.slug_of(name) for name in ("a b", "a_b", "a\udcff", "a?", "x" * 250, "x" * 251)}) == 6


def test_model_cards_escape_markdown(hostile):
    (card,) = (path.read_text() for path in hostile.report.glob("model_card_*.md") if "cmd" in path.name)
    name = r"=cmd\|' onload=\`z\` font: 1px \$\\x1b\[31m\\udcff\\n\# \&amp; \[a\](b) \|\#1b1f24"
    assert card.splitlines()[0] == f"# Model card: {name}"
    assert f"Run folder “{name}”: 2 epochs" in card


def test_tables_hold_no_formulas(tmp_path):
    path = tmp_path / "issues.csv"
    label_issues.write([label_issues.LabelIssue("=1", "-C1", "uninfected", 0.9, 0.1, 0.9)], path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["filename"], row["patient_id"]) for row in rows] == [("'=1", "'-C1")]
    assert not [row for row in rows for value in row.values() if value[0] in "=+-@\t\r"]
    assert [csv_text(text) for text in ("=1", "+1", "-1", "@a", "\ta", "\ra", "cells/=1.png", "a-1", "0.5", "")] == [
        *("'=1", "'+1", "'-1", "'@a", "'\ta", "'\ra"),
        *("cells/=1.png", "a-1", "0.5", ""),
    ]


def test_prediction_names_no_formula_and_explore_takes_any_name(hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("=1+1.png", "-b.png", "c d.png"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "\x1b[31m.png").write_text("no image")
    files = ("--", "=1+1.png", "-b.png", "c d.png", "\x1b[31m.png")
    result = run_in_process("trainers.predict", f"--run_dir={hostile.run_dirs[0]}", *files)
    assert [row["file"] for row in csv.DictReader(io.StringIO(result.stdout))] == ["'=1+1.png", "'-b.png", "c d.png"]
    assert "error: \\x1b[31m.png: " in result.stderr
    for suffix in ("png", "svg"):
        command = ("pipeline.explore", f"--data_dir={hostile.data_dir}", f"--output={tmp_path / f'$_x.{suffix}'}")
        assert run_in_process(*command).returncode == 0


def test_legends_show_every_model():
    models = [model_predictions(make_predictions())]
    row = {"epoch": 0.0, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
    figure = plots.learning_curves({name: [row] for name in NAMES})
    assert len(figure.axes[0].get_legend().get_texts()) == 4
    dots, bars, *_ = plots.reliability(models[0], "patient", OPTIONS).axes
    assert sum(int(text.get_text()) for text in bars.texts) == len(models[0].predictions.labels)
    assert len(dots.lines) > len(bars.texts), "intervals"
