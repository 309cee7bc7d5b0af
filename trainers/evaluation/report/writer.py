"""Writes the files that people look at: one HTML page that needs no network, its plots as PNG, and model cards."""

import base64
import datetime
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.cells import patient_noun
from pipeline.plot_style import optional
from pipeline.source.decode import encode_png
from pipeline.terminal import printable, quantity
from trainers import run_dir
from trainers.data import DataSet
from trainers.evaluation.metrics import metrics, thresholds
from trainers.evaluation.metrics.label_issues import LabelIssue
from trainers.evaluation.predictions import ModelPredictions
from trainers.evaluation.report import image_grid, plots, warnings
from trainers.evaluation.runs import Run
from trainers.evaluation_flags import Options

REPORT = "report.html"
_LABEL_ISSUES = "suspected_label_errors.png"
_PLOTS = ("confusion", "learning_curves", "mistakes", "patient_strip", "reliability")

# Accuracy, class-weighted precision, recall and F1, sensitivity and specificity on 8,268 test cells, split by cell:
# D. Sarkar, "Detecting Malaria with Deep Learning", 2019; the last two, which it hides, from its confusion matrices.
PUBLISHED = {
    "basic_cnn": (0.9497, 0.9497, 0.9497, 0.9497, 0.9463, 0.9531),
    "vgg_frozen": (0.9376, 0.9379, 0.9376, 0.9376, 0.9256, 0.9499),
    "vgg_ft": (0.9600, 0.9610, 0.9600, 0.9600, 0.9380, 0.9826),
}


def write(
    folder: Path,
    models: Sequence[ModelPredictions],
    contents: dict[str, Any],
    issues: Sequence[LabelIssue],
    data_set: DataSet,
    options: Options,
) -> dict[str, str]:
    """Writes all files; returns why one, or a part of the report, could not be made. Contents: `metrics.json`."""
    failures: dict[str, str] = {}
    entries, first, manifest = contents["models"], models[0], data_set.manifest
    noun = patient_noun(manifest["settings"])
    shared = {
        "dataset": f"{manifest['dataset']}/{manifest['config']}/{manifest['version']}",
        "source": manifest["source"]["name"],
        "date": datetime.date.today().isoformat(),
        "noun": noun,
        "is_nlm": data_set.is_nlm,
    }
    sections = [_section(folder, model, entries[model.name], data_set, options, failures) for model in models]
    title, which = "Suspected label errors, most likely first", (first, issues, data_set)
    worst_issues = _save_grid(folder / _LABEL_ISSUES, title, failures, image_grid.collect_issues, *which)
    roc = _save_plot(folder / "roc.png", "ROC curves", failures, plots.roc_and_precision_recall, models, entries)
    with optional(REPORT, failures):
        page = render(
            "report.html.j2",
            models=sections,
            first=entries[first.name],
            num_folds=len(first.model_runs.runs),
            config=data_set.config,
            contents={"disputed_labels": None} | contents,
            warnings=[*contents["warnings"], *({"severity": "warning", "text": text} for text in failures.values())],
            roc=roc,
            label_issues=worst_issues,
            options=options,
            **shared,
        )
        (folder / REPORT).write_text(page, encoding="utf-8")
    for model, section in zip(models, sections, strict=True):
        name = f"model_card_{slug_of(model.name)}.md"
        with optional(name, failures):
            shared |= {"image_size_px": manifest["settings"]["image_size_px"]}
            shared |= {"warnings": warnings.find([model], data_set.config, manifest, is_nlm=data_set.is_nlm)}
            (folder / name).write_text(render("model_card.md.j2", model=section, **shared), encoding="utf-8")
    return failures


def _section(
    folder: Path,
    model: ModelPredictions,
    entry: dict[str, Any],
    data_set: DataSet,
    options: Options,
    failures: dict[str, str],
) -> dict[str, Any]:
    """What report and model card show of one model."""
    noun, runs = patient_noun(data_set.manifest["settings"]), model.model_runs.runs
    files = {plot: folder / f"{slug_of(model.name)}_{plot}.png" for plot in _PLOTS}
    worst, title = image_grid.worst_misclassified(model.predictions), f"{model.name}: worst misclassified cells"
    misclassified = _save_grid(files["mistakes"], title, failures, image_grid.collect, model, worst, data_set, failures)
    figures: dict[str, tuple[Any, ...]] = {
        "confusion": ("Confusion matrix", plots.confusion, entry["confusion"], model.name),
        "patient_strip": (f"Sensitivity, false positives by {noun}", plots.patients, entry["patients"], noun),
        "reliability": ("Reliability diagram", plots.reliability, model, noun, options),
        "learning_curves": ("Loss and accuracy over the epochs", _learning_curves, runs),
    }
    return {
        "name": model.name,
        "entry": entry,
        "runs": runs,
        "training_source": ", ".join(dict.fromkeys(run.record["data"]["source"] for run in runs)),
        "is_trained_on_nlm": all(
            run.record["data"].get("is_nlm", data_set.is_nlm and not model.leak["is_external"]) for run in runs
        ),
        "num_misclassified": len(worst),
        "misclassified": misclassified,
        "plots": {
            name: _save_plot(files[name], f"{label} of {model.name}", failures, draw, *args)
            for name, (label, draw, *args) in figures.items()
        },
    }


def _learning_curves(runs: Sequence[Run]) -> Figure | None:
    histories = {run.folder_name: run_dir.read_history(Path(run.path) / run_dir.HISTORY) for run in runs}
    return plots.learning_curves(histories) if all(histories.values()) else None


def _save_plot(path: Path, label: str, failures: dict[str, str], draw: Callable[..., Figure | None], *args: Any) -> str:
    """Writes a figure as PNG, and returns it as SVG for the page; "" if there is none, or it fails."""
    svg = ""
    with optional(path.name, failures):
        if figure := draw(*args):
            plots.save(figure, path)
            svg = plots.to_svg(figure, label)
    return svg


def _save_grid(
    path: Path, title: str, failures: dict[str, str], collect: Callable[..., list[image_grid.GridCell]], *args: Any
) -> list[image_grid.GridCell]:
    """Collects cells, writes them as PNG if there are any, and returns them for the page."""
    cells: list[image_grid.GridCell] = []
    with optional(path.name, failures):
        if cells := collect(*args):
            plots.save(image_grid.plot(cells, title), path)
    return cells


def files_of(model: str) -> list[str]:
    """Names of all files that a report on a model may have."""
    plots_of_model = [f"{slug_of(model)}_{plot}.png" for plot in _PLOTS]
    return [REPORT, "roc.png", _LABEL_ISSUES, f"model_card_{slug_of(model)}.md", *plots_of_model]


def slug_of(name: str) -> str:
    """The beginning of a model's file names; a changed name has its checksum, since two must not become one."""
    slug = re.sub(r"[^\w.-]", "_", name)[:100]
    return slug if slug == name else f"{slug}_{zlib.crc32(name.encode(errors='surrogatepass')):08x}"


def render(template: str, **variables: Any) -> str:
    """Fills a template, a file of `templates/`; a missing variable is an error."""
    environment = jinja2.Environment(
        finalize=_as_markdown if template.endswith(".md.j2") else _as_text,
        loader=jinja2.PackageLoader("trainers.evaluation.report"),
        autoescape=template.endswith(".html.j2"),  # in what it imports, too
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (number, amount, span, quantity, patient_noun, interval, data_uri)
    environment.filters |= {item.__name__: item for item in filters} | {"safe_svg": Markup}
    return environment.get_template(template).render(
        metric_titles=metrics.TITLES, point_titles=thresholds.TITLES, published=PUBLISHED, **variables
    )


def _as_text(value: Any) -> Any:
    """Text of the page without control characters and lone surrogates; Markup, such as the SVG, stays as it is."""
    return printable(value) if type(value) is str else value


def _as_markdown(value: Any) -> Any:
    """Text that Markdown shows as it is; `_` means nothing within a word."""
    if type(value) is not str:
        return value
    return re.sub(r"[\\`*\[\]<>&|~$#]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable(value))


def number(value: float | None, scale: float = 1, digits: int = 0) -> str:
    """A number, such as a fraction per 100 or 1,000; a dash for none."""
    return "–" if value is None else f"{scale * value:,.{digits}f}"


def amount(value: float) -> str:
    """A number of cells, with one decimal below ten."""
    return number(value, digits=1 if 0 < value < 10 else 0)


def span(ends: Sequence[str]) -> str:
    """Two texts as a range, or the one that both are."""
    return " to ".join(dict.fromkeys(ends))


def interval(ends: list[float] | None, digits: int = 3, scale: float = 1) -> str:
    """An interval, whose ends differ as shown; a dash for none."""
    if ends is None:
        return "–"
    low, high = (number(end, scale, digits) for end in ends)
    return f"{low} to {high}" if low != high or digits > 3 else interval(ends, digits + 1, scale)


def data_uri(image: np.ndarray) -> str:
    """An image, uint8 RGB [height, width, 3], within the page."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"
