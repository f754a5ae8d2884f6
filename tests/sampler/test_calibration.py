"""Calibration metrics against slow, obvious references."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from depo.sampler.calibration import (
    CalibrationWindow,
    auroc,
    brier,
    expected_calibration_error,
    false_reject_rate,
    lost_share,
    reliability_curve,
)
from depo.types.errors import StateError

OBSERVATIONS = st.lists(
    st.tuples(st.integers(0, 6).map(lambda k: k / 6), st.booleans(), st.floats(0.1, 10)),
    min_size=1,
    max_size=30,
)
"""(probability, outcome, weight) with many ties."""

Observations = list[tuple[float, bool, float]]


def columns(observations: Observations) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    values, outcomes, weights = zip(*observations, strict=True)
    return np.array(values), np.array(outcomes), np.array(weights)


def slow_auroc(observations: Observations) -> float:
    won = total = 0.0
    for value, label, weight in observations:
        for other, other_label, other_weight in observations:
            if label and not other_label:
                total += weight * other_weight
                won += (
                    weight
                    * other_weight
                    * (1.0 if value > other else 0.5 if value == other else 0.0)
                )
    return won / total if total else float("nan")


@settings(deadline=None, max_examples=40)
@given(OBSERVATIONS)
def test_auroc_is_the_share_of_pairs_in_order(observations: Observations) -> None:
    assert auroc(*columns(observations)) == pytest.approx(slow_auroc(observations), nan_ok=True)


@settings(deadline=None, max_examples=40)
@given(OBSERVATIONS, st.lists(st.integers(1, 4), min_size=30, max_size=30))
def test_a_weight_is_a_number_of_copies(observations: Observations, copies: list[int]) -> None:
    values, outcomes, _ = columns(observations)
    counts = np.array(copies[: len(values)])
    repeated = np.repeat(values, counts), np.repeat(outcomes, counts)
    for metric in (auroc, brier, expected_calibration_error):
        assert metric(values, outcomes, counts) == pytest.approx(metric(*repeated), nan_ok=True), (
            metric.__name__
        )
    assert false_reject_rate(outcomes, values > 0.5, counts).value == pytest.approx(
        false_reject_rate(repeated[1], repeated[0] > 0.5).value, nan_ok=True
    )


@settings(deadline=None, max_examples=40)
@given(OBSERVATIONS, st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order(
    observations: Observations, shuffler: random.Random
) -> None:
    shuffled = list(observations)
    shuffler.shuffle(shuffled)
    for metric in (auroc, brier, expected_calibration_error):
        assert metric(*columns(shuffled)) == pytest.approx(
            metric(*columns(observations)), nan_ok=True
        ), metric.__name__


@settings(deadline=None, max_examples=40)
@given(OBSERVATIONS, st.integers(1, 12))
def test_reliability_curve_keeps_the_totals(observations: Observations, bins: int) -> None:
    values, outcomes, weights = columns(observations)
    curve = reliability_curve(values, outcomes, weights, bins=bins)
    assert 1 <= len(curve.mass) <= bins
    assert curve.mass.sum() == pytest.approx(1)
    assert (curve.mass * curve.predicted).sum() == pytest.approx(
        np.average(values, weights=weights)
    )
    assert (curve.mass * curve.observed).sum() == pytest.approx(
        np.average(outcomes, weights=weights)
    )
    assert (np.diff(curve.predicted) > 0).all()


def test_reliability_bins_have_equal_mass_without_ties() -> None:
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 2, 2000)
    curve = reliability_curve(rng.uniform(size=2000), rng.uniform(size=2000) < 0.5, weights)
    assert np.abs(curve.mass - 0.1).max() < 2 * weights.max() / weights.sum()


@settings(deadline=None, max_examples=40)
@given(OBSERVATIONS)
def test_brier_and_ece_by_loop(observations: Observations) -> None:
    total = sum(weight for _, _, weight in observations)
    assert brier(*columns(observations)) == pytest.approx(
        sum(weight * (value - outcome) ** 2 for value, outcome, weight in observations) / total
    )
    gaps: dict[float, float] = {}
    for value, outcome, weight in observations:
        gaps[value] = gaps.get(value, 0.0) + weight * (value - outcome)
    per_value = sum(map(abs, gaps.values())) / total
    # With far more bins than the seven distinct values and a tenth of the least mass, every value
    # has its own bin.
    assert expected_calibration_error(*columns(observations), bins=10**6) == pytest.approx(
        per_value, abs=1e-9
    )


@settings(deadline=None, max_examples=40)
@given(OBSERVATIONS)
def test_shares_by_loop(observations: Observations) -> None:
    values, informative, weights = columns(observations)
    rejected = values > 0.5
    both = sum(w for i, r, w in zip(informative, rejected, weights, strict=True) if i and r)
    for share, of in (
        (false_reject_rate, weights[rejected].sum()),
        (lost_share, weights[informative].sum()),
    ):
        assert share(informative, rejected, weights).value == pytest.approx(
            both / of if of else float("nan"), nan_ok=True
        )


def test_standard_error_is_the_spread_over_repetitions() -> None:
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(400):
        admission = rng.choice([0.2, 1.0], size=300)
        shares.append(
            false_reject_rate(rng.uniform(size=300) < 0.3, np.ones(300, bool), 1 / admission)
        )
    spread = np.std([share.value for share in shares])
    assert np.mean([share.standard_error for share in shares]) == pytest.approx(spread, rel=0.15)


def test_weights_undo_a_biased_draw() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(size=200_000)
    informative = rng.uniform(size=p.size) < p**2
    rejected = p < 0.4
    admission = np.where(rejected, 0.05, 0.9)
    drawn = rng.uniform(size=p.size) < admission
    weights = 1 / admission[drawn]
    measured = {
        "auroc": (
            auroc(p, informative),
            auroc(p[drawn], informative[drawn], weights),
            auroc(p[drawn], informative[drawn]),
        ),
        "lost_share": tuple(
            entry.value
            for entry in (
                lost_share(informative, rejected),
                lost_share(informative[drawn], rejected[drawn], weights),
                lost_share(informative[drawn], rejected[drawn]),
            )
        ),
    }
    for name, (truth, weighted, naive) in measured.items():
        assert weighted == pytest.approx(truth, abs=0.012), name
        assert abs(naive - truth) > 0.03, (
            f"{name}: the draw is biased enough for the test to mean something"
        )


def test_undefined_is_nan() -> None:
    assert np.isnan(auroc([0.1, 0.9], [True, True]))
    assert np.isnan(false_reject_rate([True], [False]).value)
    assert np.isnan(lost_share([False], [True]).value)
    assert np.isnan([brier([], []), expected_calibration_error([], [])]).all()
    assert np.isnan(list(CalibrationWindow().metrics().values())).all()


def test_bad_lengths_are_named() -> None:
    with pytest.raises(ValueError, match=r"outcomes: got shape \(1,\)"):
        brier([0.5, 0.5], [1.0])
    with pytest.raises(ValueError, match="admission: got values from 0"):
        CalibrationWindow().add(0.5, 0.5, 0.0, True, 0.5, False)


def filled(window: CalibrationWindow, sizes: list[int], seed: int = 0) -> NDArray[Any]:
    """Add groups of the given sizes; returns all rows ever added."""
    rng = np.random.default_rng(seed)
    added = [np.empty((0, 6))]
    for size in sizes:
        rows = rng.uniform(0.05, 1, (size, 6))
        rows[:, [3, 5]] = rows[:, [3, 5]] > 0.5
        window.add(*rows.T)
        added.append(rows)
    return np.concatenate(added)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.lists(st.integers(0, 12), max_size=6))
def test_window_is_the_newest_rows(capacity: int, sizes: list[int]) -> None:
    window = CalibrationWindow(capacity)
    newest = filled(window, sizes)[-capacity:]
    assert len(window) == len(newest)
    p, predicted, admission, informative, pass_rate, rejected = newest.T
    expected = {
        "calibration/brier": brier(p, informative, 1 / admission),
        "calibration/ece": expected_calibration_error(p, informative, 1 / admission),
        "calibration/auroc": auroc(p, informative, 1 / admission),
        "calibration/mae": np.average(np.abs(predicted - pass_rate), weights=1 / admission)
        if len(newest)
        else float("nan"),
        "calibration/false_reject_rate": false_reject_rate(
            informative, rejected, 1 / admission
        ).value,
        "calibration/lost_share": lost_share(informative, rejected, 1 / admission).value,
        "calibration/unfiltered_informative_share": np.average(informative, weights=1 / admission)
        if len(newest)
        else float("nan"),
    }
    assert window.metrics() == pytest.approx(expected, nan_ok=True)


def test_unknown_predictions_are_left_out() -> None:
    known, mixed = CalibrationWindow(), CalibrationWindow()
    known.add([0.2, 0.7], [0.3, 0.6], [1, 0.5], [0, 1], [0.0, 0.5], [1, 0])
    mixed.add(
        [0.2, np.nan, 0.7], [0.3, np.nan, 0.6], [1, 1, 0.5], [0, 0, 1], [0.0, 0.0, 0.5], [1, 0, 0]
    )
    for name in ("brier", "ece", "auroc", "mae"):
        assert mixed.metrics()[f"calibration/{name}"] == pytest.approx(
            known.metrics()[f"calibration/{name}"]
        ), name


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 9), max_size=4))
def test_a_restored_window_continues_the_same(before: list[int], after: list[int]) -> None:
    window, restored = CalibrationWindow(8), CalibrationWindow(8)
    filled(window, before)
    restored.load_state_dict(window.state_dict())
    filled(window, after, seed=1)
    filled(restored, after, seed=1)
    np.testing.assert_equal(restored.metrics(), window.metrics())
    np.testing.assert_equal(restored.state_dict(), window.state_dict())


def test_foreign_states_are_refused() -> None:
    window = CalibrationWindow(8)
    state = window.state_dict()
    for change in ({"format": 99}, {"capacity": 9}, {"rows": np.zeros((2, 6))}, {"more": 1}):
        with pytest.raises(StateError, match=next(iter(change))):
            window.load_state_dict({**state, **change})


def test_calibration_loads_no_torch() -> None:
    code = (
        "import sys, depo.sampler.calibration; sys.exit('torch' in sys.modules or "
        "'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
