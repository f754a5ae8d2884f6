"""The beliefs through the bindings, against slow references (tests/reference.py).

What fits learn is tested beside the core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo import SelectorConfig, _core
from depo.sampler.core import core_settings
from tests.sampler import reference

G = 8
SETTINGS: Mapping[str, Any] = core_settings(SelectorConfig()) | {
    "group_size": G,
    "seed": 3,
    "rule": "uniform",
    "warmup_steps": 0,
    "explore_share": 0.0,
    "source_floors": [0.0],
}
PREDICTIONS = st.one_of(st.just(math.nan), st.floats(0, 1, width=32))


def build(n_prompts: int, **changes: Any) -> _core.Sampler:
    return _core.Sampler(
        np.arange(n_prompts), np.zeros(n_prompts, np.uint32), **{**SETTINGS, **changes}
    )


@settings(deadline=None, max_examples=50)
@given(
    batches=st.lists(
        st.tuples(
            st.integers(1, 6),
            st.integers(0, 12),
            st.lists(st.integers(0, 4), min_size=6, max_size=6),
            st.lists(PREDICTIONS, min_size=6, max_size=6),
        ),
        max_size=12,
    ),
    repeats=st.sampled_from([1, 6]),
    fit=st.booleans(),
    use_history=st.booleans(),
    parameters=st.tuples(st.floats(0.1, 5), st.floats(0, 20), st.floats(0.5, 1)),
)
def test_discounted_beta_equals_the_reference(
    batches: list[Any],
    repeats: int,
    fit: bool,
    use_history: bool,
    parameters: tuple[float, float, float],
) -> None:
    """Six prompts, of which some are drawn uniformly, so that labels weigh differently.

    Versions in any order; fits begin with the 32nd label.
    """
    options = dict(
        zip(("base_concentration", "text_concentration", "discount"), parameters, strict=True)
    )
    sampler = build(
        6,
        group_size=4,
        belief="beta",
        belief_options=options,
        fit_belief=fit,
        use_history=use_history,
    )
    expected = reference.BetaBelief(*parameters, fit=fit, use_history=use_history)
    stored = np.full(6, math.nan)
    for n, version, successes, predictions in batches * repeats:
        candidates = sampler.propose(n, version, range(6))
        sampler.offer(candidates, np.array(predictions)[candidates], version)
        stored = np.where(np.isnan(predictions), stored, predictions)
        draws = sampler.take(n, version)
        sampler.observe(
            draws["draw_ids"],
            np.arange(4) < np.array(successes)[draws["prompts"], None],
            np.full(n, math.nan),
            version,
        )
        for prompt, admission in zip(draws["prompts"], draws["admissions"], strict=True):
            expected.observe(
                reference.Label(
                    prompt, successes[prompt], 4, version, stored[prompt], 1 / admission
                )
            )
    fitted = (expected.rate, *expected.prior.value(), *expected.memory.value())
    assert [*sampler.belief_parameters().values()] == pytest.approx(fitted, rel=1e-4)
    believed = sampler.beliefs(range(6), np.full(6, math.nan), 10)
    for prompt in range(6):
        alpha, beta = expected.posterior(prompt, stored[prompt], 10)
        assert believed["pass_rates"][prompt] == pytest.approx(alpha / (alpha + beta), abs=1e-4)
        assert believed["p_informative"][prompt] == pytest.approx(
            reference.p_informative(alpha, beta, 4), abs=1e-4
        )


PRECISIONS = st.one_of(st.just(0.0), st.floats(0.01, 1))
WALKS = st.fixed_dictionaries(
    {
        "prior_variance": st.floats(0.5, 8),
        "text_precision": PRECISIONS,
        "text_precision_labelled": PRECISIONS,
        "drift": st.floats(-0.1, 0.1),
        "noise": st.floats(0.005, 0.3),
        "spread": st.floats(-0.02, 0.02),
    }
)
LIKELY = st.one_of(st.just(math.nan), st.floats(0.125, 0.875, width=32))
"""Predictions that labels may contradict without leaving the nodes that the core integrates on."""


def label(
    sampler: _core.Sampler, prompt: int, successes: int, prediction: float, version: int
) -> None:
    sampler.offer(sampler.propose(1, version, [prompt]), [prediction], version)
    sampler.observe(
        sampler.take(1, version)["draw_ids"], np.arange(G)[None] < successes, [math.nan], version
    )


@settings(deadline=None, max_examples=50)
@given(
    options=WALKS,
    of_another=st.integers(0, 8),
    labels=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8), LIKELY), max_size=6),
    asked=st.tuples(st.integers(0, 10), LIKELY),
)
def test_logit_normal_equals_moment_matching_on_a_fine_grid(
    options: Mapping[str, float], of_another: int, labels: list[Any], asked: tuple[int, float]
) -> None:
    """One prompt; the label of another one moves the base rate."""
    sampler = build(2, belief="logit_normal", belief_options=options, fit_belief=False)
    label(sampler, 1, of_another, math.nan, 0)
    rate = reference.base_rate([reference.Label(1, of_another, 8, 0, math.nan)])
    expected = reference.LogitNormalBelief(reference.Walk(**options), rate, matched=True)
    version, stored = 0, math.nan
    for elapsed, successes, prediction in labels:
        version += elapsed
        stored = stored if math.isnan(prediction) else prediction
        label(sampler, 0, successes, prediction, version)
        expected.wait(elapsed)
        expected.observe(successes, 8, stored)
    elapsed, prediction = asked
    expected.wait(elapsed)
    believed = sampler.beliefs([0], [prediction], version + elapsed)
    pass_rate, informative = expected.forecast(stored if math.isnan(prediction) else prediction, 8)
    assert believed["pass_rates"][0] == pytest.approx(pass_rate, abs=0.01)
    assert believed["p_informative"][0] == pytest.approx(informative, abs=0.01)


def test_logit_normal_is_near_to_bayes_rule_on_prompts_that_it_describes() -> None:
    """Moment matching costs .01 of P(informative) on average over prompts.

    That walk as the belief has it, and .1 at worst.
    """
    rng, errors = np.random.default_rng(0), []
    walk = reference.Walk(5.0, 0.5, 0.2, 0.02, 0.03, 0.005)
    for _ in range(60):
        sampler = build(1, belief="logit_normal", belief_options=asdict(walk), fit_belief=False)
        exact = reference.LogitNormalBelief(walk, 0.5, matched=False)
        logit, version = rng.normal(0, math.sqrt(walk.prior_variance)), 0
        prediction = 1 / (1 + math.exp(-rng.normal(logit, 1)))
        for elapsed in rng.integers(1, 6, 5).tolist():
            successes, version = int(rng.binomial(8, 1 / (1 + math.exp(-logit)))), version + elapsed
            label(sampler, 0, successes, prediction, version)
            exact.observe(successes, 8, prediction)
            logit = rng.normal(
                logit * math.exp(walk.spread * elapsed) + walk.drift * elapsed,
                math.sqrt(walk.noise * elapsed),
            )
            exact.wait(elapsed)
            errors.append(
                abs(
                    sampler.beliefs([0], [math.nan], version + elapsed)["p_informative"][0]
                    - exact.forecast(prediction, 8)[1]
                )
            )
    assert np.mean(errors) < 0.01 and max(errors) < 0.1
