"""The report as one HTML file that needs no network: contents in, text out. Pure."""

from typing import Any

import jinja2
from markupsafe import Markup

from trainers.evaluation.metrics.metrics import NAMES
from trainers.evaluation.metrics.operating_points import TITLES
from trainers.evaluation.report.baselines import BY_CELL_ACCURACY, BY_PATIENT_ACCURACY, ORIGINAL

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


def render(template: str, **contents: Any) -> str:
    """Fills a template of `templates/`.

    Args:
      template: its file name.
      **contents: what it names; a missing one is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainers.evaluation.report"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {item.__name__: item for item in (interval, share, amount, scaled, complement)}
    environment.filters["safe_svg"] = Markup
    return environment.get_template(template).render(
        metric_titles=[(name, _TITLES[name]) for name in NAMES],
        point_titles=TITLES,
        published=[(item.model, item.table()) for item in ORIGINAL],
        by_cell_accuracy=BY_CELL_ACCURACY,
        by_patient_accuracy=BY_PATIENT_ACCURACY,
        **contents,
    )


def interval(ends: list[float] | None, digits: int = 3) -> str:
    """An interval for people; a dash for none."""
    return "–" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def share(value: float | None, of: int = 100, digits: int = 0) -> str:
    """A share as a number out of 100 or 1,000; a dash for none."""
    return "–" if value is None else f"{of * value:,.{digits}f}"


def amount(value: float | None) -> str:
    """A number of cells, to a digit below ten; a dash for none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def scaled(ends: list[float] | None, of: int, digits: int = 0) -> str:
    """An interval of a share as numbers out of 100 or 1,000; a dash for none."""
    return "–" if ends is None else " to ".join(share(end, of, digits) for end in ends)


def complement(ends: list[float] | None) -> list[float] | None:
    """The interval of one minus a share."""
    return None if ends is None else [1 - ends[1], 1 - ends[0]]
