"""From judged groups to advantages.

What each setting of the loss does to the gradient of the policy.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("torch")

from depo.config import LossConfig, RolloutConfig, TrainConfig
from depo.training.learner.advantages import group_advantages, overlong_penalties
from depo.training.learner.shaping import AdvantageShaper, ShapedAdvantages
from depo.types.errors import StateError
from depo.types.records import (
    Draw,
    DrawKind,
    Float32Array,
    JudgedGroup,
    Prompt,
    RolloutGroup,
    Verdict,
    VerdictStatus,
)
from tests.training.learner.learner_helpers import (
    MAX_NEW_TOKENS,
    assert_same_gradients,
    gradients_of_update,
    make_learner,
)
from tests.training.learner.reference_losses import policy_gradient, random_groups, tiny_policy

GROUP_SIZE = 4


def judged(
    rollouts: list[RolloutGroup], rewards_BG: Float32Array, admissions_B: list[float] | None = None
) -> list[JudgedGroup]:
    groups = []
    for index, (group, rewards_G) in enumerate(zip(rollouts, rewards_BG, strict=True)):
        admission = admissions_B[index] if admissions_B else 1.0
        known_G = rewards_G[~np.isnan(rewards_G)]
        verdict = Verdict(
            draw_id=index,
            status=VerdictStatus.LABELLED,
            informative=len(set(known_G.tolist())) > 1,
            mean_reward=float(known_G.mean()),
            pass_rate=float((known_G >= 0.5).mean()),
        )
        draw = Draw(
            draw_id=index,
            prompt=Prompt(text="t", id=str(index)),
            predicted_reward=0.5,
            p_informative=0.5,
            admission=admission,
            kind=DrawKind.SELECTED,
            n_rollouts=GROUP_SIZE,
            policy_version=0,
        )
        groups.append(JudgedGroup(draw=draw, rollouts=group, rewards_G=rewards_G, verdict=verdict))
    return groups


def shaper_of(**loss: Any) -> AdvantageShaper:
    rollout = RolloutConfig(group_size=GROUP_SIZE, max_new_tokens=MAX_NEW_TOKENS)
    return AdvantageShaper(TrainConfig(loss=LossConfig(**loss), rollout=rollout))


def random_rewards(n_groups: int, seed: int = 0) -> Float32Array:
    """Binary rewards, one right and one wrong at least in each group."""
    rewards_BG = (np.random.default_rng(seed).random((n_groups, GROUP_SIZE)) < 0.5).astype(
        np.float32
    )
    rewards_BG[:, 0], rewards_BG[:, 1] = 0, 1
    return rewards_BG


def gradients_of(
    rollouts: list[RolloutGroup], shaped: ShapedAdvantages, config: LossConfig, **settings: Any
) -> dict[str, Tensor]:
    learner = make_learner(tiny_policy(0), loss=config, **settings)
    return gradients_of_update(learner, rollouts, shaped.advantages_BG, shaped.token_factors)[0]


@pytest.mark.parametrize(
    "settings", [{}, {"scale_by_std": False}, {"overlong_buffer": 4, "overlong_penalty": 0.5}]
)
def test_without_weights_and_mask_they_are_the_groups_advantages_bit_for_bit(
    settings: dict[str, Any],
) -> None:
    rollouts, rewards_BG = (
        random_groups(tiny_policy(), 0, 6, GROUP_SIZE, noise=0.0),
        random_rewards(6),
    )
    rewards_BG[2], rewards_BG[3, 2] = 1.0, np.nan
    shaped = shaper_of(**settings)(judged(rollouts, rewards_BG))
    lengths_BG = np.array([[ids.size for ids in group.response_ids] for group in rollouts])
    penalty_BG = (
        overlong_penalties(lengths_BG, MAX_NEW_TOKENS, 4, 0.5)
        if "overlong_buffer" in settings
        else 0
    )
    expected_BG, _ = group_advantages(rewards_BG + penalty_BG, LossConfig(**settings), 1e-6)
    assert shaped.advantages_BG.tobytes() == expected_BG.tobytes()
    assert shaped.token_factors is None
    assert shaped.metrics == {}
    assert shaper_of(**settings)([]).advantages_BG.shape == (0, GROUP_SIZE)


def test_daro_makes_the_pass_rates_of_a_batch_contribute_equal_losses() -> None:
    """On-policy, through the loss itself.

    The whole batch counts, however it is cut into micro-batches.
    """
    model, rewards_BG = tiny_policy(0), random_rewards(7)
    rollouts = random_groups(model, 1, 7, GROUP_SIZE, noise=0.0)
    rewards_BG[4] = 1.0
    settings = {
        "group_weighting": "daro",
        "daro_min_groups": 1,
        "daro_min_weight": 1e-3,
        "daro_max_weight": 1e6,
    }
    config = LossConfig(**settings)
    shaped, plain = (
        shaper_of(**settings)(judged(rollouts, rewards_BG)),
        shaper_of()(judged(rollouts, rewards_BG)),
    )
    rates_B = rewards_BG.mean(1)

    def contributions(advantages_BG: Float32Array) -> list[float]:
        parts = [
            np.where((rates_B == rate)[:, None], advantages_BG, 0) for rate in (0.25, 0.5, 0.75)
        ]
        return [
            abs(policy_gradient(model, rollouts, part_BG, config, MAX_NEW_TOKENS)[0])
            for part_BG in parts
        ]

    before, after = contributions(plain.advantages_BG), contributions(shaped.advantages_BG)
    assert max(before) > 1.5 * min(before) > 0
    assert after == pytest.approx([after[0]] * 3, rel=1e-3)
    together, apart = (
        gradients_of(rollouts, shaped, config, tokens_per_microbatch=tokens)
        for tokens in (10_000, 1)
    )
    assert_same_gradients(apart, together)


def test_importance_weighted_gradients_average_to_that_of_all_candidates() -> None:
    """Over every batch.

    That a selection of one on merit and two explored of four rejected can give; unweighted batches
    average to something else.
    """
    n_candidates, n_rejected, n_explored = 5, 4, 2
    rollouts, rewards_BG = (
        random_groups(tiny_policy(0), 2, n_candidates, GROUP_SIZE, noise=0.2),
        random_rewards(n_candidates),
    )
    rewards_BG[3] = 0.0
    config = LossConfig(aggregation="constant")

    def gradient_of(
        candidates: tuple[int, ...], admissions: list[float], **settings: Any
    ) -> Tensor:
        drawn = [rollouts[index] for index in candidates]
        shaped = shaper_of(aggregation="constant", **settings)(
            judged(drawn, rewards_BG[list(candidates)], admissions)
        )
        gradients = gradients_of(drawn, shaped, config)
        return len(drawn) * torch.cat(
            [gradient.flatten() for gradient in gradients.values()]
        )  # a sum over groups, not their mean

    expected = gradient_of(tuple(range(n_candidates)), [1.0] * n_candidates)
    batches = [(0, *explored) for explored in combinations(range(1, 1 + n_rejected), n_explored)]
    admissions = [1.0, *[n_explored / n_rejected] * n_explored]
    for importance_weighted, low, high in ((True, 0.0, 1e-5), (False, 0.1, 1.0)):
        mean = sum(
            gradient_of(batch, admissions, importance_weighted=importance_weighted)
            for batch in batches
        ) / len(batches)
        assert low <= float((mean - expected).norm() / expected.norm()) < high


def test_weights_multiply_up_to_their_cap_and_leave_a_group_without_spread_at_zero() -> None:
    rollouts, rewards_BG = (
        random_groups(tiny_policy(), 0, 3, GROUP_SIZE, noise=0.0),
        random_rewards(3),
    )
    rewards_BG[1] = 1.0
    groups = judged(rollouts, rewards_BG, [0.5, 0.001, 0.01])
    plain = shaper_of(scale_by_std=False)(groups)
    shaped = shaper_of(scale_by_std=False, importance_weighted=True, max_importance_weight=8.0)(
        groups
    )
    np.testing.assert_array_equal(
        shaped.advantages_BG, plain.advantages_BG * np.array([[2.0], [8.0], [8.0]], np.float32)
    )
    assert not shaped.advantages_BG[1].any()
    assert shaped.metrics == {"loss/weight_min": 2.0, "loss/weight_max": 8.0}
    powered = shaper_of(
        scale_by_std=False,
        importance_weighted=True,
        max_importance_weight=8.0,
        group_weighting="static_power",
        group_power=0.0,
    )(groups)
    assert powered.advantages_BG.tobytes() == shaped.advantages_BG.tobytes()
    assert (
        shaper_of(importance_weighted=True)(judged(rollouts, np.ones_like(rewards_BG))).metrics
        == {}
    )


def test_a_mask_scales_tokens_and_is_counted() -> None:
    rollouts, rewards_BG = (
        random_groups(tiny_policy(), 5, 2, GROUP_SIZE, noise=0.0),
        np.array([[1, 0, 0, 0], [1, 1, 1, 1]], np.float32),
    )
    twins = (np.arange(8), np.arange(8), np.arange(20, 24), np.arange(30, 34))
    rollouts[0] = RolloutGroup(
        prompt_ids=rollouts[0].prompt_ids,
        response_ids=twins,
        rollout_logprobs=tuple(np.zeros(ids.size, np.float32) for ids in twins),
        finished=rollouts[0].finished,
        responses=rollouts[0].responses,
        policy_version=0,
    )
    shaped = shaper_of(mask="dagrpo")(judged(rollouts, rewards_BG))
    assert (
        shaped.advantages_BG.tobytes()
        == shaper_of()(judged(rollouts, rewards_BG)).advantages_BG.tobytes()
    )
    assert [factors.tolist() for factors in shaped.token_factors[0]] == [
        [0.0] * 8,
        [0.0] * 8,
        [1.0] * 4,
        [1.0] * 4,
    ]
    assert shaped.metrics == {"loss/masked_share": 16 / 24}


def test_state_of_daro_continues_and_a_state_without_it_is_refused() -> None:
    rollouts = random_groups(tiny_policy(), 0, 5, GROUP_SIZE, noise=0.0)
    whole, resumed = shaper_of(group_weighting="daro"), shaper_of(group_weighting="daro")
    for seed in range(3):
        whole(judged(rollouts, random_rewards(5, seed)))
    resumed.load_state_dict(whole.state_dict())
    batch = judged(rollouts, random_rewards(5, 9))
    assert whole(batch).advantages_BG.tobytes() == resumed(batch).advantages_BG.tobytes()
    assert (
        shaper_of(group_weighting="daro")(batch).advantages_BG.tobytes()
        != resumed(batch).advantages_BG.tobytes()
    )
    with pytest.raises(
        StateError, match="got no group weights, which this configuration has; continue with loss"
    ):
        resumed.load_state_dict(shaper_of().state_dict())
    shaper_of().load_state_dict(whole.state_dict())
