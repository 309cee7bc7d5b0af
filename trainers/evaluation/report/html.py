"""The report's files that people look at: HTML, PNGs and model cards, from what the models said."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from trainers import run_dir
from trainers.evaluation.data_set import DataSet
from trainers.evaluation.metrics.label_issues import Suspect
from trainers.evaluation.model_predictions import ModelPredictions
from trainers.evaluation.report import image_grid, plots, style, warnings, writer
from trainers.evaluation.runs import Member
from trainers.evaluation_flags import Options
from trainers.run_dir import read_history

REPORT = "report.html"


def write(
    folder: Path,
    judged: Sequence[ModelPredictions],
    contents: dict[str, Any],
    suspects: Sequence[Suspect],
    data_set: DataSet,
    options: Options,
) -> None:
    """Writes all pages into a folder.

    Args:
      folder: an existing one.
      judged: what the models said.
      contents: of `metrics.json`.
      suspects: see `label_errors`.
      data_set: what they were judged on.
      options: see `evaluation_flags`.
    """
    entries = contents["models"]
    first = judged[0]
    its_manifest = data_set.manifest
    dataset = f"{its_manifest['dataset']}/{its_manifest['config']}/{its_manifest['version']}"
    models = [_model(folder, item, entries[item.name], data_set) for item in judged]
    doubted = _doubted(folder, first, suspects, data_set)
    page = writer.render(
        "report.html.j2",
        models=models,
        split=first.candidate.split,
        num_cells=len(first.predictions.labels),
        num_patients=entries[first.name]["num_patients"],
        dataset=dataset,
        config=data_set.config,
        source=its_manifest["source"]["name"],
        uses_folds=len(first.candidate.members) > 1,
        num_folds=len(first.candidate.members),
        test_time_flips=options.test_time_flips,
        cautions=contents["cautions"],
        comparisons=contents["comparisons"],
        forest=_keep(folder, "metrics", plots.forest(entries), "The main metrics with their intervals"),
        roc=_keep(folder, "roc", plots.roc_and_precision_recall(judged, entries), "ROC and precision-recall curves"),
        num_suspects=len(suspects),
        suspects=doubted,
        num_voices=len(judged),
        num_resamples=options.num_resamples,
        bootstrap_seed=options.bootstrap_seed,
    )
    (folder / REPORT).write_text(page)
    for item, model in zip(judged, models, strict=True):
        card = writer.render(
            "model_card.md.j2",
            name=item.name,
            model=item.candidate.model,
            entry=entries[item.name],
            members=model["members"],
            dataset=dataset,
            image_size_px=its_manifest["settings"]["image_size_px"],
            cautions=warnings.as_json(warnings.find(item, data_set.config)),
        )
        (folder / f"model_card_{_slug(item.name)}.md").write_text(card)


def _model(folder: Path, item: ModelPredictions, entry: dict[str, Any], data_set: DataSet) -> dict[str, Any]:
    """What the report shows of one model."""
    slug = _slug(item.name)
    splits = data_set.open(item.candidate.members)
    mistakes = image_grid.show(item, image_grid.worst_mistakes(item), splits, with_heatmaps=True)
    if mistakes:
        _save(folder / f"{slug}_mistakes.png", image_grid.draw(mistakes, f"{item.name}: worst mistakes, with Grad-CAM"))
    histories = [
        (_folder_name(member), history)
        for member in item.candidate.members
        if (history := read_history(Path(member.path) / run_dir.HISTORY))
    ]
    drawn = {
        "confusion": (plots.confusion(entry["confusion"], item.name), "Confusion matrix"),
        "patient_strip": (plots.patient_strip(entry["patients"]), "Sensitivity and false positives by patient"),
        "reliability": (plots.reliability(item), "Reliability diagram"),
    }
    if histories:
        drawn["learning_curves"] = plots.learning_curves(histories), "Loss and accuracy over the epochs"
    return {
        "name": item.name,
        "entry": entry,
        "members": [{"name": _folder_name(member), "run": member.run} for member in item.candidate.members],
        "mistakes": mistakes,
        "learning_curves": None,
        **{
            name: _keep(folder, f"{slug}_{name}", figure, f"{label} of {item.name}")
            for name, (figure, label) in drawn.items()
        },
    }


def _doubted(
    folder: Path, item: ModelPredictions, suspects: Sequence[Suspect], data_set: DataSet
) -> list[image_grid.Shown]:
    row_of = {name: row for row, name in enumerate(item.predictions.filenames.tolist())}
    rows = np.array([row_of[suspect.filename] for suspect in suspects[: image_grid.NUM_SHOWN]], np.int64)
    shown = image_grid.show(item, rows, data_set.open(item.candidate.members), with_heatmaps=False)
    shown = [cell._replace(probability=suspect.probability) for cell, suspect in zip(shown, suspects, strict=False)]
    if shown:
        _save(folder / "suspected_label_errors.png", image_grid.draw(shown, "Suspected label errors, worst first"))
    return shown


def _keep(folder: Path, name: str, figure: Figure, label: str) -> str:
    """Writes a figure as PNG, and returns it as SVG for the page."""
    style.save(figure, folder / f"{name}.png")
    return style.to_svg(figure, label)


def _save(path: Path, figure: Figure) -> None:
    style.save(figure, path)
    plt.close(figure)


def _folder_name(member: Member) -> str:
    return Path(member.path).resolve().name


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)
