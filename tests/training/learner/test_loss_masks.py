"""Masks: DaGRPO's pairs by a slow similarity, users' functions, and what a mask may return."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.config import LossConfig
from depo.training.learner.loss_masks import apply_mask, load_mask, similarity_mask
from depo.types.errors import ConfigError
from depo.types.records import Float32Array, RolloutGroup

tokens = st.lists(st.integers(0, 3), max_size=12)


def group_of(*responses: list[int]) -> RolloutGroup:
    return RolloutGroup(
        prompt_ids=np.array([1]),
        response_ids=tuple(np.array(response, np.int64) for response in responses),
        rollout_logprobs=tuple(np.zeros(len(response), np.float32) for response in responses),
        finished=np.ones(len(responses), np.bool_),
        responses=("",) * len(responses),
        policy_version=0,
    )


def matching_tokens(first: list[int], second: list[int]) -> int:
    """Ratcliff and Obershelp's count by definition.

    The longest common block (earliest first), then the same left and right of it.
    """
    best = (0, 0, 0)
    for i, j in product(range(len(first)), range(len(second))):
        size = 0
        while (
            i + size < len(first) and j + size < len(second) and first[i + size] == second[j + size]
        ):
            size += 1
        best = max(best, (size, -i, -j))
    size, i, j = best[0], -best[1], -best[2]
    return size and size + matching_tokens(first[:i], second[:j]) + matching_tokens(
        first[i + size :], second[j + size :]
    )


@given(
    responses=st.lists(tokens, min_size=2, max_size=6),
    signs=st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=6, max_size=6),
    threshold=st.floats(0, 1),
)
def test_similar_responses_of_opposite_sign_are_left_out_and_no_others(
    responses: list[list[int]], signs: list[float], threshold: float
) -> None:
    advantages_G = np.array(signs[: len(responses)], np.float32)
    expected = [1.0] * len(responses)
    for right, wrong in product(range(len(responses)), repeat=2):
        first, second = responses[right], responses[wrong]
        length = len(first) + len(second)
        similarity = 2 * matching_tokens(first, second) / length if length else 1.0
        if advantages_G[right] > 0 > advantages_G[wrong] and similarity > threshold:
            expected[right] = expected[wrong] = 0.0
    assert (
        similarity_mask(
            group_of(*responses), advantages_G, advantages_G, threshold=threshold
        ).tolist()
        == expected
    )


def test_the_default_threshold_lets_one_token_in_forty_differ() -> None:
    mask = load_mask(LossConfig(mask="dagrpo"))
    base = [*range(40)]
    group = group_of(base, [*base[:20], 99, *base[21:]], [*base[:20], 98, 97, 96, *base[23:]])
    advantages_G = np.array([2.0, -1.0, -1.0], np.float32)
    assert mask(group, advantages_G, advantages_G).tolist() == [0.0, 0.0, 1.0]


def test_groups_without_advantage_are_not_shown() -> None:
    shown = []

    def mask(
        group: RolloutGroup, rewards_G: Float32Array, advantages_G: Float32Array
    ) -> list[float]:
        shown.append((group.response_ids[0].size, rewards_G.tolist(), advantages_G.tolist()))
        return [0.0, 0.5]

    groups = [group_of([1, 2], [3]), group_of([1], [1, 1, 1])]
    factors = apply_mask(
        mask,
        groups,
        np.array([[1, 1], [0, 1]], np.float32),
        np.array([[0, 0], [-1, 1]], np.float32),
    )
    assert shown == [(1, [0.0, 1.0], [-1.0, 1.0])]
    assert [[array.tolist() for array in of_group] for of_group in factors] == [
        [[1.0, 1.0], [1.0]],
        [[0.0], [0.5, 0.5, 0.5]],
    ]
    assert all(array.dtype == np.float32 for of_group in factors for array in of_group)


def test_token_factors_are_passed_through() -> None:
    factors = apply_mask(
        lambda *_: [np.array([0.5, 0.0]), [1]],
        [group_of([1, 2], [3])],
        np.zeros((1, 2), np.float32),
        np.ones((1, 2), np.float32),
    )
    assert [array.tolist() for array in factors[0]] == [[0.5, 0.0], [1.0]]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1.0], r"got factors of shapes \(\), expected 2 numbers or arrays of lengths \[2, 1\]"),
        ([1.0, 1.0, 1.0], r"got factors of shapes \(\), \(\), \(\), expected 2 numbers"),
        (
            [np.ones(2), np.ones(2)],
            r"got factors of shapes \(2,\), \(2,\), expected 2 numbers or arrays",
        ),
        ([np.ones(2), 1.0], r"got factors of shapes \(2,\), \(\), expected 2 numbers or arrays"),
        ([-1.0, 1.0], "a factor that is negative or not finite"),
        ([np.nan, 1.0], "a factor that is negative or not finite"),
    ],
)
def test_what_is_no_factor_is_named(returned: list[object], words: str) -> None:
    with pytest.raises(ValueError, match=r"^loss.mask: .*" + words):
        apply_mask(
            lambda *_: returned,
            [group_of([1, 2], [3])],
            np.zeros((1, 2), np.float32),
            np.ones((1, 2), np.float32),
        )


def test_a_users_function_by_file_and_by_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import numpy as np\ndef halve(group, rewards_G, advantages_G):\n    return "
        "np.full(advantages_G.size, 0.5)\ndef narrow(group):\n    return 1\n"
    )
    (tmp_path / "my_loss_mask.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    advantages_G = np.ones(2, np.float32)
    for place in (f"{tmp_path}/my_loss_mask.py", "my_loss_mask"):
        mask = load_mask(LossConfig(mask=f"{place}:halve"))
        assert mask(group_of([1], [2]), advantages_G, advantages_G).tolist() == [0.5, 0.5]
        with pytest.raises(
            ConfigError,
            match=r"loss.mask: got .*narrow' with parameters \(group\), expected \(group, "
            r"rewards_G, advantages_G\)",
        ):
            load_mask(LossConfig(mask=f"{place}:narrow"))
    for bad, words in [
        ("no_such_module_here:f", "importing 'no_such_module_here' raised"),
        ("my_loss_mask:g", "my_loss_mask has no function 'g'"),
    ]:
        with pytest.raises(ConfigError, match=f"^loss.mask: got '{bad}', but {words}"):
            load_mask(LossConfig(mask=bad))
    assert load_mask(LossConfig()) is None
