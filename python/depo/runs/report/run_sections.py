"""What the report of a run says in words and tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.config import TrainConfig
from depo.runs.metric_names import METRICS, TIMINGS, Metric, describe
from depo.runs.report.page import number, paragraph, percent, section, table
from depo.runs.report.run_charts import accuracy_names, band_of
from depo.runs.run_records import RunRecords

_SELECTION_TIMINGS = ("time/select", "time/observe")
_ESTIMATOR_TIMINGS = ("time/predict", "time/estimator_update")


def ending(run: RunRecords, config: TrainConfig | None) -> str:
    """Say how far the run got and, as far as its records tell, why it ended there."""
    done = run.metrics[-1]["step"] if run.metrics else 0
    if config is None:
        return f"{done} steps done."
    if done >= config.run.steps:
        return f"Finished: {config.run.steps} steps done."
    _, informative = run.series("rollout/informative_share")
    patience = config.run.stop_after_empty_steps
    if informative.size >= patience and not informative[-patience:].any():
        return (
            f"Stopped after {done} of {config.run.steps} steps: no informative group in the "
            f"last {patience}."
        )
    return f"{done} of {config.run.steps} steps done: stopped, or still running."


def headline(run: RunRecords, warmup_steps: int) -> str:
    """Return the numbers to look at first.

    Shares of groups count the steps after `warmup_steps`.
    """
    informative = _informative_share(run, warmup_steps)
    selection = _share_of_steps(run, _SELECTION_TIMINGS)
    after = f", steps after {warmup_steps}" if warmup_steps else ""
    facts = [
        ("sequences generated for training", number(_last(run, "rollout/sequences_total"))),
        ("tokens generated for training", number(_last(run, "rollout/tokens_total"))),
        (f"informative groups, of those rolled out{after}", percent(informative)),
        (
            "sequences saved against uniform sampling (estimate)",
            number(_last(run, "selection/sequences_saved_total")),
        ),
        (
            "CPU time that selection adds to the steps, outside of the estimator's compute",
            percent(selection),
        ),
    ]
    return section("Headline", table(("over the whole run", "value"), facts, numeric=(1,)))


def _informative_share(run: RunRecords, warmup_steps: int) -> float | None:
    """Return which share of all groups rolled out after the warm-up was informative.

    None without any.
    """
    steps, shares = run.series("rollout/informative_share")
    groups = run.series("rollout/groups")[1] * (steps > warmup_steps)
    return float(np.average(shares, weights=groups)) if groups.any() else None


def accuracies(run: RunRecords) -> str:
    """Return the held-out accuracy at the first and the last evaluation."""
    names = accuracy_names(run)
    if not names:
        return section(
            "Held-out accuracy by band", paragraph("Left out: no held-out evaluation was made.")
        )
    rows = []
    for name in names:
        steps, values = run.series(name)
        rows.append(
            (
                band_of(name),
                number(values[0]),
                number(values[-1]),
                f"{values[-1] - values[0]:+.3f}",
                f"{steps[0]:.0f}, {steps[-1]:.0f}",
            )
        )
    return section(
        "Held-out accuracy by band",
        table(("band", "first", "last", "change", "at steps"), rows, numeric=(1, 2, 3)),
    )


def cpu_seconds(run: RunRecords) -> str:
    """Return where the CPU time went, and what selection adds to it."""
    rows = [
        (
            name,
            meaning,
            number(run.total_cpu_seconds(name)),
            percent(_share_of_steps(run, (name,))) if name != "time/evaluate" else "–",
        )
        for name, meaning in TIMINGS.items()
        if any(name in row for row in run.timings)
    ]
    if not rows:
        return section("CPU seconds", paragraph("Left out: no CPU time was recorded."))
    selection, estimator = (
        percent(_share_of_steps(run, names)) for names in (_SELECTION_TIMINGS, _ESTIMATOR_TIMINGS)
    )
    ours = " + ".join(_SELECTION_TIMINGS)
    sentence = (
        f"Of the steps' CPU time, selection takes {selection} outside of the estimator's "
        f"compute ({ours}), the estimator {estimator}."
    )
    return section(
        "CPU seconds",
        paragraph(sentence),
        table(("part", "meaning", "CPU seconds", "of the steps"), rows, numeric=(2, 3)),
    )


def _share_of_steps(run: RunRecords, names: Sequence[str]) -> float | None:
    """Return the share of the training steps' CPU seconds that was booked under some names.

    None before the first step.
    """
    whole = run.total_cpu_seconds("time/step")
    return sum(run.total_cpu_seconds(name) for name in names) / whole if whole > 0 else None


def glossary(run: RunRecords) -> str:
    """Return every metric that the run has written: last value, unit, meaning."""
    written = {name for row in run.metrics for name in row} - {"step"}
    ordered = [*(name for name in METRICS if name in written), *sorted(written - METRICS.keys())]
    rows = [(name, number(_last(run, name)), *_described(name)) for name in ordered]
    return section("Metrics", table(("name", "last value", "unit", "meaning"), rows, numeric=(1,)))


def _described(name: str) -> Metric:
    try:
        return describe(name)
    except KeyError:
        return Metric("–", "a metric of another version of depo")


def _last(run: RunRecords, name: str) -> float | None:
    _, values = run.series(name)
    return float(values[-1]) if values.size else None
