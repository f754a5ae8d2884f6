"""The report of a comparison: the same start, data and seeds under several selection methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depo.runs.report.charts import (
    COLOURS,
    THOUSANDS,
    Float64Array,
    describe_axes,
    panels,
    render,
    shares_from_0_to_1,
    smooth,
    write_plots,
)
from depo.runs.report.page import (
    bullets,
    chart_section,
    number,
    paragraph,
    percent,
    section,
    table,
    write_page,
)
from depo.runs.run_records import RunRecords

Records = Mapping[str, Sequence[RunRecords]]
"""Method -> its runs, one per seed."""


def _accuracy(values: Mapping[str, Any]) -> str:
    spread = (
        f" ± {values['frontier_accuracy_sd']:.3f}"
        if len(values["seeds"]) > 1 and values["frontier_accuracy_sd"] is not None
        else ""
    )
    return f"{number(values['frontier_accuracy'])}{spread}"


_COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "frontier accuracy": _accuracy,
    "at the start": lambda values: number(values["start_accuracy"]),
    "steps": lambda values: f"{values['steps']:,.0f}",
    "sequences": lambda values: f"{values['sequences']:,.0f}",
    "tokens": lambda values: f"{values['tokens']:,.0f}",
    "zero-variance groups": lambda values: percent(values["zero_variance_share"]),
    "CPU seconds": lambda values: f"{values['cpu_seconds']:,.1f}",
    "seeds": lambda values: f"{len(values['seeds'])}",
}

_NOTES = (
    "Frontier accuracy is the held-out reward of the frontier band, averaged over a run's last "
    "evaluations and over seeds; ± is the standard deviation "
    "between seeds.",
    "Zero-variance groups give no gradient; the share counts steps after the warm-up.",
    "Sequences and tokens are those generated for training; evaluations and probes are not "
    "counted.",
    "All methods take the same number of training steps, not of sequences: the second plot puts "
    "them side by side at equal sequences.",
    "CPU seconds are those of the training steps of this process on this machine. They depend on "
    "how large the policy is beside the estimator, "
    "so they are printed for completeness and say nothing about other sizes.",
)

_ESTIMATOR_WORDS: Mapping[str, str] = {
    "auroc": "an informative prompt was given a higher P(informative) than an uninformative one",
    "false_reject_rate": "informative groups among the prompts that the method would have rejected",
    "lost_share": "rejected prompts among the informative ones",
    "reject_share": "prompts that the method would have rejected",
    "informative_share": "informative groups among prompts drawn without any filter",
}


def write_comparison(records: Records, comparison: Mapping[str, Any], directory: Path) -> Path:
    """Draw `plots/*.png` and write the self-contained `comparison.html`, both into `directory`.

    Args:
        records: Method -> its runs, one per seed.
        comparison: Content of comparison.json.
        directory: Directory of the comparison.

    Returns:
        Path of the page.
    """
    charts = [
        render(
            "accuracy",
            "Held-out accuracy of the frontier band",
            "Lines are means over seeds, areas the range between seeds.",
            _frontier(records),
        ),
        render(
            "zero_variance",
            "Groups without any gradient",
            "The lower, the fewer rollouts are wasted; smoothed over steps.",
            _zero_variance(records),
        ),
        render(
            "generated",
            "What was generated for training",
            "Whole runs, means over seeds; marks are single seeds.",
            _generated(records),
        ),
    ]
    write_plots(charts, directory / "plots")
    results = section(
        "Results", table(*_cells(comparison), numeric=range(1, len(_COLUMNS) + 1)), bullets(_NOTES)
    )
    estimator = _estimator(comparison["estimator"]) if "estimator" in comparison else ""
    subtitle = f"The same start, data and seeds under {len(records)} selection methods."
    sections = [results, *(chart_section(chart) for chart in charts), estimator]
    return write_page(
        directory / "comparison.html", "Comparison of selection methods", subtitle, sections
    )


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Return the methods of comparison.json as a Markdown table."""
    header, rows = _cells(comparison)
    rule = ["---", *("---:" for _ in _COLUMNS)]
    return (
        "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
            for cells in (header, rule, *rows)
        )
        + "\n"
    )


def _cells(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [method, *(text(values) for text in _COLUMNS.values())]
        for method, values in comparison["methods"].items()
    ]
    return ["method", *_COLUMNS], rows


def _estimator(measured: Mapping[str, float]) -> str:
    rows = [
        (name, number(measured[name]), meaning)
        for name, meaning in _ESTIMATOR_WORDS.items()
        if name in measured
    ]
    sentence = (
        "On prompts drawn without any filter, after the warm-up, for the method that "
        "selects by the estimator alone."
    )
    return section(
        "The estimator",
        paragraph(sentence),
        table(("name", "value", "meaning"), rows, numeric=(1,)),
    )


def _frontier(records: Records) -> Figure | str:
    measured = {
        method: runs
        for method, runs in records.items()
        if all(run.series("eval/accuracy/frontier")[0].size for run in runs)
    }
    if not measured:
        return "no held-out prompt has the band frontier"
    figure, (by_step, by_sequences) = panels(2, height=3.8)
    for (method, runs), colour in zip(measured.items(), cycle(COLOURS), strict=False):
        steps, accuracies_SK = _aligned(runs, "eval/accuracy/frontier")
        sequences = np.mean([np.interp(steps, *_sequences(run)) for run in runs], axis=0)
        for ax, positions in ((by_step, steps), (by_sequences, sequences)):
            _plot_mean_and_range(ax, positions, accuracies_SK, colour, method)
    by_sequences.xaxis.set_major_formatter(THOUSANDS)
    describe_axes(by_step, y="held-out accuracy, frontier", title="by training steps")
    describe_axes(
        by_sequences,
        x="sequences generated for training",
        y="held-out accuracy, frontier",
        title="by sequences generated",
    )
    return figure


def _zero_variance(records: Records) -> Figure | str:
    measured = {
        method: runs
        for method, runs in records.items()
        if all(run.series("rollout/zero_variance_share")[0].size for run in runs)
    }
    if not measured:
        return "no training step was done"
    figure, (ax,) = panels()
    for (method, runs), colour in zip(measured.items(), cycle(COLOURS), strict=False):
        steps, shares_SK = _aligned(runs, "rollout/zero_variance_share")
        _plot_mean_and_range(
            ax, steps, np.stack([smooth(shares_K) for shares_K in shares_SK]), colour, method
        )
    shares_from_0_to_1(ax)
    describe_axes(ax, y="share of zero-variance groups")
    return figure


def _generated(records: Records) -> Figure | str:
    if not any(
        run.series("rollout/sequences_total")[0].size for runs in records.values() for run in runs
    ):
        return "no training step was done"
    figure, axes = panels(2)
    for ax, unit in zip(axes, ("sequences", "tokens"), strict=True):
        totals = [
            [run.series(f"rollout/{unit}_total")[1].max(initial=0) for run in runs]
            for runs in records.values()
        ]
        bars = ax.bar(
            [*records],
            [float(np.mean(each)) for each in totals],
            color=[*islice(cycle(COLOURS), len(records))],
            alpha=0.85,
        )
        ax.bar_label(bars, fmt="{:,.0f}", padding=6, fontsize="small")
        for position, each in enumerate(totals):
            ax.plot([position] * len(each), each, "o", color="black", markersize=3)
        ax.yaxis.set_major_formatter(THOUSANDS)
        describe_axes(ax, x="", y=f"{unit} generated for training", title=unit)
    return figure


def _aligned(runs: Sequence[RunRecords], name: str) -> tuple[Float64Array, Float64Array]:
    """Return the steps [K] at which every run has a value of one metric.

    Also the values [S, K] of the S runs.
    """
    series = [run.series(name) for run in runs]
    common = series[0][0]
    for steps, _ in series[1:]:
        common = np.intersect1d(common, steps)
    return common, np.stack([values[np.isin(steps, common)] for steps, values in series])


def _sequences(run: RunRecords) -> tuple[Float64Array, Float64Array]:
    """Return steps and sequences generated until then, from 0 at step 0 on."""
    steps, sequences = run.series("rollout/sequences_total")
    return np.concatenate([[0.0], steps]), np.concatenate([[0.0], sequences])


def _plot_mean_and_range(
    ax: Axes, positions_K: Float64Array, values_SK: Float64Array, colour: str, name: str
) -> None:
    ax.plot(positions_K, values_SK.mean(axis=0), color=colour, linewidth=1.8, label=name)
    if len(values_SK) > 1:
        ax.fill_between(
            positions_K,
            values_SK.min(axis=0),
            values_SK.max(axis=0),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
