"""Parity with TRL.

Its own GRPOTrainer generates, scores, computes advantages, loss and gradient; depo gets the same
responses and rewards.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from depo.config import LossConfig, OptimizerConfig, PolicyConfig
from depo.training.learner.advantages import group_advantages
from depo.training.learner.losses import k3_kl, policy_loss, sequence_weights
from depo.training.learner.policy_learner import PolicyLearner
from depo.types.records import RolloutGroup
from tests.training.learner.reference_losses import tiny_policy

if (
    importlib.util.find_spec("trl") is None
):  # unlike importorskip, a TRL that is there but broken is a failure
    pytest.skip("TRL is not installed", allow_module_level=True)
import trl

from tests.integrations.trl_helpers import word_tokenizer

GROUP_SIZE, MAX_NEW_TOKENS, TEMPERATURE, TOLERANCE = 4, 8, 0.9, 1e-6
CASES = [
    pytest.param({"loss_type": "grpo"}, LossConfig.from_preset("grpo"), id="grpo"),
    pytest.param(
        {"loss_type": "grpo", "beta": 0.04},
        LossConfig.from_preset("grpo", kl_weight=0.04),
        id="grpo-kl",
    ),
    pytest.param(
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        LossConfig.from_preset("dr_grpo"),
        id="dr_grpo",
    ),
    pytest.param(
        {"loss_type": "dapo", "epsilon_high": 0.28}, LossConfig.from_preset("dapo"), id="dapo"
    ),
    pytest.param(
        {"loss_type": "dapo", "epsilon": 0.1, "epsilon_high": 0.3, "beta": 0.1},
        LossConfig(aggregation="token_mean", clip_low=0.1, clip_high=0.3, kl_weight=0.1),
        id="dapo-kl",
    ),
    pytest.param(
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
        LossConfig.from_preset("gspo"),
        id="gspo",
    ),
    # TRL's epsilon_high is the largest ratio itself for this loss, and there is no smallest one.
    pytest.param(
        {"loss_type": "cispo", "epsilon_high": 1.2},
        LossConfig.from_preset("cispo", clip_high=0.2),
        id="cispo",
    ),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy on disk."""
    directory = tmp_path_factory.mktemp("policy")
    tiny_policy().save_pretrained(directory)
    return directory


def make_trainer(checkpoint: Path, reward: Callable[..., list[float]], **settings: Any) -> Any:
    from datasets import Dataset

    prompts = ["w5 w6 w7", "w8", "w9 w10 w11 w12 w13", "w14 w15"]
    arguments = trl.GRPOConfig(
        output_dir=str(checkpoint / "trainer"),
        per_device_train_batch_size=GROUP_SIZE * len(prompts),
        num_generations=GROUP_SIZE,
        max_completion_length=MAX_NEW_TOKENS,
        temperature=TEMPERATURE,
        report_to="none",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        # the KL term of the GRPO paper and of verl, without an importance ratio
        use_bias_correction_kl=False,
        model_init_kwargs={"dtype": "float32"},
        **settings,
    )
    dataset = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    trainer = trl.GRPOTrainer(
        model=str(checkpoint),
        reward_funcs=reward,
        args=arguments,
        train_dataset=dataset,
        processing_class=word_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = (
        1  # as the training loop sets it before its first step
    )
    trainer.model.eval()  # no dropout to switch off; TRL then averages over this batch alone
    return trainer


def groups_of(batch: dict[str, Tensor], old_logprobs_NT: Tensor) -> list[RolloutGroup]:
    """TRL's padded tensors as depo's groups."""
    prompts = [
        ids[mask.bool()].numpy()
        for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    ]
    masks = batch["completion_mask"].bool()
    responses = [
        ids[mask].numpy() for ids, mask in zip(batch["completion_ids"], masks, strict=True)
    ]
    logprobs = [row[mask].numpy() for row, mask in zip(old_logprobs_NT, masks, strict=True)]
    return [
        RolloutGroup(
            prompt_ids=prompts[start],
            response_ids=tuple(responses[start : start + GROUP_SIZE]),
            rollout_logprobs=tuple(logprobs[start : start + GROUP_SIZE]),
            finished=np.ones(GROUP_SIZE, np.bool_),
            responses=("",) * GROUP_SIZE,
            policy_version=0,
        )
        for start in range(0, len(prompts), GROUP_SIZE)
    ]


@pytest.mark.parametrize(("settings", "config"), CASES)
def test_one_step_of_trl_and_of_depo_have_the_same_advantages_loss_and_gradient(
    checkpoint: Path, settings: dict[str, Any], config: LossConfig
) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    scored = SimpleNamespace(rewards=[])

    def reward(completions: list[str], **_: Any) -> list[float]:
        scored.rewards = [
            *rng.random(len(completions) - GROUP_SIZE).round(1).tolist(),
            *[1.0] * GROUP_SIZE,
        ]  # the last group has no signal
        return scored.rewards

    trainer = make_trainer(checkpoint, reward, **settings)
    model = trainer.model
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    lengths_N = batch["completion_mask"].sum(1)
    assert sorted(batch["prompt_mask"].sum(1).tolist())[::GROUP_SIZE] == [1, 2, 3, 5]
    assert len(set(lengths_N.tolist())) > 1, "responses of one length would hide padding mistakes"

    rewards_BG = np.array(scored.rewards, np.float32).reshape(-1, GROUP_SIZE)
    config = LossConfig(
        **{name: getattr(config, name) for name in config.__dataclass_fields__}
        | {"std_epsilon": 1e-4}
    )
    advantages_BG, informative_B = group_advantages(rewards_BG, config, 1e-6)
    np.testing.assert_allclose(
        advantages_BG.reshape(-1), batch["advantages"].numpy(), rtol=0, atol=TOLERANCE
    )
    assert informative_B.tolist() == [True, True, True, False]

    ids, mask = (
        torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1)
        for name in ("ids", "mask")
    )
    with torch.no_grad():
        own_NT, _, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, mask, batch["completion_ids"].size(1)
        )
    batch["old_per_token_logps"] = own_NT + 0.2 * torch.randn(own_NT.shape)
    if config.kl_weight:  # a reference that is not the policy itself
        with torch.no_grad():
            for parameter in trainer.ref_model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape))
            batch["ref_per_token_logps"], _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.ref_model, ids, mask, own_NT.size(1)
            )
    trl_loss = trainer._compute_loss(model, batch)
    trl_gradients = torch.autograd.grad(trl_loss, list(model.parameters()))

    learner = PolicyLearner(
        model,
        loss=config,
        optimizer=OptimizerConfig(grad_clip=1e9, tokens_per_microbatch=60),
        policy=PolicyConfig(),
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=TEMPERATURE,
        pad_token_id=0,
        reference_model=trainer.ref_model,
    )
    seen: list[Tensor] = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(parameter.grad.clone() for parameter in model.parameters())
    )
    metrics = learner.update(groups_of(batch, batch["old_per_token_logps"]), advantages_BG, step=0)
    assert metrics["policy/loss"] == pytest.approx(float(trl_loss.detach()), abs=TOLERANCE)
    assert metrics["policy/clip_share"] > 0.05
    for (name, _), got, expected in zip(model.named_parameters(), seen, trl_gradients, strict=True):
        torch.testing.assert_close(
            got, expected, rtol=1e-5, atol=TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(("settings", "config"), CASES)
def test_trl_loss_on_random_tensors(
    checkpoint: Path, settings: dict[str, Any], config: LossConfig
) -> None:
    """TRL's loss code with only the model's forward pass replaced.

    So that ratios, advantages and lengths range widely.
    """
    trainer = make_trainer(
        checkpoint, lambda completions, **_: [0.0] * len(completions), **settings
    )
    generator = torch.Generator().manual_seed(1)
    n_sequences, width = 24, MAX_NEW_TOKENS
    new_NT, old_NT, reference_NT = (
        -2 + 0.5 * torch.randn(n_sequences, width, generator=generator) for _ in range(3)
    )
    new_NT.requires_grad_()
    advantages_N = torch.randn(n_sequences, generator=generator)
    lengths_N = torch.randint(1, width + 1, (n_sequences,), generator=generator)
    mask_NT = torch.arange(width) < lengths_N[:, None]
    batch = {
        "prompt_ids": torch.ones(n_sequences, 2, dtype=torch.int64),
        "prompt_mask": torch.ones(n_sequences, 2, dtype=torch.int64),
        "completion_ids": torch.ones(n_sequences, width, dtype=torch.int64),
        "completion_mask": mask_NT.long(),
        "advantages": advantages_N,
        "old_per_token_logps": old_NT,
        "ref_per_token_logps": reference_NT,
        "num_items_in_batch": lengths_N.sum(),
    }
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        new_NT,
        torch.zeros_like(new_NT),
        None,
    )
    trl_loss = trainer._compute_loss(trainer.model, batch)
    (trl_gradient_NT,) = torch.autograd.grad(trl_loss, new_NT)

    weights_N = sequence_weights(
        lengths_N,
        config.aggregation,
        n_sequences=n_sequences,
        n_tokens=int(lengths_N.sum()),
        max_new_tokens=MAX_NEW_TOKENS,
    )
    advantages_L, weights_L = (
        values_N.repeat_interleave(lengths_N) for values_N in (advantages_N, weights_N)
    )
    loss_L = policy_loss(new_NT[mask_NT], old_NT[mask_NT], advantages_L, lengths_N, config).loss_L
    loss = (
        (loss_L + config.kl_weight * k3_kl(new_NT[mask_NT], reference_NT[mask_NT])) * weights_L
    ).sum()
    (gradient_NT,) = torch.autograd.grad(loss, new_NT)
    torch.testing.assert_close(loss, trl_loss, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(gradient_NT, trl_gradient_NT, rtol=0, atol=TOLERANCE)
