"""Figures of a suite of replays (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depo.replay.selectors import REFERENCES
from depo.replay.suite import Pooled, Result
from depo.replay.tables import by_selector, mean
from depo.runs.report.charts import COLOURS, GREY, Chart, describe_axes, panels, render, smooth

_OURS, _BASELINE = "depo", "uniform"
_LINES = ("-", "--", ":")


def replay_charts(results: Sequence[Result], pooled: Sequence[Pooled]) -> list[Chart]:
    """Return all figures, each selector in the same colour and line everywhere.

    Legends go from the best to the worst.
    """
    return [
        render(
            "informative_by_budget",
            "Informative share by budget",
            "The higher, the fewer rollouts are wasted; means over seeds.",
            _by_budget(results),
        ),
        render(
            "reliability",
            "Calibration of P(informative)",
            "Picks should be informative as "
            "often as believed: left on the "
            "diagonal, right on zero.",
            _reliability(results, pooled),
        ),
        render(
            "informative_by_tick",
            "Informative share over time",
            "Smallest budget, means over seeds, smoothed over ticks.",
            _by_tick(results),
        ),
    ]


def _styles(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return how each selector is drawn, the best at the smallest budget first.

    References and uniform are grey, the latter on top of what equals it.
    """
    *colours, black = COLOURS
    fixed: dict[str, dict[str, Any]] = {
        _OURS: {"color": black, "linewidth": 2.2, "zorder": 3},
        **{
            name: {"color": GREY, "linewidth": 1.3, "linestyle": line, "zorder": 4}
            for name, line in zip((_BASELINE, *REFERENCES), ("--", ":", "-."), strict=True)
        },
    }
    lines = cycle(
        {"color": colour, "linestyle": line, "linewidth": 1.5}
        for line, colour in product(_LINES, colours)
    )
    styles = {
        name: fixed.get(name) or next(lines)
        for name in dict.fromkeys(result["selector"] for result in results)
    }
    shares = {
        name: mean(same, "informative_share")
        for (budget, name), same in by_selector(results).items()
        if budget == _smallest_budget(results)
    }
    return {name: styles[name] for name in sorted(shares, key=lambda name: -shares[name])}


def _smallest_budget(results: Sequence[Result]) -> float:
    return min(float(result["budget"]) for result in results)


def _by_budget(results: Sequence[Result]) -> Figure:
    figure, (ax,) = panels(height=4.4)
    grouped = by_selector(results)
    for selector, style in _styles(results).items():
        budgets = sorted(budget for budget, name in grouped if name == selector)
        ax.plot(
            budgets,
            [mean(grouped[budget, selector], "informative_share") for budget in budgets],
            marker="o",
            markersize=4,
            label=selector,
            **style,
        )
    ax.set_xticks(sorted({budget for budget, _ in grouped}))
    describe_axes(
        ax,
        x="budget: share of the available rollouts spent",
        y="informative groups per group rolled out",
        title="Informative share by budget",
    )
    _legend_outside(ax)
    return figure


def _reliability(results: Sequence[Result], pooled: Sequence[Pooled]) -> Figure | str:
    smallest = _smallest_budget(results)
    curves = {
        entry["selector"]: entry["reliability"] for entry in pooled if entry["budget"] == smallest
    }
    drawn = {name: style for name, style in _styles(results).items() if curves[name]["predicted"]}
    if not drawn:
        return "no selector believes anything of what it picks"
    figure, (diagram, deviation) = panels(2, width=11.0, height=4.4)
    diagram.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    deviation.axhline(0, color=GREY, linewidth=0.8)
    for name, style in drawn.items():
        believed, observed = np.array(curves[name]["predicted"]), np.array(curves[name]["observed"])
        diagram.plot(believed, observed, marker="o", markersize=3, **style)
        deviation.plot(believed, observed - believed, marker="o", markersize=3, label=name, **style)
    diagram.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    describe_axes(
        diagram,
        x="P(informative), believed",
        y="observed informative share",
        title=f"Reliability at budget {smallest:g}, all seeds together",
    )
    describe_axes(
        deviation,
        x="P(informative), believed",
        y="observed - believed",
        title="Its distance from the diagonal",
    )
    _legend_outside(deviation)
    return figure


def _by_tick(results: Sequence[Result]) -> Figure:
    smallest = _smallest_budget(results)
    grouped = by_selector(results)
    figure, (ax,) = panels(height=4.4)
    for name, style in _styles(results).items():
        shares_K = np.mean(
            [result["informative_share_by_tick"] for result in grouped[smallest, name]], axis=0
        )
        ax.plot(smooth(shares_K), label=name, **style)
    ax.set_ylim(top=1.02)
    title = f"Informative share over time at budget {smallest:g}"
    describe_axes(
        ax,
        x="tick: epoch or step of the log",
        y="informative groups per group rolled out",
        title=title,
    )
    _legend_outside(ax)
    return figure


def _legend_outside(ax: Axes) -> None:
    legend = ax.get_legend()
    if legend:
        legend.set_loc("upper left")
        legend.set_bbox_to_anchor((1.01, 1.0))
