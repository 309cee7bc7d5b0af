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
from trainers.evaluation.report import image_grid, plots, style, warnings
from trainers.evaluation_flags import Options

REPORT = "report.html"
_LABEL_ISSUES = "suspected_label_errors.png"

_TITLES = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity (recall)",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "AUC (ROC)",
    "average_precision": "Average precision",
    "mcc": "Matthews correlation (MCC)",
    "brier": "Brier score (0 is best)",
    "ece": "Expected calibration error (0 is best)",
}
# Confusion counts (tn, fp, fn, tp) of 8,268 test cells, split by cell: D. Sarkar, "Detecting Malaria with Deep
# Learning", 2019.
PUBLISHED = {
    "basic_cnn": (3884, 191, 225, 3968),
    "vgg_frozen": (3871, 204, 312, 3881),
    "vgg_ft": (4004, 71, 260, 3933),
}
# Accuracy of one VGG-16 by the authors of the data: Rajaraman et al., J. Med. Imaging 5:034501, 2018.
_BY_CELL_ACCURACY, _BY_PATIENT_ACCURACY = 0.989, 0.951


def write(
    folder: Path,
    models: Sequence[ModelPredictions],
    contents: dict[str, Any],
    issues: Sequence[LabelIssue],
    data_set: DataSet,
    options: Options,
) -> dict[str, str]:
    """Writes all files into a folder.

    Args:
      folder: an existing one.
      models: their predictions on the data set.
      contents: of `metrics.json`.
      issues: see `label_issues`.
      data_set, options: see `evaluate`.

    Returns:
      file or part of the report -> why it could not be made.
    """
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
    forest = _save_plot(folder, failures, "metrics", lambda: plots.forest(entries, noun), "Main metrics and intervals")
    roc = _save_plot(folder, failures, "roc", lambda: plots.roc_and_precision_recall(models, entries), "ROC curves")
    worst_issues: list[image_grid.GridCell] = []
    with optional(_LABEL_ISSUES, failures):
        worst_issues = image_grid.collect_issues(first, issues, options.disputed_labels, data_set)
        if worst_issues:
            title = "Suspected label errors, most likely first"
            style.save(image_grid.plot(worst_issues, title), folder / _LABEL_ISSUES)
    with optional(REPORT, failures):
        page = render(
            "report.html.j2",
            models=sections,
            split=first.model_runs.split,
            num_cells=len(first.predictions.labels),
            num_patients=entries[first.name]["num_patients"],
            config=data_set.config,
            num_folds=len(first.model_runs.runs),
            warnings=[*contents["warnings"], *({"severity": "warning", "text": text} for text in failures.values())],
            comparisons=contents["comparisons"],
            forest=forest,
            roc=roc,
            num_label_issues=len(issues),
            label_issues=worst_issues,
            disputed_labels=contents.get("disputed_labels"),
            options=options,
            **shared,
        )
        (folder / REPORT).write_text(page, encoding="utf-8")
    for model, section in zip(models, sections, strict=True):
        name = f"model_card_{slug_of(model.name)}.md"
        with optional(name, failures):
            card = render(
                "model_card.md.j2",
                model=section,
                **section,
                image_size_px=manifest["settings"]["image_size_px"],
                warnings=warnings.find([model], data_set.config, manifest, is_nlm=data_set.is_nlm),
                **shared,
            )
            (folder / name).write_text(card, encoding="utf-8")
    return failures


def _section(
    folder: Path,
    model: ModelPredictions,
    entry: dict[str, Any],
    data_set: DataSet,
    options: Options,
    failures: dict[str, str],
) -> dict[str, Any]:
    """What the report shows of one model."""
    slug, noun = slug_of(model.name), patient_noun(data_set.manifest["settings"])
    worst = image_grid.worst_misclassified(model.predictions)
    misclassified: list[image_grid.GridCell] = []
    with optional(f"{slug}_mistakes.png", failures):
        misclassified = image_grid.collect(model, worst, data_set, failures)
        if misclassified:
            title = f"{model.name}: worst misclassified cells, with Grad-CAM"
            style.save(image_grid.plot(misclassified, title), folder / f"{slug}_mistakes.png")
    histories: dict[str, list[run_dir.HistoryRow]] = {}
    with optional(f"{slug}_learning_curves.png", failures):
        histories = {
            run.folder_name: history
            for run in model.model_runs.runs
            if (history := run_dir.read_history(Path(run.path) / run_dir.HISTORY))
        }
    figures: dict[str, tuple[Callable[[], Figure], str]] = {
        "confusion": (lambda: plots.confusion(entry["confusion"], model.name), "Confusion matrix"),
        "patient_strip": (
            lambda: plots.patients(entry["patients"], noun),
            f"Sensitivity, false positives by {noun}",
        ),
        "reliability": (lambda: plots.reliability(model, noun, options), "Reliability diagram"),
    }
    if histories:
        figures["learning_curves"] = lambda: plots.learning_curves(histories), "Loss and accuracy over the epochs"
    return {
        "name": model.name,
        "entry": entry,
        "runs": model.model_runs.runs,
        "training_source": ", ".join(dict.fromkeys(run.record["data"]["source"] for run in model.model_runs.runs)),
        "is_trained_on_nlm": all(
            run.record["data"].get("is_nlm", data_set.is_nlm and not model.leak["is_external"])
            for run in model.model_runs.runs
        ),
        "num_misclassified": len(worst),
        "misclassified": misclassified,
        "plots": {
            name: _save_plot(folder, failures, f"{slug}_{name}", draw, f"{label} of {model.name}")
            for name, (draw, label) in figures.items()
        },
    }


def _save_plot(folder: Path, failures: dict[str, str], name: str, draw: Callable[[], Figure], label: str) -> str:
    """Writes a figure as PNG, and returns it as SVG for the page; "" if it fails."""
    svg = ""
    with optional(f"{name}.png", failures):
        figure = draw()
        style.save(figure, folder / f"{name}.png")
        svg = style.to_svg(figure, label)
    return svg  # noqa: RET504 - still empty where the block failed


def slug_of(name: str) -> str:
    """The beginning of a model's file names; a changed name has its checksum, since two must not become one."""
    slug = re.sub(r"[^\w.-]", "_", name)[:100]
    return slug if slug == name else f"{slug}_{zlib.crc32(name.encode(errors='surrogatepass')):08x}"


def render(template: str, **contents: Any) -> str:
    """Fills a template, a file of `templates/`, with its variables; a missing one is an error."""
    environment = jinja2.Environment(
        finalize=_as_markdown if template.endswith(".md.j2") else _as_text,
        loader=jinja2.PackageLoader("trainers.evaluation.report"),
        autoescape=template.endswith(".html.j2"),  # in what it imports, too
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (number, amount, quantity, patient_noun, interval, complement, data_uri)
    environment.filters |= {item.__name__: item for item in filters}
    environment.filters["safe_svg"] = Markup
    return environment.get_template(template).render(
        metric_titles=[(name, _TITLES[name]) for name in metrics.NAMES],
        point_titles=thresholds.TITLES,
        published={model: published_metrics(counts) for model, counts in PUBLISHED.items()},
        by_cell_accuracy=_BY_CELL_ACCURACY,
        by_patient_accuracy=_BY_PATIENT_ACCURACY,
        **contents,
    )


def _as_text(value: Any) -> Any:
    """Text of the page without control characters and lone surrogates; Markup, such as the SVG, stays as it is."""
    return printable(value) if type(value) is str else value


def _as_markdown(value: Any) -> Any:
    """Text that Markdown shows as it is; `_` means nothing within a word."""
    if type(value) is not str:
        return value
    return re.sub(r"[\\`*\[\]<>&|~$#]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable(value))


def published_metrics(counts: tuple[int, int, int, int]) -> dict[str, float]:
    """The table of the original work, and sensitivity and specificity, which it hides, from (tn, fp, fn, tp)."""
    labels, predictions = (np.repeat(classes, counts) for classes in ([0, 0, 1, 1], [0, 1, 0, 1]))
    tn, fp, fn, tp = counts
    return metrics.class_weighted(labels, predictions) | {"sensitivity": tp / (fn + tp), "specificity": tn / (tn + fp)}


def number(value: float | None, scale: float = 1, digits: int = 0) -> str:
    """A number, such as a fraction per 100 or 1,000; a dash for none."""
    return "–" if value is None else f"{scale * value:,.{digits}f}"


def amount(value: float) -> str:
    """A number of cells, with one decimal below ten."""
    return number(value, digits=1 if 0 < value < 10 else 0)


def interval(ends: list[float] | None, digits: int = 3, scale: float = 1) -> str:
    """An interval; a dash for none."""
    return "–" if ends is None else " to ".join(number(end, scale, digits) for end in ends)


def complement(ends: list[float] | None) -> list[float] | None:
    """The interval of one minus a fraction."""
    return None if ends is None else [1 - ends[1], 1 - ends[0]]


def data_uri(image: np.ndarray) -> str:
    """An image, uint8 RGB [height, width, 3], within the page."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"
