"""Truncated importance weights for what engine and learner compute differently.

Also the guard against more than that.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from depo.config import DistributedConfig, LossConfig, TrainConfig, VllmConfig
from depo.config.sections import PolicyConfig, RolloutConfig
from depo.training.build import _resolved
from depo.training.learner.losses import truncated_weights
from tests.training.learner.learner_helpers import (
    MAX_NEW_TOKENS,
    assert_same_gradients,
    gradients_of_update,
    make_learner,
    random_advantages,
)
from tests.training.learner.reference_losses import policy_gradient, random_groups, tiny_policy

CAP = 1.2
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def corrected(**settings: Any) -> LossConfig:
    return LossConfig(rollout_correction="truncate", rollout_correction_cap=CAP, **settings)


@pytest.mark.parametrize("tokens_per_microbatch", [1, 10_000])
@pytest.mark.parametrize(
    "settings",
    [{}, {"surrogate": "cispo"}, {"aggregation": "sequence_mean", "dual_clip": 1.5}],
    ids=str,
)
def test_gradient_is_the_references(settings: dict[str, Any], tokens_per_microbatch: int) -> None:
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 5, 4, noise=0.4, temperature=0.8),
        random_advantages(5, 4),
    )
    expected_loss, expected = policy_gradient(
        tiny_policy(), groups, advantages_BG, corrected(**settings), MAX_NEW_TOKENS, 0.8
    )
    learner = make_learner(
        tiny_policy(),
        loss=corrected(**settings),
        temperature=0.8,
        tokens_per_microbatch=tokens_per_microbatch,
    )
    gradients, metrics = gradients_of_update(learner, groups, advantages_BG)
    assert_same_gradients(gradients, expected)
    assert metrics["policy/loss"] == pytest.approx(expected_loss, abs=1e-6)
    assert metrics["policy/ratio_mean"] == pytest.approx(1.0), (
        "on-policy: the ratio is the learner's own"
    )
    assert 0.1 < metrics["policy/rollout_weight_capped"] < 0.9
    assert 0.5 < metrics["policy/rollout_weight"] < CAP
    uncorrected, _ = gradients_of_update(
        make_learner(tiny_policy(), loss=LossConfig(**settings), temperature=0.8),
        groups,
        advantages_BG,
    )
    assert any(
        not torch.allclose(uncorrected[name], gradient, rtol=1e-3)
        for name, gradient in gradients.items()
    )


def test_with_gspo_each_weight_acts_on_its_own_token() -> None:
    """On-policy its gradient is then that of the clip per token.

    The sequence's ratio differentiated as a whole would mix the tokens' weights.
    """
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 5, 4, noise=0.4),
        random_advantages(5, 4),
    )
    gspo, _ = gradients_of_update(
        make_learner(tiny_policy(), loss=corrected(surrogate="gspo", aggregation="sequence_mean")),
        groups,
        advantages_BG,
    )
    clipped, _ = gradients_of_update(
        make_learner(tiny_policy(), loss=corrected(aggregation="sequence_mean")),
        groups,
        advantages_BG,
    )
    assert_same_gradients(gspo, clipped)


def test_without_a_mismatch_nothing_changes() -> None:
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 3, 4, noise=0.0),
        random_advantages(3, 4),
    )
    plain, _ = gradients_of_update(make_learner(tiny_policy()), groups, advantages_BG)
    weighted, metrics = gradients_of_update(
        make_learner(tiny_policy(), loss=corrected()), groups, advantages_BG
    )
    assert_same_gradients(weighted, plain)
    assert metrics["policy/rollout_weight"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/rollout_weight_capped"] == 0.0


def test_every_minibatch_is_corrected_by_the_weights_that_generated() -> None:
    """Later minibatches meet moved weights.

    Their ratio is to the learner before the update: with an engine without mismatch, that is no
    correction at all.
    """
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 6, 4, noise=0.0),
        random_advantages(6, 4),
    )
    plain, weighted = (
        make_learner(tiny_policy(), minibatches=3),
        make_learner(tiny_policy(), loss=corrected(), minibatches=3),
    )
    metrics, expected = (
        weighted.update(groups, advantages_BG, step=0),
        plain.update(groups, advantages_BG, step=0),
    )
    for one, other in zip(weighted.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(
            one, other, rtol=0, atol=1e-3
        )  # Adam's steps are of size 1e-2 whatever the gradient's
    assert metrics["policy/rollout_weight"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/ratio_mean"] == pytest.approx(expected["policy/ratio_mean"], abs=1e-4)
    assert abs(metrics["policy/ratio_mean"] - 1) > 1e-3, "the weights must have moved"


def test_weights_are_verls_and_have_no_gradient() -> None:
    helper = pytest.importorskip("verl.trainer.ppo.rollout_corr_helper")
    draws = np.random.default_rng(0)
    learner_NT = torch.from_numpy(
        -draws.exponential(size=(4, 7)).astype(np.float32)
    ).requires_grad_()
    rollout_NT = torch.from_numpy(-draws.exponential(size=(4, 7)).astype(np.float32))
    expected, _ = helper.compute_rollout_correction_weights(
        (learner_NT - rollout_NT).detach(),
        torch.ones(4, 7),
        rollout_is="token",
        rollout_is_threshold=2.0,
    )
    got = truncated_weights(learner_NT.flatten(), rollout_NT.flatten(), 2.0)
    torch.testing.assert_close(got.view(4, 7), expected)
    assert not got.requires_grad
    assert 0 < float((got == 2.0).float().mean()) < 0.9


def test_a_mismatch_above_the_limit_stops_before_the_step() -> None:
    learner = make_learner(tiny_policy(), max_logprob_mismatch=0.1)
    before = copy.deepcopy(learner.model.state_dict())
    advantages_BG = random_advantages(3, 4)
    learner_groups = random_groups(tiny_policy(), 0, 3, 4, noise=0.3)
    with pytest.raises(
        RuntimeError,
        match=r"^step 4: got a mean \|rollout - learner\| log-prob of 0\.\d+ nats over \d+ "
        r"tokens, expected at most 0\.1 ",
    ):
        learner.update(learner_groups, advantages_BG, step=4)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items()
    )
    assert learner.state_dict()["moments"] == {}
    metrics = learner.update(
        random_groups(tiny_policy(), 0, 3, 4, noise=0.05), advantages_BG, step=4
    )
    assert 0 < metrics["policy/logprob_mismatch"] < 0.1


def test_the_limit_holds_before_the_first_minibatch_alone() -> None:
    """What later minibatches differ by is what they have learned."""
    learner = make_learner(
        tiny_policy(), minibatches=3, learning_rate=0.05, max_logprob_mismatch=1e-3
    )
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 6, 4, noise=0.0),
        random_advantages(6, 4),
    )
    metrics = learner.update(groups, advantages_BG, step=0)
    assert metrics["policy/kl"] > 1e-3 > metrics["policy/logprob_mismatch"]


@pytest.mark.parametrize(
    ("engine", "vllm_dtype", "autocast", "correction", "limit"),
    [
        ("local", "auto", "off", "off", 1e-3),
        ("local", "auto", "bfloat16", "off", 0.1),
        ("local", "bfloat16", "off", "off", 1e-3),
        ("vllm", "auto", "off", "off", 1e-3),
        ("vllm", "auto", "bfloat16", "truncate", 0.1),
        ("vllm", "bfloat16", "off", "truncate", 0.1),
        ("vllm", "float32", "bfloat16", "off", 0.1),
    ],
)
def test_defaults_go_by_engine_and_compute_type(
    engine: Any, vllm_dtype: Any, autocast: Any, correction: str, limit: float
) -> None:
    parts = {
        "rollout": RolloutConfig(engine=engine),
        "vllm": VllmConfig(dtype=vllm_dtype),
        "policy": PolicyConfig(autocast=autocast),
    }
    config = _resolved(TrainConfig(**parts), CPU)
    assert config.loss.rollout_correction == correction
    assert config.rollout.max_logprob_mismatch == limit
    assert config.policy.autocast == autocast
    for chosen in ("off", "truncate"):
        assert (
            _resolved(
                TrainConfig(**parts, loss=LossConfig(rollout_correction=chosen)), CPU
            ).loss.rollout_correction
            == chosen
        )
    chosen = _resolved(
        TrainConfig(**parts | {"rollout": RolloutConfig(engine=engine, max_logprob_mismatch=0.5)}),
        CPU,
    )
    assert chosen.rollout.max_logprob_mismatch == 0.5


@pytest.mark.parametrize(
    ("device", "distributed", "gpu_has_bfloat16", "bfloat16"),
    [
        ("cpu", {"rollout_workers": 1}, True, False),
        ("cuda", {"rollout_workers": 1}, True, True),
        ("cuda", {"rollout_workers": 1}, False, False),
        ("cpu", {"rollout_workers": 1, "rollout_gpus": 1.0}, True, False),
        ("cpu", {"learner_ranks": 2, "learner_gpus": 1.0}, True, True),
        ("cpu", {"learner_ranks": 2, "learner_gpus": 1.0}, False, False),
        ("cpu", {"learner_ranks": 2, "learner_gpus": 1.0}, None, True),
        ("cuda", {"learner_ranks": 2}, True, False),
        (
            "cpu",
            {"rollout_workers": 1, "rollout_gpus": 1.0, "learner_ranks": 2, "learner_gpus": 1.0},
            True,
            True,
        ),
    ],
)
def test_autocast_auto_goes_by_the_device_that_the_learner_is_on(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    distributed: dict[str, Any],
    gpu_has_bfloat16: bool | None,
    bfloat16: bool,
) -> None:
    """And all processes do as the learner; None: this machine, unlike the actors', has no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_has_bfloat16 is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bool(gpu_has_bfloat16))
    config = _resolved(
        TrainConfig(
            distributed=DistributedConfig(**distributed), rollout=RolloutConfig(engine="vllm")
        ),
        torch.device(device),
    )
    assert config.policy.autocast == ("bfloat16" if bfloat16 else "off")
    assert config.vllm.dtype == ("bfloat16" if bfloat16 else "float32")
    assert config.loss.rollout_correction == ("truncate" if bfloat16 else "off")
    assert config.rollout.max_logprob_mismatch == (0.1 if bfloat16 else 1e-3)
