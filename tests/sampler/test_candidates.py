"""Choices among many prompts by one number each, against NumPy."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo import PromptSampler
from depo.sampler.candidates import (
    DiscountedCounts,
    ThompsonSampler,
    WeightedSampler,
    in_window,
    nearest,
    top,
)
from depo.types.errors import StateError

SCORES = st.lists(
    st.one_of(st.sampled_from([0.0, 1.0, float("nan"), float("-inf")]), st.floats(-2, 2, width=32)),
    max_size=60,
)


@given(
    scores=SCORES,
    count=st.integers(0, 70),
    target=st.floats(-2, 2, width=32),
    stride=st.sampled_from([1, 2]),
)
def test_the_best_are_those_of_a_stable_sort(
    scores: list[float], count: int, target: float, stride: int
) -> None:
    scores_N = np.repeat(np.array(scores, np.float32), stride)[::stride]
    known = np.flatnonzero(~np.isnan(scores_N))
    by_score = known[np.argsort(-scores_N[known], kind="stable")][:count]
    by_distance = known[np.argsort(np.abs(scores_N[known] - np.float32(target)), kind="stable")][
        :count
    ]
    np.testing.assert_array_equal(top(scores_N, count), by_score)
    np.testing.assert_array_equal(nearest(scores_N, target, count), by_distance)


@given(
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 30.0]), max_size=60),
    changes=st.lists(st.tuples(st.integers(0, 59), st.sampled_from([0.0, 2.0])), max_size=9),
    exclude=st.lists(st.integers(0, 59), max_size=9),
    count=st.integers(0, 70),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_draw_is_a_function_of_seed_number_and_weights(
    weights: list[float],
    changes: list[tuple[int, float]],
    exclude: list[int],
    count: int,
    seed: int,
) -> None:
    changes = [change for change in changes if change[0] < len(weights)]
    updated = WeightedSampler(weights, seed=seed)
    updated.sample(3, 7)
    updated.update([position for position, _ in changes], [weight for _, weight in changes])
    for position, weight in changes:
        weights[position] = weight
    drawn = updated.sample(count, 1, exclude=exclude)
    np.testing.assert_array_equal(
        drawn, WeightedSampler(weights, seed=seed).sample(count, 1, exclude=exclude)
    )
    eligible = {position for position, weight in enumerate(weights) if weight > 0} - set(exclude)
    assert len(drawn) == min(count, len(eligible))
    assert len(set(drawn.tolist())) == len(drawn) and set(drawn.tolist()) <= eligible


def test_positions_come_as_often_as_their_weights_say() -> None:
    weights_N = np.repeat(np.array([1, 2, 3, 6], np.float32), 100)
    sampler = WeightedSampler(weights_N, seed=0)
    counts_N = np.bincount(
        np.concatenate([sampler.sample(2, draw) for draw in range(10_000)]), minlength=400
    )
    np.testing.assert_allclose(
        counts_N.reshape(4, 100).sum(1) / 20_000, np.array([1, 2, 3, 6]) / 12, atol=0.012
    )  # 3.5 standard errors


SHAPES = np.array(
    [
        (1, 1),
        (1, 3),
        (17, 1),
        (5, 5),
        (9, 2),
        (1.5, 1.2),
        (40, 30),
        (120, 160),
        (400, 380),
        (1500, 1450),
        (9000, 1000),
        (9999, 10000),
    ],
    np.float32,
)
"""Alpha and beta: nothing known, all right, wide, narrow, and so narrow that nearly all mass lies
within reach of a target of 1/2.
"""


def smirnov(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sample statistic of Kolmogorov and Smirnov, scaled so.

    That a chance of 1 in 10,000 lies above 2.23.
    """
    both = np.concatenate([ours, theirs])
    shares = [
        np.searchsorted(np.sort(sample), both, side="right") / len(sample)
        for sample in (ours, theirs)
    ]
    return float(np.abs(shares[0] - shares[1]).max() * np.sqrt(len(ours) * len(theirs) / len(both)))


@pytest.mark.parametrize(
    ("copies", "count", "target"),
    [
        (100, 12, 0.5),
        (100, 60, 0.5),
        (40, 100, 0.5),
        (20, 200, 0.5),
        (1, 3, 0.5),
        (100, 6, 0.1),
        (100, 6, 0.9),
        (400, 300, 0.03),
    ],
    ids=[
        "tree",
        "beyond reach",
        "too many points",
        "most",
        "few items",
        "low",
        "high",
        "near zero",
    ],
)
def test_thompson_sampling_is_that_of_a_draw_for_each(
    copies: int, count: int, target: float
) -> None:
    alpha_N, beta_N = np.repeat(SHAPES, copies, axis=0).T
    rounds, random, size = 2000, np.random.default_rng(0), len(alpha_N)
    sampler = ThompsonSampler(alpha_N, beta_N, target=target, seed=0)
    samples = [sampler.sample(count, draw) for draw in range(rounds)]
    rates_RN = random.beta(alpha_N.astype(float), beta_N, (rounds, size))
    nearest_RK = np.argsort(np.abs(rates_RN - target), axis=1)[:, :count]
    theirs_RK, ours_RK = (
        np.take_along_axis(rates_RN, nearest_RK, 1),
        np.stack([rates for _, rates in samples]),
    )
    for rank in {0, count // 2, count - 1}:
        assert (
            smirnov(np.abs(ours_RK[:, rank] - target), np.abs(theirs_RK[:, rank] - target)) < 2.23
        )
        assert smirnov(ours_RK[:, rank], theirs_RK[:, rank]) < 2.23
    drawn_RK = np.stack([positions for positions, _ in samples])
    # How often each shape is among the nearest, and is the very nearest.
    for ours, theirs in [(drawn_RK, nearest_RK), (drawn_RK[:, :1], nearest_RK[:, :1])]:
        counts = np.array(
            [
                np.bincount(positions.ravel() // copies, minlength=len(SHAPES))
                for positions in (ours, theirs)
            ],
            float,
        )
        differences, variances = (
            (counts[0] - counts[1])[counts.sum(0) > 20],
            counts.sum(0)[counts.sum(0) > 20],
        )
        statistic, freedom = float((differences**2 / variances).sum()), len(differences)
        assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 4


def test_both_sides_of_the_target_are_as_likely_as_they_are() -> None:
    alpha_N, beta_N = np.full(40_000, 1000.0), np.full(40_000, 900.0)
    _, ours = ThompsonSampler(alpha_N, beta_N, seed=0).sample(
        4000, 0
    )  # up to .012 from the target, where the density is 100 times that on the other side
    theirs = np.random.default_rng(0).beta(alpha_N, beta_N)
    assert 0.005 < np.abs(ours - 0.5).max() < 1 / 64
    assert smirnov(ours, theirs[np.argsort(np.abs(theirs - 0.5))[:4000]]) < 2.23


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 7.5), (3.3, 1), (1.01, 1.02), (2, 30), (80.5, 4.25), (900, 1000), (10000, 10000)],
)
def test_all_draws_together_are_beta_variates(shape: tuple[float, float]) -> None:
    size = 20_000
    positions, rates = ThompsonSampler(
        np.full(size, shape[0]), np.full(size, shape[1]), target=0.7, seed=1
    ).sample(size, 0)
    assert sorted(positions.tolist()) == list(range(size))
    assert smirnov(rates, np.random.default_rng(0).beta(*shape, size)) < 2.23


@given(
    shapes=st.lists(
        st.tuples(st.floats(1, 40, width=32), st.sampled_from([1.0, 2.5, 300.0])),
        min_size=1,
        max_size=60,
    ),
    exclude=st.lists(st.integers(0, 59), max_size=9),
    count=st.integers(0, 70),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_thompson_sample_is_a_function_of_seed_number_and_posteriors(
    shapes: list[tuple[float, float]], exclude: list[int], count: int, seed: int
) -> None:
    alpha_N, beta_N = np.array(shapes, np.float32).T
    updated = ThompsonSampler(np.ones(len(shapes)), np.ones(len(shapes)), seed=seed)
    updated.sample(3, 7)
    updated.update(np.arange(len(shapes)), alpha_N, beta_N)
    positions, rates = updated.sample(count, 1, exclude=exclude)
    again, rates_again = ThompsonSampler(alpha_N, beta_N, seed=seed).sample(
        count, 1, exclude=exclude
    )
    np.testing.assert_array_equal(positions, again)
    np.testing.assert_array_equal(rates, rates_again)
    eligible = set(range(len(shapes))) - set(exclude)
    assert len(positions) == min(count, len(eligible)) and set(positions.tolist()) <= eligible
    assert ((rates >= 0) & (rates <= 1)).all() and (np.diff(np.abs(rates - 0.5)) >= 0).all()


def test_more_than_there_are_is_all_there_are() -> None:
    for count in (4, 10**10, 2**62):
        assert sorted(WeightedSampler([1, 2, 0, 3], seed=0).sample(count, 0)) == [0, 1, 3]


def test_few_are_found_among_many_that_are_excluded() -> None:
    size = (
        100_000  # a draw that looked at all former hits again, at each of its rounds, would not end
    )
    assert set(
        WeightedSampler(np.ones(size), seed=0).sample(4, 0, exclude=np.arange(8, size))
    ) <= set(range(8))


def test_thompson_sampling_goes_with_the_counts() -> None:
    random, size = np.random.default_rng(0), 1000
    pass_rates_N = random.random(size)
    counts = DiscountedCounts(size, decay=0.97)
    sampler, distances = ThompsonSampler(*counts.shapes(0), seed=0), []
    for step in range(150):
        positions, _ = sampler.sample(64, step)
        counts.update(positions, random.binomial(8, pass_rates_N[positions]), np.full(64, 8), step)
        sampler.update(positions, *counts.shapes(step, positions))
        distances.append(np.abs(pass_rates_N[positions] - 0.5).mean())
    assert (
        np.mean(distances[:5]) > 0.22 and np.mean(distances[-50:]) < 0.14
    )  # of prompts drawn blindly it is .25


def test_counts_add_up_fade_and_continue() -> None:
    counts = DiscountedCounts(3, decay=0.5, alpha=2.0)
    counts.update([1, 1, 2], [3, 1, 0.5], [8, 8, 1], 10)
    counts.update([1], [8], [8], 9)  # late
    counts.update([2], [0], [4], 11)
    alpha_N, beta_N = counts.shapes(11)
    np.testing.assert_array_equal(alpha_N, [2, 2 + (3 + 1 + 4) / 2, 2 + 0.25])
    np.testing.assert_array_equal(beta_N, [1, 1 + (5 + 7) / 2, 1 + 0.25 + 4])
    np.testing.assert_array_equal(
        counts.shapes(3, [2, 0]), [[2.25, 2], [5.25, 1]]
    )  # no group is younger than it is
    continued = DiscountedCounts(3, decay=0.5, alpha=2.0)
    continued.load_state_dict(counts.state_dict())
    for each in (counts, continued):
        each.update([0, 1], [1, 2], [2, 2], 12)
    np.testing.assert_array_equal(continued.shapes(13), counts.shapes(13))
    with pytest.raises(StateError, match=r"length 3.*expected length 4"):
        DiscountedCounts(4, decay=0.5).load_state_dict(counts.state_dict())
    with pytest.raises(StateError, match="-1 at position 0"):
        continued.load_state_dict(counts.state_dict() | {"failures": np.full(3, -1, np.float32)})
    np.testing.assert_array_equal(continued.shapes(13), counts.shapes(13))


@pytest.mark.parametrize("size", [40, 100_000], ids=["listed", "drawn among all"])
def test_a_window_gives_a_share_to_the_others(size: int) -> None:
    scores_N = np.linspace(0, 1, size, dtype=np.float32)
    drawn = in_window(scores_N, 0.25, 0.75, 20, 3, seed=5, explore_share=0.3)
    np.testing.assert_array_equal(
        drawn, in_window(scores_N.tolist(), 0.25, 0.75, 20, 3, seed=5, explore_share=0.3)
    )
    assert (
        drawn.tolist() != in_window(scores_N, 0.25, 0.75, 20, 4, seed=5, explore_share=0.3).tolist()
    )
    is_inside_K = np.abs(scores_N[drawn] - 0.5) <= 0.25
    assert len(set(drawn.tolist())) == 20 and is_inside_K.tolist() == [True] * 14 + [False] * 6
    assert (
        np.abs(scores_N[in_window(scores_N, 2.0, 3.0, 20, 0, seed=0)] - 2.5) > 0.5
    ).all()  # nobody is inside


def test_candidates_go_to_the_sampler() -> None:
    sampler = PromptSampler([str(number) for number in range(1000)], seed=0)
    candidates = nearest(np.linspace(0, 1, 1000), 0.5, 64)
    draws = sampler.sample(8, policy_version=0, among=candidates)
    assert len(draws) == 8 and {int(draw.prompt.text) for draw in draws} <= set(candidates.tolist())


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "scores: got a float64 array of shape", lambda: top([[0.5]], 1)),
        (ValueError, "count: got -1", lambda: top([0.5], -1)),
        (
            ValueError,
            "target: got NaN, expected a finite number",
            lambda: nearest([0.5], float("nan"), 1),
        ),
        (
            ValueError,
            "weights: got -1 at position 1, expected numbers within",
            lambda: WeightedSampler([0, -1], seed=0),
        ),
        (
            ValueError,
            "weights: got NaN at position 0",
            lambda: WeightedSampler([1.0], seed=0).update([0], [float("nan")]),
        ),
        (
            ValueError,
            "weights: got length 1, expected length 2",
            lambda: WeightedSampler([1, 1], seed=0).update([0, 1], [1.0]),
        ),
        (
            ValueError,
            "low: got 1, expected a number up to high, 0.5",
            lambda: in_window([0.5], 1.0, 0.5, 1, 0, seed=0),
        ),
        (ValueError, "low: got NaN", lambda: in_window([0.5], float("nan"), 0.5, 1, 0, seed=0)),
        (
            ValueError,
            "explore_share: got 1.5, expected a number within 0..1",
            lambda: in_window([0.5], 0, 1, 1, 0, seed=0, explore_share=1.5),
        ),
        (
            ValueError,
            "alpha: got 0.5 at position 1, expected numbers within 1..10000",
            lambda: ThompsonSampler([1, 0.5], [1, 1], seed=0),
        ),
        (
            ValueError,
            "beta: got NaN at position 0",
            lambda: ThompsonSampler([1.0], [float("nan")], seed=0),
        ),
        (
            ValueError,
            "beta: got length 1, expected length 2, as alpha",
            lambda: ThompsonSampler([1, 1], [1], seed=0),
        ),
        (
            ValueError,
            "target: got 0, expected a number within 0.001..0.999",
            lambda: ThompsonSampler([1], [1], target=0, seed=0),
        ),
        (
            ValueError,
            "alpha: got length 2, expected length 1, as positions",
            lambda: ThompsonSampler([1], [1], seed=0).update([0], [1, 1], [1]),
        ),
        (
            ValueError,
            "beta: got 20000 at position 0",
            lambda: ThompsonSampler([1], [1], seed=0).update([0], [1], [20000]),
        ),
        (
            IndexError,
            "positions: got index -1 at position 0",
            lambda: ThompsonSampler([1], [1], seed=0).update([-1], [1], [1]),
        ),
        (
            ValueError,
            "decay: got 1.5, expected a number within 0..1",
            lambda: DiscountedCounts(1, decay=1.5),
        ),
        (
            ValueError,
            "beta: got 0, expected a number above 0",
            lambda: DiscountedCounts(1, decay=1, beta=0),
        ),
        (
            ValueError,
            "successes: got 9 of 8 at position 0, expected 0..rollouts",
            lambda: DiscountedCounts(1, decay=1).update([0], [9], [8], 0),
        ),
        (
            ValueError,
            "successes: got NaN of 8 at position 0",
            lambda: DiscountedCounts(1, decay=1).update([0], [float("nan")], [8], 0),
        ),
        (
            ValueError,
            "rollouts: got length 2, expected length 1, as positions",
            lambda: DiscountedCounts(1, decay=1).update([0], [1], [8, 8], 0),
        ),
        (
            ValueError,
            "policy_version: got -1",
            lambda: DiscountedCounts(1, decay=1).update([0], [1], [8], -1),
        ),
        (
            IndexError,
            "positions: got index 1 at position 0",
            lambda: DiscountedCounts(1, decay=1).shapes(0, [1]),
        ),
        (
            IndexError,
            "positions",
            lambda: WeightedSampler([1, 1], seed=0).update([0, 2], [1.0, 1.0]),
        ),
    ],
)
def test_bad_input_is_named(
    error: type[Exception], message: str, call: Callable[[], object]
) -> None:
    with pytest.raises(error, match=message):
        call()
