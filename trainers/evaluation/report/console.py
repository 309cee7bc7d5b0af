"""The entries of `metrics.json` as a table in a terminal. Pure."""

from typing import Any

from trainers.evaluation.metrics.metrics import NAMES


def render(entries: dict[str, dict[str, Any]]) -> str:
    """A line a metric with its 95 % interval over patients, a column a model; then means over folds, if there are.

    Args:
      entries: the models of `metrics.json`.
    """
    width = max(24, *(len(name) + 2 for name in entries))
    first = next(iter(entries.values()))
    lines = [f"{first['split']}: {first['num_cells']:,} cells of {_people(first['num_patients'])}"]
    lines.append(f"{'':<18}" + "".join(f"{name:>{width}}" for name in entries))
    for name in NAMES:
        lines.append(f"{name:<18}" + "".join(f"{_with_interval(item[name]):>{width}}" for item in entries.values()))
    for name in ("tn", "fp", "fn", "tp"):
        lines.append(f"{name:<18}" + "".join(f"{item['confusion'][name]:>{width},}" for item in entries.values()))
    for name, item in entries.items():
        if item["folds"]:
            lines += ["", f"{name}: mean ± standard deviation over {len(item['folds']['accuracy']['values'])} folds"]
            lines += [
                f"{metric:<18}{item['folds'][metric]['mean']:.4f} ± {item['folds'][metric]['sd']:.4f}"
                for metric in NAMES
            ]
    return "\n".join(lines)


def _people(num_patients: int) -> str:
    if not num_patients:
        return "unknown patients; no intervals over patients"
    return f"{num_patients} patient{'' if num_patients == 1 else 's'}; 95 % intervals over patients"


def _with_interval(metric: dict[str, Any]) -> str:
    if metric["ci95"] is None:
        return f"{metric['value']:.4f}{'':14}"
    low, high = metric["ci95"]
    return f"{metric['value']:.4f} ({low:.3f}–{high:.3f})"
