"""Probes: what `max_age` promises, what they cost, and what is learned from them.

As the user of PromptSampler meets them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo import Draw, DrawKind
from depo.config.presets import SELECTOR_PRESETS
from tests.sampler.sampler_helpers import G, LengthEstimator, answer, make


@pytest.mark.parametrize("preset", SELECTOR_PRESETS)
@settings(max_examples=15, deadline=None)
@given(
    max_age=st.integers(2, 8),
    probe_rollouts=st.sampled_from(["all", *range(1, G + 1)]),
    n=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_no_prompt_stays_unlabelled_for_longer_than_max_age(
    preset: str, max_age: int, probe_rollouts: int | str, n: int, seed: int
) -> None:
    """Over a pool that one batch of probes can reach.

    Also all batches together cost what was asked for, to within one group.
    """
    size = n * (G // (G if probe_rollouts == "all" else probe_rollouts))
    sampler = make(
        size, preset, seed=seed, max_age=max_age, probe_rollouts=probe_rollouts, reprobe_share=1.0
    )
    labelled_at = dict.fromkeys((prompt.id for prompt in sampler.prompts), -1)
    n_rollouts = 0
    for version in range(4 * max_age):
        draws = sampler.sample(n, policy_version=version)
        for draw in draws:
            assert (
                draw.n_rollouts == (G if probe_rollouts == "all" else probe_rollouts)
                if draw.kind is DrawKind.REPROBE
                else draw.n_rollouts == G
            )
            labelled_at[draw.prompt.id] = version
        sampler.observe(draws, answer(draws), policy_version=version)
        assert (
            max(version - seen for seen in labelled_at.values())
            == sampler.totals()["sampler/oldest_label_age"]
            < max_age
        )
        n_rollouts += sum(draw.n_rollouts for draw in draws)
        assert 0 <= n_rollouts - n * G * (version + 1) < G


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.01, 1), probe_rollouts=st.integers(1, G - 1), n=st.integers(1, 10))
def test_probes_take_no_more_than_their_share(
    share: float, probe_rollouts: int | str, n: int
) -> None:
    sampler = make(400, max_age=2, probe_rollouts=probe_rollouts, reprobe_share=share)
    most = max(1, math.floor(share * n * G / probe_rollouts + 1e-9))
    probed = []
    for version in range(6):
        draws = sampler.sample(n, policy_version=version)
        probed.append(sum(draw.kind is DrawKind.REPROBE for draw in draws))
        sampler.observe(draws, answer(draws), policy_version=version)
    assert probed[0] == 0 and max(probed) <= most
    assert max(probed) > 0


def sampled_with_probes(probe_rollouts: int | str) -> tuple[list[Draw], LengthEstimator, int]:
    """Return some draws, probes among them, the estimator that learned from their answers.

    Also how many groups calibration counts.
    """
    sampler = make(60, max_age=3, probe_rollouts=probe_rollouts, reprobe_share=0.5, warmup_steps=0)
    drawn: list[Draw] = []
    for version in range(8):
        draws = sampler.sample(6, policy_version=version)
        verdicts = sampler.observe(draws, answer(draws), policy_version=version)
        expected = [np.nanmean(rewards) for rewards in answer(draws)]
        assert [verdict.pass_rate for verdict in verdicts] == pytest.approx(expected)
        assert all(
            not verdict.informative
            for draw, verdict in zip(draws, verdicts, strict=True)
            if draw.n_rollouts == 1
        )
        drawn += draws
        sampler.update_estimator(replay_steps=0)
    assert (
        sampler.totals()["sampler/drawn_reprobe"]
        == sum(draw.kind is DrawKind.REPROBE for draw in drawn)
        > 5
    )
    assert isinstance(sampler.estimator, LengthEstimator)
    return drawn, sampler.estimator, sampler.state_dict()["calibration"]["total"]


@pytest.mark.parametrize("probe_rollouts", [1, 3, "all"])
def test_the_estimator_learns_from_a_probe_as_much_as_it_has_rollouts(
    probe_rollouts: int | str,
) -> None:
    draws, estimator, _ = sampled_with_probes(probe_rollouts)
    weights = np.concatenate([batch.weights for batch in estimator.batches])
    counts = np.concatenate([batch.counts for batch in estimator.batches])
    assert counts.tolist() == [draw.n_rollouts for draw in draws]
    expected = [min(1 / draw.admission, 10.0) * draw.n_rollouts / G for draw in draws]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert all(draw.admission == 1.0 for draw in draws if draw.kind is DrawKind.REPROBE)


@pytest.mark.parametrize("probe_rollouts", [1, 3, "all"])
def test_calibration_counts_full_groups_alone(probe_rollouts: int | str) -> None:
    draws, _, counted = sampled_with_probes(probe_rollouts)
    assert counted == sum(draw.n_rollouts == G for draw in draws)
