"""Results for people and for programs: a table, and the content of a JSON file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from depo.replay.log import RolloutLog
from depo.replay.measures import base_informative_share
from depo.replay.suite import Pooled, Result

_COLUMNS: Mapping[str, tuple[str, str]] = {
    "informative_share": ("informative", ".3f"),
    "recall": ("recall", ".3f"),
    "lost_share": ("lost", ".3f"),
    "false_reject_rate": ("false rej.", ".3f"),
    "rollouts_per_informative_group": ("rollouts/inf.", ".1f"),
    "brier": ("Brier", ".3f"),
    "ece": ("ECE", ".3f"),
    "ece_probed": ("ECE probed", ".3f"),
    "max_age": ("max age", ".0f"),
    "early_informative_share": ("first 2 ticks", ".3f"),
    "cpu_per_pick": ("CPU us/pick", ".1f"),
}
"""Measure -> heading and format; the first is shown with its standard deviation over seeds, those
of calibration are of all seeds pooled.
"""

LEGEND = (
    "informative: informative groups per group rolled out (+- sd over seeds); recall, lost: share "
    "of all informative groups that was picked, was not; "
    "false rej.: informative among those not picked; Brier, ECE: of P(informative) over the "
    "groups that all seeds picked; ECE probed: the same over exploring "
    "and re-probing picks, in brackets what a perfect belief would have by chance over so few; "
    "max age: longest time unseen, in ticks, of any seed."
)


def by_selector(results: Iterable[Result]) -> dict[tuple[float, str], list[Result]]:
    """Return the results of each budget and selector, in order of appearance."""
    grouped: dict[tuple[float, str], list[Result]] = {}
    for result in results:
        grouped.setdefault((result["budget"], result["selector"]), []).append(result)
    return grouped


def mean(results: Sequence[Result], name: str) -> float:
    """Return the mean of a measure over seeds; NaN if it is undefined for one."""
    return float(np.mean([result[name] for result in results]))


def results_table(results: Sequence[Result], pooled: Sequence[Pooled]) -> str:
    """Return the means over seeds as text, a block for each budget.

    `Suite.pooled` gives the second argument.
    """
    grouped = by_selector(results)
    together = {(entry["budget"], entry["selector"]): entry for entry in pooled}
    blocks = []
    for budget in dict.fromkeys(budget for budget, _ in grouped):
        header = [f"budget {budget:g}", *(heading for heading, _ in _COLUMNS.values())]
        rows = [
            [selector, *_cells(same, together[budget, selector])]
            for (of_budget, selector), same in grouped.items()
            if of_budget == budget
        ]
        blocks.append(_aligned([header, *rows]))
    return "\n\n".join([*blocks, LEGEND])


def log_summary(log: RolloutLog, warm: int) -> dict[str, Any]:
    """Return what the log is, as in the JSON file."""
    return {
        "layout": log.layout,
        "kind": log.kind,
        "prompts": len(log.prompts),
        "ticks": log.n_ticks,
        "groups": len(log.successes),
        "group_size": log.group_size,
        "effective_groups": log.effective_groups,
        "informative_share": base_informative_share(log, warm),
        "warm": warm,
        "notes": list(log.notes),
    }


def describe_log(summary: Mapping[str, Any]) -> str:
    """Return a summary of the log as text."""
    unit = {"epochs": "epochs", "steps": "steps"}[summary["kind"]]
    first = (
        f"{summary['layout']} log: {summary['prompts']:,} prompts, {summary['ticks']:,} {unit}, "
        f"{summary['groups']:,} groups of {summary['group_size']}; "
        f"{summary['informative_share']:.3f} of the groups are informative; the first "
        f"{summary['warm']} {unit} are not scored"
    )
    return "\n".join([first, *(f"  {note}" for note in summary["notes"])])


def json_content(
    log: Mapping[str, Any], results: Sequence[Result], pooled: Sequence[Pooled], advice: str
) -> dict[str, Any]:
    """Return the content of the JSON file; what is not defined is None."""
    content: dict[str, Any] = _defined(
        {"log": log, "results": list(results), "pooled": list(pooled), "advice": advice}
    )
    return content


def _cells(same: Sequence[Result], pooled: Pooled) -> list[str]:
    values = {
        name: float(pooled[name]) if name in pooled else mean(same, name) for name in _COLUMNS
    }
    values["cpu_per_pick"] *= 1e6
    values["max_age"] = max(result["max_age"] for result in same)
    cells = {
        name: "-" if math.isnan(values[name]) else format(values[name], style)
        for name, (_, style) in _COLUMNS.items()
    }
    if len(same) > 1:
        cells["informative_share"] += (
            f" +-{np.std([result['informative_share'] for result in same], ddof=1):.3f}"
        )
    if not math.isnan(values["ece_probed"]):
        cells["ece_probed"] += f" ({pooled['ece_probed_noise']:.3f})"
    return [*cells.values()]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def _defined(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _defined(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_defined(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
