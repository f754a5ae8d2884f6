"""Group advantages and DAPO's length penalty against slow references and laws."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.config import LossConfig
from depo.training.learner.advantages import group_advantages, overlong_penalties
from tests.training.learner import reference_losses

TOLERANCE = 1e-4
REWARDS = st.one_of(
    st.sampled_from([0.0, 1.0, math.nan]),
    st.integers(-4000, 4000).map(lambda thousandths: thousandths / 1000),
)


@given(
    rewards=st.integers(2, 8).flatmap(
        lambda size: st.lists(
            st.lists(REWARDS, min_size=size, max_size=size), min_size=1, max_size=5
        )
    ),
    scale_by_std=st.booleans(),
    std_ddof=st.sampled_from([0, 1]),
)
def test_group_advantages_by_cases(
    rewards: list[list[float]], scale_by_std: bool, std_ddof: int
) -> None:
    config = LossConfig(scale_by_std=scale_by_std, std_ddof=std_ddof)
    rewards_BG = np.array(rewards, np.float32)
    advantages_BG, informative_B = group_advantages(rewards_BG, config, TOLERANCE)
    assert advantages_BG.dtype == np.float32 and informative_B.dtype == np.bool_
    expected_BG = np.array(
        [
            reference_losses.advantages(rewards_G, config, TOLERANCE)
            for rewards_G in rewards_BG.tolist()
        ]
    )
    np.testing.assert_allclose(advantages_BG, expected_BG, rtol=1e-5, atol=1e-6)
    assert informative_B.tolist() == [bool(np.any(expected_G)) for expected_G in expected_BG]


def test_the_deviation_takes_its_epsilon_from_the_configuration() -> None:
    rewards_BG = np.array([[0.0, 1.0]], np.float32)
    wide, _ = group_advantages(rewards_BG, LossConfig(std_epsilon=0.5, std_ddof=0), 0.0)
    np.testing.assert_allclose(wide, [[-0.5, 0.5]], rtol=1e-6)


@given(max_new_tokens=st.integers(1, 60), buffer=st.integers(0, 60), penalty=st.floats(0, 3))
def test_overlong_penalties_by_cases(max_new_tokens: int, buffer: int, penalty: float) -> None:
    buffer = min(buffer, max_new_tokens)
    lengths = np.arange(max_new_tokens + 3)

    def by_cases(length: int) -> float:
        if buffer == 0 or length <= max_new_tokens - buffer:
            return 0.0
        return (
            penalty * (max_new_tokens - buffer - length) / buffer
            if length <= max_new_tokens
            else -penalty
        )

    got = overlong_penalties(lengths, max_new_tokens, buffer, penalty)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [by_cases(length) for length in lengths], rtol=1e-6, atol=1e-7)
    assert overlong_penalties(lengths[None], max_new_tokens, buffer, penalty).shape == (
        1,
        lengths.size,
    )


@pytest.mark.parametrize(
    ("argument", "settings"),
    [
        ("lengths", {"lengths": [3, -1]}),
        ("buffer", {"buffer": 9}),
        ("buffer", {"buffer": -1}),
        ("penalty", {"penalty": -0.1}),
    ],
)
def test_overlong_penalties_names_the_bad_argument(argument: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: got .*expected"):
        overlong_penalties(
            **{"lengths": [3], "max_new_tokens": 8, "buffer": 4, "penalty": 1.0} | settings
        )
