"""Exploration by clusters (selection.explore_by) as the user of PromptSampler meets it.

Its arithmetic is tested in the core.
"""

from __future__ import annotations

import math

import pytest

from depo import ConfigError, Draw, DrawKind, Prompt, PromptSampler, SelectorConfig

ALWAYS_SPLIT = "b"
"""The source of which every group is informative; groups of the other one never are.

The belief is kept from knowing.
"""


def build(explore_by: str) -> PromptSampler:
    prompts = [Prompt(text=str(index), source="ab"[index % 2]) for index in range(600)]
    config = SelectorConfig.from_preset(
        "depo", warmup_steps=0, use_history=False, explore_share=0.5, explore_by=explore_by
    )
    return PromptSampler(prompts, 4, config, None, 7)


def play(sampler: PromptSampler, versions: range) -> list[Draw]:
    """Return the explored draws."""
    explored: list[Draw] = []
    for version in versions:
        draws = sampler.sample(8, policy_version=version)
        sampler.observe(
            draws,
            [[1.0, 1.0, 1.0, float(draw.prompt.source != ALWAYS_SPLIT)] for draw in draws],
            policy_version=version,
        )
        explored += [draw for draw in draws if draw.kind is DrawKind.EXPLORE]
    return explored


def test_ucb_explores_the_source_that_teaches_and_claims_nothing_of_the_other() -> None:
    shares = {}
    for explore_by in ("uniform", "ucb"):
        sampler = build(explore_by)
        explored = play(sampler, range(40))
        assert len(explored) == 40 * 4
        assert all(0 < draw.admission <= 1 for draw in explored)
        shares[explore_by] = sum(draw.prompt.source == ALWAYS_SPLIT for draw in explored) / len(
            explored
        )
        about_rejected = (
            "calibration/false_reject_rate",
            "calibration/lost_share",
            "calibration/unfiltered_informative_share",
        )
        assert {math.isnan(sampler.metrics()[name]) for name in about_rejected} == {
            explore_by == "ucb"
        }
    assert abs(shares["uniform"] - 0.5) < 0.15
    assert shares["ucb"] > 0.75


def test_what_ucb_learned_survives_a_restart() -> None:
    whole, restarted, ignorant = build("ucb"), build("ucb"), build("ucb")
    play(whole, range(12))
    restarted.load_state_dict(whole.state_dict())
    ignorant.load_state_dict(
        {**whole.state_dict(), "core": {**whole.state_dict()["core"], **forgotten(ignorant)}}
    )
    following = [
        [(draw.prompt.id, draw.admission) for draw in play(sampler, range(12, 20))]
        for sampler in (whole, restarted, ignorant)
    ]
    assert following[0] == following[1] != following[2]


def forgotten(fresh: PromptSampler) -> dict[str, object]:
    """Return what a sampler that explored nothing knows of the clusters."""
    return {
        name: entry
        for name, entry in fresh.state_dict()["core"].items()
        if name.startswith("exploration.")
    }


def test_another_way_to_explore_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"selection.explore_by.*got 'best', expected one of uniform, ucb"
    ):
        SelectorConfig(explore_by="best")  # type: ignore[arg-type]
