"""Weights of groups: against a slow reference, and laws of what they do to the loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.config import LossConfig
from depo.training.learner.advantages import group_advantages
from depo.training.learner.group_weights import (
    DaroWeights,
    importance_weights,
    pass_rate_levels,
    static_power,
)
from depo.types.errors import ConfigError, StateError
from tests.training.learner import reference_losses

GROUP_SIZE = 8
BINARY_BG = np.tril(np.ones((GROUP_SIZE, GROUP_SIZE), np.float32))[:-1]
"""One group for each pass rate 1/G .. (G-1)/G."""

groups = st.tuples(st.integers(1, GROUP_SIZE - 1), st.integers(1, 500), st.floats(-300, 300))
batches = st.lists(groups, min_size=1, max_size=12)


def daro_config(**settings: Any) -> LossConfig:
    return LossConfig(group_weighting="daro", **settings)


def call(daro: DaroWeights, batch: list[tuple[int, int, float]]) -> np.ndarray:
    levels_B, tokens_B, losses_B = (np.array(column) for column in zip(*batch, strict=True))
    return daro(levels_B, tokens_B, losses_B)


@pytest.mark.parametrize(("scale_by_std", "power"), [(True, -0.5), (False, -1.0)])
def test_the_power_that_flattens_a_baseline_makes_all_groups_count_alike(
    scale_by_std: bool, power: float
) -> None:
    """Sum of |advantage| is 2 G sqrt(mu (1 - mu)) with GRPO's scaling, 2 G mu (1 - mu) without."""
    config = LossConfig(scale_by_std=scale_by_std, std_ddof=0, std_epsilon=0.0)
    mass_B = np.abs(group_advantages(BINARY_BG, config, 1e-6)[0]).sum(1, dtype=np.float64)
    weights_B = static_power(BINARY_BG.mean(1), power)
    np.testing.assert_allclose(weights_B * mass_B, (weights_B * mass_B)[0], rtol=1e-5)
    assert mass_B.max() > 1.4 * mass_B.min()


@given(
    rates=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=20),
    power=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
def test_static_power_has_mean_one_ratios_of_the_formula_and_no_order(
    rates: list[float], power: float, seed: int
) -> None:
    weights_B = static_power(rates, power)
    assert weights_B.mean() == pytest.approx(1)
    assert weights_B[0] / weights_B[-1] == pytest.approx(
        (rates[0] * (1 - rates[0]) / (rates[-1] * (1 - rates[-1]))) ** power
    )
    order = np.random.default_rng(seed).permutation(len(rates))
    np.testing.assert_allclose(
        static_power(np.array(rates)[order], power), weights_B[order], rtol=1e-12
    )


@given(group_size=st.integers(2, 40), n_known=st.integers(1, 40), seed=st.integers(0, 999))
def test_levels_are_the_number_of_right_answers_or_the_nearest_that_has_a_gradient(
    group_size: int, n_known: int, seed: int
) -> None:
    assert pass_rate_levels(np.arange(1, group_size) / group_size, group_size).tolist() == [
        *range(1, group_size)
    ]
    rate = np.random.default_rng(seed).integers(0, n_known + 1) / n_known
    (level,) = pass_rate_levels([rate], group_size)
    assert 1 <= level <= group_size - 1
    assert all(
        abs(level / group_size - rate) <= abs(k / group_size - rate) + 1e-12
        for k in range(1, group_size)
    )


@given(
    history=st.lists(batches, min_size=1, max_size=4),
    decay=st.sampled_from([0.0, 0.5, 0.9]),
    min_groups=st.integers(1, 5),
)
def test_daro_is_the_slow_reference(
    history: list[list[tuple[int, int, float]]], decay: float, min_groups: int
) -> None:
    config = daro_config(
        daro_decay=decay, daro_min_groups=min_groups, daro_min_weight=0.5, daro_max_weight=30.0
    )
    daro = DaroWeights(config, GROUP_SIZE)
    for batch in history:
        weights_B = call(daro, batch)
    np.testing.assert_allclose(weights_B, reference_losses.daro_weights(history, config), rtol=1e-9)


@given(history=st.lists(batches, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_daro_weights_have_mean_one_over_tokens_and_go_with_their_group(
    history: list[list[tuple[int, int, float]]], seed: int
) -> None:
    one, other = (DaroWeights(daro_config(), GROUP_SIZE) for _ in range(2))
    for batch in history:
        order = np.random.default_rng(seed).permutation(len(batch))
        weights_B, permuted_B = call(one, batch), call(other, [batch[index] for index in order])
        np.testing.assert_allclose(permuted_B, weights_B[order], rtol=1e-9)
        assert np.average(weights_B, weights=[tokens for _, tokens, _ in batch]) == pytest.approx(1)


def test_at_the_fixed_point_every_pass_rate_contributes_the_same_loss() -> None:
    """Started from other losses, with crowds of different sizes.

    Signs stay, because a length gap of either sign is what it is.
    """
    rng = np.random.default_rng(0)
    batch = [
        (level, int(rng.integers(50, 400)), float(rng.uniform(5, 40)))
        for level in (1, 2, 2, 2, 5, 7, 7)
    ]
    batch = [(level, tokens, -loss if level == 5 else loss) for level, tokens, loss in batch]
    daro = DaroWeights(
        daro_config(daro_min_groups=1, daro_min_weight=1e-3, daro_max_weight=1e6), GROUP_SIZE
    )
    call(daro, [(level, tokens, 3 * tokens * level) for level, tokens, _ in batch])
    for _ in range(400):
        weights_B = call(daro, batch)
    contributions = {
        level: sum(w * loss for w, (k, _, loss) in zip(weights_B, batch, strict=True) if k == level)
        for level in (1, 2, 5, 7)
    }
    assert contributions[5] < 0
    assert [abs(value) for value in contributions.values()] == pytest.approx(
        [contributions[1]] * 4, rel=1e-6
    )


@given(
    losses=st.lists(
        st.sampled_from([0.0, -0.0, -1e-30, 1e-300, -50.0, 1e6]), min_size=2, max_size=7
    ),
    steps=st.integers(1, 30),
)
def test_zero_and_negative_losses_do_not_diverge(losses: list[float], steps: int) -> None:
    """Weights of equally long pass rates differ by daro_max_weight / daro_min_weight at most."""
    daro = DaroWeights(daro_config(daro_min_groups=1), GROUP_SIZE)
    for _ in range(steps):
        weights_B = call(daro, [(level, 100, loss) for level, loss in enumerate(losses, start=1)])
    assert np.isfinite(weights_B).all()
    assert weights_B.min() > 0
    assert weights_B.max() <= 20.0 * weights_B.min() * (1 + 1e-9)


def test_a_single_group_does_not_get_the_loss_of_a_crowd() -> None:
    crowd = [(4, 100, 10.0)] * 12
    for min_groups, expected in ((1, 12.0), (4, 3.0), (12, 1.0)):
        weights_B = call(
            DaroWeights(daro_config(daro_min_groups=min_groups), GROUP_SIZE),
            [(1, 100, 10.0), *crowd],
        )
        assert weights_B[0] / weights_B[1] == pytest.approx(expected)


def test_groups_without_a_single_token_have_no_say() -> None:
    daro = DaroWeights(daro_config(), GROUP_SIZE)
    assert np.isfinite(call(daro, [(1, 0, 0.0), (2, 50, 5.0)])).all()
    assert call(daro, [(1, 0, 0.0)]).tolist() == [1.0]
    assert np.isnan(daro.state_dict()["mean_losses"][1])
    assert daro(np.zeros(0, np.int64), [], []).shape == (0,)


@given(history=st.lists(batches, min_size=2, max_size=5), cut=st.integers(0, 4))
def test_daro_continues_bit_for_bit(history: list[list[tuple[int, int, float]]], cut: int) -> None:
    whole = DaroWeights(daro_config(), GROUP_SIZE)
    for batch in history[:cut]:
        call(whole, batch)
    resumed, state = DaroWeights(daro_config(), GROUP_SIZE), whole.state_dict()
    resumed.load_state_dict(state)
    for batch in history[cut:]:
        assert call(whole, batch).tobytes() == call(resumed, batch).tobytes()
    fresh = DaroWeights(daro_config(), GROUP_SIZE)
    fresh.load_state_dict(state)
    assert fresh.state_dict()["mean_losses"].tobytes() == state["mean_losses"].tobytes(), (
        "a state is not written to"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version: got 2, expected 1"),
        ({"mean_losses": np.ones(5)}, r"of shape \(5,\), expected \(8,\)"),
        ({"mean_losses": -np.ones(8)}, "expected finite values >= 0, or NaN"),
        ({"mean_losses": np.full(8, math.inf)}, "expected finite values >= 0, or NaN"),
    ],
)
def test_a_foreign_state_is_refused(change: dict[str, Any], words: str) -> None:
    daro = DaroWeights(daro_config(), GROUP_SIZE)
    with pytest.raises(StateError, match=words):
        daro.load_state_dict(daro.state_dict() | change)


@given(admissions=st.lists(st.floats(1e-6, 1), max_size=9), cap=st.floats(1, 100))
def test_importance_weights_are_capped_inverses(admissions: list[float], cap: float) -> None:
    assert importance_weights(admissions, cap).tolist() == [
        min(1 / admission, cap) for admission in admissions
    ]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"^admissions_B: got 0.0, expected values in \(0, 1\]"):
        importance_weights([0.5, 0.0], 10)
    for rate in (math.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match=r"^pass_rates_B: got .*, expected values in \[0, 1\]"):
            pass_rate_levels([0.5, rate], 4)
    with pytest.raises(ValueError, match=r"^pass_rates_B: got 1.0, expected values in \(0, 1\)"):
        static_power([0.5, 1.0], -0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"group_weighting": "daro", "aggregation": "sequence_mean"},
            "loss.aggregation: got 'sequence_mean', expected token_mean or constant",
        ),
        (
            {"daro_min_weight": 5.0, "daro_max_weight": 4.0},
            "loss.daro_max_weight: got 4.0, expected at least loss.daro_min_weight = 5.0",
        ),
        ({"surrogate": "cispo", "dual_clip": 3.0}, "loss.dual_clip: got 3.0, expected off"),
        ({"mask": "nthr"}, "loss.mask: got 'nthr', expected dagrpo, module:function"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        LossConfig(**settings)
    with pytest.raises(ConfigError, match=words):
        LossConfig.from_preset("dapo", **settings)
