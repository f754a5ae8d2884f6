"""Choices among many prompts by one number each, against NumPy."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo import PromptSampler
from depo.scale import WeightedSampler, nearest, top

SCORES = st.lists(st.one_of(st.sampled_from([0.0, 1.0, float("nan"), float("-inf")]), st.floats(-2, 2, width=32)), max_size=60)


@given(scores=SCORES, count=st.integers(0, 70), target=st.floats(-2, 2, width=32), stride=st.sampled_from([1, 2]))
def test_the_best_are_those_of_a_stable_sort(scores: list[float], count: int, target: float, stride: int) -> None:
    scores_N = np.repeat(np.array(scores, np.float32), stride)[::stride]
    known = np.flatnonzero(~np.isnan(scores_N))
    by_score = known[np.argsort(-scores_N[known], kind="stable")][:count]
    by_distance = known[np.argsort(np.abs(scores_N[known] - np.float32(target)), kind="stable")][:count]
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
    weights: list[float], changes: list[tuple[int, float]], exclude: list[int], count: int, seed: int
) -> None:
    changes = [change for change in changes if change[0] < len(weights)]
    updated = WeightedSampler(weights, seed=seed)
    updated.sample(3, 7)
    updated.update([position for position, _ in changes], [weight for _, weight in changes])
    for position, weight in changes:
        weights[position] = weight
    drawn = updated.sample(count, 1, exclude=exclude)
    np.testing.assert_array_equal(drawn, WeightedSampler(weights, seed=seed).sample(count, 1, exclude=exclude))
    eligible = {position for position, weight in enumerate(weights) if weight > 0} - set(exclude)
    assert len(drawn) == min(count, len(eligible))
    assert len(set(drawn.tolist())) == len(drawn) and set(drawn.tolist()) <= eligible


def test_positions_come_as_often_as_their_weights_say() -> None:
    weights_N = np.repeat(np.array([1, 2, 3, 6], np.float32), 100)
    sampler = WeightedSampler(weights_N, seed=0)
    counts_N = np.bincount(np.concatenate([sampler.sample(2, draw) for draw in range(10_000)]), minlength=400)
    np.testing.assert_allclose(counts_N.reshape(4, 100).sum(1) / 20_000, np.array([1, 2, 3, 6]) / 12, atol=0.012)  # 3.5 standard errors


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
        (ValueError, "target: got NaN, expected a finite number", lambda: nearest([0.5], float("nan"), 1)),
        (ValueError, "weights: got -1 at position 1, expected numbers within", lambda: WeightedSampler([0, -1], seed=0)),
        (ValueError, "weights: got NaN at position 0", lambda: WeightedSampler([1.0], seed=0).update([0], [float("nan")])),
        (ValueError, "weights: got length 1, expected length 2", lambda: WeightedSampler([1, 1], seed=0).update([0, 1], [1.0])),
        (IndexError, "positions", lambda: WeightedSampler([1, 1], seed=0).update([0, 2], [1.0, 1.0])),
    ],
)
def test_bad_input_is_named(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()
