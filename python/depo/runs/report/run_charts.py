"""The figures of one run.

Each private function returns the figure, or the clause that says why the records have nothing to
draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depo.runs.metric_names import TIMINGS
from depo.runs.report.charts import (
    COLOURS,
    GREY,
    THOUSANDS,
    Chart,
    describe_axes,
    panels,
    plot_smoothed,
    render,
    shares_from_0_to_1,
)
from depo.runs.report.journal import JournalColumns, mean_by_step, numbers
from depo.runs.run_records import Float64Array, RunRecords
from depo.sampler.calibration import reliability_curve
from depo.types.records import BoolArray, DrawKind

Drawn = Figure | str

BLUE, VERMILION, GREEN, ORANGE = COLOURS[:4]

_KIND_BINS = 50
_NO_STEP = "no training step was done"
_NO_ESTIMATOR = "no estimator predicted anything in this run"


SMOOTHED = "Light lines are single steps, strong ones averages over neighbouring steps."

CAPTIONS: Mapping[str, tuple[str, str]] = {
    "reward": (
        "Training reward",
        f"Mean reward of what was rolled out: it depends on which prompts were drawn. {SMOOTHED}",
    ),
    "accuracy": (
        "Held-out accuracy",
        "Mean reward on prompts that are never trained on, by difficulty band: what was learned.",
    ),
    "prediction": (
        "Predicted against observed reward",
        "Over the groups rolled out, which are the hardest to predict.",
    ),
    "rejected": (
        "Candidates rejected",
        "Share of the scored candidates that the selection rule rejected, and why the others were "
        "rolled out.",
    ),
    "informative": (
        "Informative groups",
        "The higher the informative share, the fewer rollouts go without any gradient.",
    ),
    "generated": (
        "Sequences and tokens generated",
        "With selection, a dashed line estimates what uniform sampling would have cost.",
    ),
    "calibration": (
        "Calibration of P(informative)",
        "On the diagonal, groups are informative as often as believed.",
    ),
    "cpu": (
        "CPU seconds by part",
        "Where the run's CPU time went, all threads of the training process; grey: outside of the "
        "training steps.",
    ),
}
"""Figure -> title and caption, in the order in which the figures tell a run's story."""


def run_charts(run: RunRecords, journal: JournalColumns) -> list[Chart]:
    """Return all figures of a run."""
    drawn: Mapping[str, Drawn] = {
        "reward": _reward(run),
        "accuracy": _accuracy(run),
        "prediction": _prediction(journal),
        "rejected": _rejected(run, journal),
        "informative": _informative(run),
        "generated": _generated(run),
        "calibration": _calibration(run, journal),
        "cpu": _cpu(run),
    }
    return [render(name, *CAPTIONS[name], figure) for name, figure in drawn.items()]


def _reward(run: RunRecords) -> Drawn:
    steps, rewards = run.series("reward/mean")
    if not steps.size:
        return _NO_STEP
    figure, (ax,) = panels()
    plot_smoothed(ax, steps, rewards, BLUE, "all rollouts of the step")
    describe_axes(ax, y="mean reward")
    return figure


def _accuracy(run: RunRecords) -> Drawn:
    names = accuracy_names(run)
    if not names:
        return "no held-out evaluation was made"
    figure, (ax,) = panels()
    for name, colour in zip(names, chain([GREY], cycle(COLOURS)), strict=False):
        ax.plot(*run.series(name), "o-", color=colour, markersize=3, label=band_of(name))
    shares_from_0_to_1(ax)
    describe_axes(ax, y="held-out accuracy")
    return figure


def accuracy_names(run: RunRecords) -> list[str]:
    """Return the names of the accuracies that the run has measured: overall first, then by band."""
    return sorted(
        {
            name
            for row in run.metrics
            for name in row
            if name.startswith("eval/accuracy") and row[name] is not None
        }
    )


def band_of(accuracy_name: str) -> str:
    """Return which prompts an accuracy is about."""
    return accuracy_name.removeprefix("eval/accuracy").lstrip("/") or "all prompts"


def _prediction(journal: JournalColumns) -> Drawn:
    known = np.isfinite(journal.predicted_rewards) & np.isfinite(journal.pass_rates) & journal.full
    if not known.any():
        return _NO_ESTIMATOR
    steps, predicted, observed = (
        journal.steps[known],
        journal.predicted_rewards[known],
        journal.pass_rates[known],
    )
    figure, (means, errors) = panels(2)
    plot_smoothed(means, *mean_by_step(steps, observed), VERMILION, "observed pass rate")
    plot_smoothed(means, *mean_by_step(steps, predicted), BLUE, "predicted before the rollout")
    plot_smoothed(errors, *mean_by_step(steps, np.abs(predicted - observed)), BLUE, "")
    shares_from_0_to_1(means)
    errors.set_ylim(bottom=0)
    describe_axes(means, y="pass rate", title="mean over the step's groups")
    describe_axes(errors, y="mean absolute error of the pass rate", title="error per group")
    return figure


def _rejected(run: RunRecords, journal: JournalColumns) -> Drawn:
    steps, rejected = run.series("selection/reject_share")
    if not steps.size:
        return _NO_STEP
    if not rejected.any():
        return "no candidate was rejected in this run"
    figure, (shares, kinds) = panels(2)
    shares.plot(steps, rejected, color=BLUE)
    shares_from_0_to_1(shares)
    describe_axes(shares, y="rejected / scored candidates", title="rejected")
    _stack_kinds(kinds, journal)
    return figure


def _stack_kinds(ax: Axes, journal: JournalColumns) -> None:
    """Draw, over ranges of steps, the shares of the draws' kinds on top of each other."""
    last = int(journal.steps.max(initial=1))
    edges = np.unique(np.linspace(1, last + 1, min(_KIND_BINS, last) + 1).astype(int))
    totals = np.maximum(np.histogram(journal.steps, edges)[0], 1)
    bottom = np.zeros(totals.size)
    for kind, colour in zip(DrawKind, (BLUE, GREY, GREEN, ORANGE, VERMILION), strict=True):
        shares = np.histogram(journal.steps[journal.kinds == kind], edges)[0] / totals
        if shares.any():
            ax.bar(
                edges[:-1],
                shares,
                np.diff(edges),
                bottom,
                align="edge",
                color=colour,
                label=kind.value,
            )
        bottom += shares
    describe_axes(ax, y="share of the draws", title="why they were drawn")
    ax.legend(loc="center", fontsize="small", framealpha=1)


def _informative(run: RunRecords) -> Drawn:
    steps, informative = run.series("rollout/informative_share")
    if not steps.size:
        return _NO_STEP
    figure, (ax,) = panels()
    plot_smoothed(ax, steps, informative, BLUE, "informative")
    plot_smoothed(
        ax, *run.series("rollout/zero_variance_share"), VERMILION, "zero variance: no gradient"
    )
    probed, unfiltered = run.series("probe/informative_share")
    if probed.size:
        ax.plot(
            probed,
            unfiltered,
            "s",
            color="black",
            markersize=4,
            label="informative among unfiltered probes",
        )
    shares_from_0_to_1(ax)
    describe_axes(ax, y="share of groups")
    return figure


def _generated(run: RunRecords) -> Drawn:
    steps, sequences = run.series("rollout/sequences_total")
    if not steps.size:
        return _NO_STEP
    saved_steps, saved = run.series("selection/sequences_saved_total")
    figure, (left, right) = panels(2)
    left.plot(steps, sequences, color=BLUE, linewidth=1.8, label="generated")
    if saved.any():
        uniform = sequences[np.isin(steps, saved_steps)] + saved
        left.plot(
            saved_steps,
            uniform,
            "--",
            color=GREY,
            label="uniform sampling, for as many\ninformative groups (estimate)",
        )
    right.plot(*run.series("rollout/tokens_total"), color=BLUE, linewidth=1.8)
    for ax, name in ((left, "sequences"), (right, "tokens")):
        ax.yaxis.set_major_formatter(THOUSANDS)
        ax.set_ylim(bottom=0)
        describe_axes(ax, y=f"{name} generated since the start", title=name)
    return figure


def _calibration(run: RunRecords, journal: JournalColumns) -> Drawn:
    figure, (ax,) = panels(width=5.2, height=4.4)
    judged = np.isfinite(journal.p_informative) & (journal.kinds != DrawKind.WARMUP) & journal.full
    probes = [
        row
        for row in run.probes
        if row["step"] > journal.last_warmup_step and row["p_informative"] is not None
    ]
    if not judged.any() and not probes:
        return "no P(informative) was recorded after the warm-up"
    if judged.any():
        weights = 1 / journal.admissions[judged]
        _plot_reliability(
            ax,
            journal.p_informative[judged],
            journal.informative[judged],
            weights,
            "groups rolled out,\nweighted by 1 / admission",
            BLUE,
        )
    if probes:
        informative = np.array([row["informative"] for row in probes], bool)
        _plot_reliability(
            ax,
            numbers(probes, "p_informative"),
            informative,
            np.ones(len(probes)),
            "unfiltered probes",
            VERMILION,
        )
    ax.plot([0, 1], [0, 1], ":", color=GREY)
    ax.set_xlim(-0.02, 1.02)
    shares_from_0_to_1(ax)
    describe_axes(
        ax,
        x="P(informative) before the rollout",
        y="share that was informative",
        title="10 bins of equal weight; bars: standard error",
    )
    return figure


def _plot_reliability(
    ax: Axes,
    believed_N: Float64Array,
    informative_N: BoolArray,
    weights_N: Float64Array,
    name: str,
    colour: str,
) -> None:
    curve = reliability_curve(believed_N, informative_N, weights_N)
    ax.errorbar(
        curve.predicted,
        curve.observed,
        curve.standard_errors,
        fmt="o-",
        color=colour,
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=name,
    )


def _cpu(run: RunRecords) -> Drawn:
    seconds = {name: run.total_cpu_seconds(name) for name in TIMINGS if name != "time/step"}
    shown = {name: value for name, value in seconds.items() if value > 0}
    if not shown:
        return "no CPU time was recorded"
    figure, (ax,) = panels(height=0.9 + 0.3 * len(shown))
    colours = [GREY if name == "time/evaluate" else BLUE for name in shown]
    bars = ax.barh(
        [name.removeprefix("time/").replace("_", " ") for name in shown],
        [*shown.values()],
        color=colours,
    )
    ax.bar_label(bars, fmt="{:,.1f}", padding=3, fontsize="small")
    ax.invert_yaxis()
    describe_axes(ax, x="CPU seconds over the whole run", y="")
    return figure
