"""Laws of PromptSampler as an embedding framework meets it."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo import Draw, DrawKind, Prompt, PromptSampler, SelectorConfig, StateError, VerdictStatus
from depo.config.presets import SELECTOR_PRESETS
from tests.sampler.sampler_helpers import G, LengthEstimator, answer, make, pool

PRESETS = tuple(SELECTOR_PRESETS)
BELIEFS = get_args(get_type_hints(SelectorConfig)["belief"])


@pytest.mark.parametrize("preset", PRESETS)
def test_never_hands_out_a_prompt_in_flight(preset: str) -> None:
    sampler = make(preset=preset, max_age=3)
    held: list[Draw] = []
    for version in range(12):
        held += sampler.sample(7, policy_version=version)
        assert len({draw.prompt.id for draw in held}) == len(held)
        if version % 3 == 2:
            done, held = held[::2], held[1::2]
            sampler.observe(done, answer(done), policy_version=version)
    assert {draw.draw_id for draw in sampler.in_flight()} == {draw.draw_id for draw in held}


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=15, deadline=None)
@given(
    cut=st.integers(0, 9),
    seed=st.integers(0, 2**32),
    belief=st.sampled_from(BELIEFS),
    probe_rollouts=st.sampled_from(["all", *range(1, G + 1)]),
)
def test_resume_equals_the_uninterrupted_run(
    preset: str, cut: int, seed: int, belief: str, probe_rollouts: int | str
) -> None:
    def start() -> PromptSampler:
        return make(
            preset=preset, seed=seed, belief=belief, max_age=3, probe_rollouts=probe_rollouts
        )

    def play(sampler: PromptSampler, versions: range) -> list[object]:
        events: list[object] = []
        for version in versions:
            draws = sampler.sample(5, policy_version=version)
            kept = draws[:-1]  # the last stays in flight over the cut
            events += [
                draws,
                sampler.observe(kept, answer(kept), policy_version=version),
                sampler.update_estimator(),
            ]
        return events

    whole = start()
    expected = play(whole, range(10))
    first, second = start(), start()
    events = play(first, range(cut))
    second.load_state_dict(first.state_dict())
    assert first.estimator and second.estimator
    second.estimator.load_state_dict(first.estimator.state_dict())
    assert repr(events + play(second, range(cut, 10))) == repr(expected)
    assert repr(second.metrics()) == repr(whole.metrics())


def test_late_duplicate_partial_unknown_and_foreign_observations() -> None:
    sampler = make()
    first, second, third, fourth = sampler.sample(4, policy_version=5)
    partial = sampler.observe([first], [[1.0, math.nan, 0.0, math.nan]], policy_version=5)[0]
    assert (partial.status, partial.informative, partial.pass_rate) == (
        VerdictStatus.LABELLED,
        True,
        0.5,
    )
    assert sampler.observe([first], [[0.0] * G], policy_version=5)[0].status is VerdictStatus.CLOSED
    unknown = sampler.observe([second], [[math.nan] * G], policy_version=5)[0]
    assert (unknown.status, unknown.informative) == (VerdictStatus.UNKNOWN, False)
    assert math.isnan(unknown.pass_rate)
    assert (
        sampler.observe([999], [[1.0] * G], policy_version=5)[0].status
        is VerdictStatus.NEVER_ISSUED
    )
    assert sampler.release([third]) == 1
    assert sampler.observe([third], [[1.0] * G], policy_version=9)[0].status is VerdictStatus.CLOSED
    assert (
        sampler.observe([fourth], [[0.0] * G], policy_version=2)[0].status is VerdictStatus.LABELLED
    )
    assert sampler.in_flight() == []
    metrics = sampler.metrics()
    assert (
        metrics["sampler/labelled"],
        metrics["sampler/unknown"],
        metrics["sampler/released"],
    ) == (2, 1, 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_pool_smaller_than_the_batch_gives_what_there_is(
    preset: str, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = make(size=5, preset=preset)
    assert len(sampler.sample(8, policy_version=0)) == 5
    assert sampler.sample(8, policy_version=1) == []
    assert "no more free prompts" in caplog.text
    assert sampler.metrics()["sampler/short_calls"] == 2


@pytest.mark.parametrize("preset", PRESETS)
def test_only_named_prompts_are_drawn_all_of_them_judged_by_their_text(
    preset: str, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = make(preset=preset, warmup_steps=0)
    held = sampler.sample(5, policy_version=0, among=range(10))
    named = np.arange(3, 33)
    draws = sampler.sample(6, policy_version=1, among=named)
    free = {sampler.prompts[position].id for position in named} - {draw.prompt.id for draw in held}
    assert len(draws) == 6 and {draw.prompt.id for draw in draws} <= free
    assert sampler.totals()["sampler/scanned"] == 10 + len(free)
    assert [draw.predicted_reward for draw in draws] == LengthEstimator().predict(
        [draw.prompt.text for draw in draws]
    ).tolist()
    assert sampler.sample(3, policy_version=2, among=[]) == []
    assert "0 draws instead of 3: `among` of 0 has no more free prompts" in caplog.text
    assert len(sampler.sample(7, policy_version=3)) == 7


@pytest.mark.parametrize("preset", ["depo_paper", "depo"])
def test_hopeless_pool_is_filled_within_the_scan_cap(preset: str) -> None:
    prompts = [Prompt(text="y" * 40 + str(index)) for index in range(500)]
    config = SelectorConfig.from_preset(preset, warmup_steps=0, scan_cap=10)
    sampler = PromptSampler(prompts, G, config, LengthEstimator(), 0)
    for version in range(5):
        scanned = sampler.metrics()["sampler/scanned"]
        draws = sampler.sample(6, policy_version=version)
        assert len(draws) == 6
        assert sampler.metrics()["sampler/scanned"] - scanned <= 10 * 6
        sampler.observe(draws, [[0.0] * G] * 6, policy_version=version)
    if preset == "depo_paper":
        assert {draw.kind for draw in draws} == {DrawKind.FILL}
        assert sampler.metrics()["sampler/starved_calls"] == 5


def test_window_admits_what_the_estimator_predicts_inside() -> None:
    sampler = make(size=200, preset="depo_paper", warmup_steps=2)
    for version in range(8):
        draws = sampler.sample(6, policy_version=version)
        if version < 2:
            assert {draw.kind for draw in draws} == {DrawKind.WARMUP}
        else:
            assert all(
                0.15 <= draw.predicted_reward <= 0.85
                for draw in draws
                if draw.kind is DrawKind.SELECTED
            )
        sampler.observe(draws, answer(draws), policy_version=version)


def test_history_overrules_a_useless_text_prediction() -> None:
    """Half of the prompts always split, half never do, and the text says nothing.

    After some visits the former are drawn more often.
    """
    prompts = [Prompt(text=f"p{index:03d}") for index in range(80)]
    sampler = PromptSampler(prompts, G, SelectorConfig.from_preset("depo", warmup_steps=0), None, 0)
    hits = []
    for version in range(60):
        draws = sampler.sample(8, policy_version=version)
        informative = [int(draw.prompt.text[1:]) % 2 == 0 for draw in draws]
        sampler.observe(
            draws,
            [[1.0, 0.0, 1.0, 0.0] if split else [0.0] * G for split in informative],
            policy_version=version,
        )
        hits.append(np.mean(informative))
    assert hits[0] < 0.75
    assert np.mean(hits[-20:]) > 0.85


def test_rewards_of_any_scale() -> None:
    sampler = make(success_threshold=0.0)
    draws = sampler.sample(2, policy_version=0)
    mixed, flat = sampler.observe(draws, [[-1.0, 1.0, -1.0, 1.0], [-1.0] * G], policy_version=0)
    assert (mixed.informative, mixed.pass_rate, mixed.mean_reward) == (True, 0.5, 0.0)
    assert (flat.informative, flat.pass_rate, flat.mean_reward) == (False, 0.0, -1.0)


def test_update_estimator_gives_fresh_targets_first_then_replay() -> None:
    sampler = make()
    assert sampler.update_estimator() == {}
    draws = sampler.sample(6, policy_version=0)
    sampler.observe(draws, answer(draws), policy_version=0, logprobs=[-0.5] * 6)
    assert sampler.update_estimator(replay_steps=2, replay_batch=4) == {"estimator/batches": 3.0}
    fresh, *replayed = sampler.estimator.batches  # type: ignore[union-attr]
    assert sorted(fresh.texts) == sorted(draw.prompt.text for draw in draws)
    assert np.allclose(fresh.logprob_targets, math.exp(-0.5))
    assert all(len(batch.texts) == 4 for batch in replayed)


def test_state_survives_another_order_and_a_larger_pool() -> None:
    prompts = pool(30)
    sampler = PromptSampler(prompts, G, SelectorConfig.from_preset("depo", warmup_steps=0), None, 1)
    draws = sampler.sample(10, policy_version=0)
    sampler.observe(draws, [[1.0] * G] * 10, policy_version=0)
    other = PromptSampler(
        [*reversed(pool(40))], G, SelectorConfig.from_preset("depo", warmup_steps=0), None, 1
    )
    with pytest.raises(StateError):
        other.load_state_dict(sampler.state_dict())
    assert other.load_state_dict(sampler.state_dict(), strict=False) == {
        "matched": 30,
        "missing": 0,
        "added": 10,
    }
    known = {draw.prompt.id for draw in draws}
    places = [index for index, prompt in enumerate(other.prompts) if prompt.id in known]
    back = [
        index
        for place in places
        for index, prompt in enumerate(prompts)
        if prompt.id == other.prompts[place].id
    ]
    assert np.array_equal(
        other.beliefs(places, policy_version=1)[1], sampler.beliefs(back, policy_version=1)[1]
    )


def test_source_floors_are_kept() -> None:
    sampler = make(size=120, source_floors={"b": 0.5}, explore_share=0.0)
    for version in range(10):
        draws = sampler.sample(8, policy_version=version)
        if version >= 1:
            assert sum(draw.prompt.source == "b" for draw in draws) >= 4
        sampler.observe(draws, answer(draws), policy_version=version)


def test_threshold_is_met_by_a_reward_of_equal_value() -> None:
    sampler = make(success_threshold=0.9)
    draws = sampler.sample(1, policy_version=0)
    assert sampler.observe(draws, [[0.9] * G], policy_version=0)[0].pass_rate == 1.0


def test_what_a_window_never_sees_is_not_estimated() -> None:
    sampler = make(size=200, preset="depo_paper", warmup_steps=0)
    for version in range(4):
        draws = sampler.sample(6, policy_version=version)
        sampler.observe(draws, answer(draws), policy_version=version)
    assert sampler.metrics()["sampler/rejected"] > 0
    assert math.isnan(sampler.metrics()["calibration/unfiltered_informative_share"])


def test_window_that_rejects_nothing_warns(caplog: pytest.LogCaptureFixture) -> None:
    prompts = [Prompt(text=f"{index:06d}") for index in range(300)]
    sampler = PromptSampler(
        prompts, G, SelectorConfig.from_preset("depo_paper", warmup_steps=0), LengthEstimator(), 0
    )
    for version in range(25):
        draws = sampler.sample(4, policy_version=version)
        sampler.observe(draws, [[0.0, 1.0, 0.0, 1.0]] * 4, policy_version=version)
    assert "nothing was rejected in the last 20 batches" in caplog.text
