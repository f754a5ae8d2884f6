"""Parity with verl's core algorithms on random tensors.

Advantages, vanilla, GSPO and CISPO policy loss, aggregation, KL penalty.
"""

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from depo.config import LossConfig
from depo.training.learner.advantages import group_advantages
from depo.training.learner.losses import (
    clip_active,
    clipped_surrogate,
    importance_ratio,
    k3_kl,
    policy_loss,
    sequence_weights,
    token_entropy,
)

if (
    importlib.util.find_spec("verl") is None
):  # unlike importorskip, a verl that is there but broken is a failure
    pytest.skip("verl is not installed", allow_module_level=True)

TOLERANCE, N_SEQUENCES, WIDTH = 1e-6, 24, 8
MODES = {
    "sequence_mean": "seq-mean-token-mean",
    "token_mean": "token-mean",
    "constant": "seq-mean-token-sum-norm",
}


@pytest.fixture(scope="module")
def core_algos() -> ModuleType:
    """Imported when first needed: this alone takes longer than all the tests."""
    from verl.trainer.ppo import core_algos

    return core_algos


def actor_config(clip_high: float, dual_clip: float, clip_low: float = 0.2) -> Any:
    from verl.workers.config import ActorConfig

    clips = {"clip_ratio_low": clip_low, "clip_ratio_high": clip_high, "clip_ratio_c": dual_clip}
    return ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **clips)


def random_batch(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    new_NT, old_NT = (
        -2 + 0.6 * torch.randn(N_SEQUENCES, WIDTH, generator=generator) for _ in range(2)
    )
    lengths_N = torch.randint(1, WIDTH + 1, (N_SEQUENCES,), generator=generator)
    advantages_N = torch.randn(N_SEQUENCES, generator=generator)
    mask_NT = torch.arange(WIDTH) < lengths_N[:, None]
    return {
        "new_NT": new_NT.requires_grad_(),
        "old_NT": old_NT,
        "lengths_N": lengths_N,
        "advantages_N": advantages_N,
        "mask_NT": mask_NT,
    }


@pytest.mark.parametrize("scale_by_std", [True, False])
@pytest.mark.parametrize("group_size", [2, 8])
def test_group_advantages(core_algos: ModuleType, scale_by_std: bool, group_size: int) -> None:
    rng = np.random.default_rng(0)
    rewards_BG = rng.random((12, group_size)).round(1).astype(np.float32)
    rewards_BG[3] = 1.0
    mask_NT = torch.ones(rewards_BG.size, 3)
    token_rewards_NT = torch.zeros(rewards_BG.size, 3)
    token_rewards_NT[:, -1] = torch.from_numpy(rewards_BG.reshape(-1))
    index_N = np.repeat(np.arange(12), group_size)
    expected_NT, _ = core_algos.compute_grpo_outcome_advantage(
        token_rewards_NT, mask_NT, index_N, epsilon=1e-6, norm_adv_by_std_in_grpo=scale_by_std
    )
    advantages_BG, informative_B = group_advantages(
        rewards_BG, LossConfig(scale_by_std=scale_by_std, std_ddof=1, std_epsilon=1e-6), 1e-6
    )
    np.testing.assert_allclose(
        advantages_BG.reshape(-1, 1).repeat(3, 1), expected_NT.numpy(), rtol=0, atol=TOLERANCE
    )
    assert informative_B.tolist() == [len(set(rewards_G)) > 1 for rewards_G in rewards_BG.tolist()]


@pytest.mark.parametrize("aggregation", MODES)
@pytest.mark.parametrize("dual_clip", [3.0, 1.2])
@pytest.mark.parametrize("clip_high", [0.2, 0.28])
def test_vanilla_policy_loss_and_gradient(
    core_algos: ModuleType, aggregation: Any, dual_clip: float, clip_high: float
) -> None:
    batch = random_batch(seed=0)
    new_NT, old_NT, mask_NT, advantages_N, lengths_N = (
        batch[name] for name in ("new_NT", "old_NT", "mask_NT", "advantages_N", "lengths_N")
    )
    verl_loss, verl_metrics = core_algos.compute_policy_loss_vanilla(
        old_NT,
        new_NT,
        advantages_N[:, None].expand(-1, WIDTH),
        mask_NT.float(),
        loss_agg_mode=MODES[aggregation],
        config=actor_config(clip_high, dual_clip),
    )
    (verl_gradient_NT,) = torch.autograd.grad(verl_loss, new_NT)

    weights_N = sequence_weights(
        lengths_N,
        aggregation,
        n_sequences=N_SEQUENCES,
        n_tokens=int(lengths_N.sum()),
        max_new_tokens=WIDTH,
    )
    advantages_L, weights_L = (
        values_N.repeat_interleave(lengths_N) for values_N in (advantages_N, weights_N)
    )
    ratio_L = importance_ratio(new_NT[mask_NT], old_NT[mask_NT])
    loss_L = clipped_surrogate(
        ratio_L, advantages_L, clip_low=0.2, clip_high=clip_high, dual_clip=dual_clip
    )
    loss = (loss_L * weights_L).sum()
    (gradient_NT,) = torch.autograd.grad(loss, new_NT)
    torch.testing.assert_close(loss, verl_loss, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(gradient_NT, verl_gradient_NT, rtol=0, atol=TOLERANCE)
    clip_share = float(
        clip_active(ratio_L, advantages_L, clip_low=0.2, clip_high=clip_high).float().mean()
    )
    assert clip_share == pytest.approx(verl_metrics["actor/pg_clipfrac"], abs=TOLERANCE)
    assert (
        verl_metrics["actor/pg_clipfrac"] > 0.1 and verl_metrics["actor/pg_clipfrac_lower"] > 0.0
    ), "both clips must have something to do"


@pytest.mark.parametrize("aggregation", MODES)
@pytest.mark.parametrize(
    ("surrogate", "clip_low", "clip_high"),
    [("gspo", 3e-4, 4e-4), ("gspo", 0.2, 0.28), ("cispo", 0.2, 0.28), ("cispo", 1.0, 0.5)],
)
def test_gspo_and_cispo_loss_and_gradient(
    core_algos: ModuleType, surrogate: Any, clip_low: float, clip_high: float, aggregation: Any
) -> None:
    batch = random_batch(seed=3)
    new_NT, old_NT, mask_NT, advantages_N, lengths_N = (
        batch[name] for name in ("new_NT", "old_NT", "mask_NT", "advantages_N", "lengths_N")
    )
    verl_loss, verl_metrics = core_algos.get_policy_loss_fn(surrogate)(
        old_NT,
        new_NT,
        advantages_N[:, None].expand(-1, WIDTH),
        mask_NT.float(),
        loss_agg_mode=MODES[aggregation],
        config=actor_config(clip_high, 3.0, clip_low),
    )
    (verl_gradient_NT,) = torch.autograd.grad(verl_loss, new_NT)

    weights_N = sequence_weights(
        lengths_N,
        aggregation,
        n_sequences=N_SEQUENCES,
        n_tokens=int(lengths_N.sum()),
        max_new_tokens=WIDTH,
    )
    advantages_L, weights_L = (
        values_N.repeat_interleave(lengths_N) for values_N in (advantages_N, weights_N)
    )
    config = LossConfig(surrogate=surrogate, clip_low=clip_low, clip_high=clip_high)
    token_loss = policy_loss(new_NT[mask_NT], old_NT[mask_NT], advantages_L, lengths_N, config)
    loss = (token_loss.loss_L * weights_L).sum()
    (gradient_NT,) = torch.autograd.grad(loss, new_NT)
    torch.testing.assert_close(loss, verl_loss, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(gradient_NT, verl_gradient_NT, rtol=0, atol=TOLERANCE)
    assert float(token_loss.clipped_L.float().mean()) == pytest.approx(
        verl_metrics["actor/pg_clipfrac"], abs=TOLERANCE
    )
    assert verl_metrics["actor/pg_clipfrac"] > 0.1, "the clip must have something to do"


def test_low_variance_kl_and_its_gradient(core_algos: ModuleType) -> None:
    batch = random_batch(seed=1)
    new_NT, reference_NT = batch["new_NT"], batch["old_NT"]
    expected_NT = core_algos.kl_penalty(new_NT, reference_NT, "low_var_kl")
    got_NT = k3_kl(new_NT, reference_NT)
    torch.testing.assert_close(got_NT, expected_NT, rtol=0, atol=TOLERANCE)
    gradients = [
        torch.autograd.grad(values_NT.mean(), new_NT)[0] for values_NT in (got_NT, expected_NT)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=TOLERANCE)


def test_log_ratio_clamp(core_algos: ModuleType) -> None:
    """Beyond a log-ratio of 20 both stop at the same value, with gradient 0."""
    new_NT = torch.tensor([[0.0, -45.0, -19.0]], requires_grad=True)
    old_NT, advantages_NT = torch.tensor([[-45.0, 0.0, -0.5]]), torch.tensor([[-1.0, -1.0, 1.0]])
    expected, _ = core_algos.compute_policy_loss_vanilla(
        old_NT, new_NT, advantages_NT, torch.ones(1, 3), config=actor_config(0.2, 1e12)
    )
    got = clipped_surrogate(
        importance_ratio(new_NT, old_NT), advantages_NT, clip_low=0.2, clip_high=0.2
    ).mean()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(value, new_NT)[0] for value in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)
    assert not gradients[0][0, :2].any()


def test_entropy(core_algos: ModuleType) -> None:
    logits_NTV = torch.randn(N_SEQUENCES, WIDTH, 50, generator=torch.Generator().manual_seed(2))
    mask_NT = random_batch(seed=2)["mask_NT"]
    expected = core_algos.compute_entropy_loss(logits_NTV, mask_NT.float())
    torch.testing.assert_close(
        token_entropy(logits_NTV[mask_NT]).mean(), expected, rtol=0, atol=TOLERANCE
    )
