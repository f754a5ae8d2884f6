"""Candidates from the whole pool, through the Python face."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from depo import PromptSampler, SelectorConfig
from depo.types.errors import ConfigError

G, N, PLACES = 8, 400, 10
LEARNABLE = N // 5


def build(preset: str, **settings: Any) -> PromptSampler:
    config = SelectorConfig.from_preset(preset, candidates_from="pool", warmup_steps=0, **settings)
    return PromptSampler(
        [f"prompt {index}" for index in range(N)], group_size=G, config=config, seed=3
    )


def rewards_of(texts: list[str], version: int) -> np.ndarray[Any, Any]:
    """Prompts with a low number are solved half of the time, the others never."""
    rng = np.random.default_rng(version)
    rates = np.array([0.5 if int(text.split()[1]) < LEARNABLE else 0.0 for text in texts])
    return (rng.random((len(texts), G)) < rates[:, None]).astype(float)


def play(sampler: PromptSampler, versions: range) -> list[list[str]]:
    """Draw and observe; the texts drawn at each version."""
    drawn = []
    for version in versions:
        draws = sampler.sample(PLACES, policy_version=version)
        texts = [draw.prompt.text for draw in draws]
        sampler.observe(draws, rewards_of(texts, version), policy_version=version)
        drawn.append(texts)
    return drawn


@pytest.mark.parametrize("preset", ["depo", "mopps", "prime_pools"])
def test_a_resumed_search_finds_what_the_search_would_have_found(preset: str) -> None:
    whole = build(preset)
    play(whole, range(30))
    resumed = build(preset)
    resumed.load_state_dict(whole.state_dict())
    assert play(resumed, range(30, 50)) == play(whole, range(30, 50))


def test_the_whole_pool_is_searched_and_prompts_rest() -> None:
    sampler = build("depo", min_age=4, explore_share=0.0)
    drawn = play(sampler, range(80))
    learnable = [[int(text.split()[1]) < LEARNABLE for text in texts] for texts in drawn]
    assert np.mean(learnable[:20]) < 0.4 < 0.8 < np.mean(learnable[60:]), (
        "once every prompt is known, nearly all places go to those that are worth it"
    )
    last: dict[str, int] = {}
    gaps = []
    for version, texts in enumerate(drawn):
        gaps += [version - last[text] for text in texts if text in last]
        last.update(dict.fromkeys(texts, version))
    assert np.mean(np.array(gaps) >= 4) > 0.9  # the others are met in epoch order


def test_in_flight_prompts_are_not_found() -> None:
    sampler = build("depo", min_age=0)
    play(sampler, range(10))
    drawn = [
        draw.prompt.id
        for version in range(10, 30)
        for draw in sampler.sample(PLACES, policy_version=version)
    ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "thompson"},
        {"belief": "beta"},
        {"use_history": False},
        {"candidates_per_draw": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_cannot_be_searched_is_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError,
        match=r"selection.candidates_from: got 'pool', expected epoch, or rule budget with",
    ):
        SelectorConfig.from_preset(
            settings.pop("preset", "depo"), candidates_from="pool", **settings
        )
