"""What PromptSampler refuses, and that it loses nothing by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray

from depo import PromptSampler, StateError, VerdictStatus
from tests.sampler.sampler_helpers import G, answer, make


def test_wrong_shapes_lose_nothing() -> None:
    sampler = make()
    draws = sampler.sample(3, policy_version=0)
    for rewards in ([[0.0, 1.0]] * 3, [[0.0] * G] * 2, [[math.inf] * G] * 3):
        with pytest.raises(ValueError, match="rewards"):
            sampler.observe(draws, rewards, policy_version=0)
    assert len(sampler.in_flight()) == 3
    assert all(
        verdict.status is VerdictStatus.LABELLED
        for verdict in sampler.observe(draws, answer(draws), policy_version=0)
    )


def test_equal_prompts_are_an_error() -> None:
    with pytest.raises(ValueError, match="0 and 2"):
        PromptSampler(["a", "b", "a"], G)


def interrupted(_: Sequence[str]) -> NDArray[np.float32]:
    raise KeyboardInterrupt


@pytest.mark.parametrize("among", [None, range(10, 40)])
@pytest.mark.parametrize("preset", ["depo", "depo_paper"])
@pytest.mark.parametrize(
    "predict",
    [
        interrupted,
        lambda texts: np.full(len(texts), 1.5, np.float32),
        lambda texts: np.zeros(len(texts) + 1, np.float32),
    ],
)
def test_an_estimator_that_fails_costs_one_call(
    predict: Callable[[Sequence[str]], NDArray[np.float32]],
    preset: str,
    among: range | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = make(preset=preset, warmup_steps=0)
    for version in range(4):
        draws = sampler.sample(5, policy_version=version)
        with monkeypatch.context() as failing:
            failing.setattr(sampler.estimator, "predict", predict)
            with pytest.raises((KeyboardInterrupt, ValueError)):
                sampler.sample(3, policy_version=version, among=among)
        again = sampler.sample(3, policy_version=version)
        assert len(again) == 3
        assert not {draw.prompt.id for draw in draws} & {draw.prompt.id for draw in again}
        assert len(sampler.in_flight()) == 8
        sampler.observe(draws + again, answer(draws + again), policy_version=version)


def test_an_error_before_a_batch_leaves_a_prepared_one_as_it_is() -> None:
    sampler = make(warmup_steps=0)
    sampler.prepare(5, policy_version=0)
    before = sampler.state_dict()
    for among, error in (([1, 1], ValueError), ([1000], IndexError), ([1, 2], ValueError)):
        with pytest.raises(error, match="among"):
            sampler.sample(2, policy_version=0, among=among)
    np.testing.assert_equal(sampler.state_dict(), before)


@pytest.mark.parametrize(
    "prompts", [pyarrow.table({"prompt": ["a"]}), pyarrow.array(["a"]), {"a": 1}, ["a", 1]]
)
def test_what_is_no_sequence_of_prompts_is_refused(prompts: object) -> None:
    with pytest.raises(ValueError, match=r"^prompts: got .*, expected a"):
        PromptSampler(prompts)  # type: ignore[arg-type]


def test_floor_of_an_unknown_source_is_an_error() -> None:
    with pytest.raises(ValueError, match="source_floors"):
        make(source_floors={"nowhere": 0.2})


def test_empty_pool_and_bare_text_are_errors() -> None:
    for nothing in ([], "some text"):
        with pytest.raises(ValueError, match="prompts: got"):
            PromptSampler(nothing, G)


def test_positive_logprobs_are_refused_under_their_own_name() -> None:
    sampler = make()
    draws = sampler.sample(1, policy_version=0)
    with pytest.raises(ValueError, match=r"logprobs: got 0\.5"):
        sampler.observe(draws, [[0.0, 1.0, 0.0, 1.0]], policy_version=0, logprobs=[0.5])
    assert len(sampler.in_flight()) == 1


def test_damaged_state_changes_nothing() -> None:
    sampler, other = make(), make()
    draws = sampler.sample(4, policy_version=0)
    sampler.observe(draws, answer(draws), policy_version=0)
    state = sampler.state_dict()
    for damaged in (
        {**state, "calibration": {"format": 99}},
        {"version": state["version"], "core": state["core"]},
    ):
        with pytest.raises(StateError):
            other.load_state_dict(damaged)
        assert other.metrics()["sampler/labelled"] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -5.0])
@pytest.mark.parametrize(
    ("preset", "belief", "entry"),
    [
        ("mopps", "beta", "policy.successes"),
        ("thompson", "beta", "belief.failures"),
        ("depo", "beta", "belief.base_rate"),
        ("depo", "logit_normal", "belief.prior.log_likelihoods"),
    ],
)
def test_numbers_that_would_stall_a_draw_are_refused(
    preset: str, belief: str, entry: str, bad: float
) -> None:
    sampler = make(preset=preset, belief=belief)
    state = sampler.state_dict()
    state["core"][entry] = state["core"][entry].copy()
    state["core"][entry][0] = bad
    if entry.endswith("log_likelihoods") and math.isfinite(bad):
        sampler.load_state_dict(state)
        return
    with pytest.raises(StateError, match=rf"{entry}.*expected finite numbers"):
        sampler.load_state_dict(state)


def test_a_state_of_the_former_core_is_refused_by_its_version() -> None:
    sampler = make()
    state = sampler.state_dict()
    former = {
        name: value for name, value in state["core"].items() if not name.startswith("belief.")
    }
    former |= {
        "version": 1,
        "belief.successes": np.zeros(60, np.float32),
        "concentration.configured": 4.0,
    }
    with pytest.raises(StateError, match='got 1 for entry "version", expected 3'):
        sampler.load_state_dict({**state, "core": former})
