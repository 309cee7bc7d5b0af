"""Writes the files that people look at: one HTML page that needs no network, its plots as PNG, and model cards."""

import datetime
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.cells import patient_noun
from pipeline.plot_style import optional
from trainers import run_dir
from trainers.data import DataSet
from trainers.evaluation.metrics.label_issues import LabelIssue
from trainers.evaluation.predictions import ModelPredictions
from trainers.evaluation.report import image_grid, plots, style, warnings
from trainers.evaluation.report.render import render
from trainers.evaluation_flags import Options

REPORT = "report.html"
_LABEL_ISSUES = "suspected_label_errors.png"


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
