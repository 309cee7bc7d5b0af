"""Fills the report's templates: numbers, tables and images as text of an HTML page or of Markdown."""

import base64
import re
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from pipeline.cells import patient_noun
from pipeline.source.decode import encode_png
from pipeline.terminal import printable, quantity
from trainers.evaluation.metrics import metrics, thresholds

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
