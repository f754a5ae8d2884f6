"""vLLM in Ray actors.

What it does in this process, with weights that arrive by Ray's object store or by vLLM's own Ray
client. Real Ray, real vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.training.ray_helpers import small_ray  # isort: skip  # before anything else imports Ray

import ray

from depo.config import DistributedConfig, VllmConfig
from depo.rollout.vllm.engine import VllmEngine
from depo.training.distributed.cluster import Cluster
from depo.training.distributed.rollout_workers import RayRolloutEngine
from depo.types.records import RolloutGroup
from tests.rollout.rollout_helpers import flat_responses, word_prompts, word_tokenizer
from tests.rollout.vllm_helpers import (
    MAX_NEW_TOKENS,
    MAX_PROMPT_TOKENS,
    build_policy,
    logprob_gap,
    needs_vllm,
    perturb,
    start_engine,
    worker_engine,
)

pytestmark = [needs_vllm, pytest.mark.slow]

PROMPTS = word_prompts()
KEYS = [2**64 - 1, 0, 17, 3, 5, 2**63]
PARITY = 1e-4


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with small_ray(cpus=2):
        yield


def assert_same(ours: list[RolloutGroup], theirs: list[RolloutGroup]) -> None:
    assert flat_responses(ours) == flat_responses(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.policy_version == other.policy_version
        np.testing.assert_allclose(
            np.concatenate(one.rollout_logprobs), np.concatenate(other.rollout_logprobs), atol=1e-5
        )


@pytest.mark.usefixtures("_ray")
def test_a_worker_generates_what_the_engine_does_here_before_and_after_each_sync() -> None:
    policy = build_policy(tied=True)
    cluster = Cluster(DistributedConfig(rollout_workers=1), threads=1)
    elsewhere, here = RayRolloutEngine(cluster, 1, policy, worker_engine), start_engine(policy)
    assert elsewhere.max_prompt_tokens == here.max_prompt_tokens
    for version in (0, 3, 4):
        if version:
            perturb(policy, version)
            elsewhere.load_weights(policy, version)
            here.load_weights(policy, version)
        groups = elsewhere.generate(PROMPTS, 4, KEYS, temperature=0.7)
        assert_same(groups, here.generate(PROMPTS, 4, KEYS, temperature=0.7))
        assert {group.policy_version for group in groups} == {version}
        assert logprob_gap(policy, groups, 0.7) <= PARITY
    with pytest.raises(
        RuntimeError,
        match="policy_version: got 5, but this worker has 4: its weights did not arrive",
    ):
        cluster.get(elsewhere._workers[0].generate.remote(PROMPTS, 4, KEYS, 0.7, 5))
    here.close()
    cluster.close()


@pytest.mark.usefixtures("_ray")
def test_vllms_own_ray_client_updates_an_engine_that_is_an_actor() -> None:
    policy = build_policy(tied=True)
    limits = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "sequences_per_batch": 64,
        "max_prompt_tokens": MAX_PROMPT_TOKENS,
    }
    actor = ray.remote(VllmEngine).remote(
        policy, word_tokenizer(), VllmConfig(kv_cache_mib=64), **limits
    )
    before = ray.get(actor.generate.remote(PROMPTS, 4, KEYS, temperature=1.0))
    assert logprob_gap(policy, before, 1.0) <= PARITY

    from vllm.distributed.weight_transfer.base import ModuleSource
    from vllm.distributed.weight_transfer.clients import RayVLLMWeightSyncClient
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    from depo.rollout.vllm.transfer import register_backend, sender_init_info

    register_backend()
    client = RayVLLMWeightSyncClient([actor])
    sender = WeightTransferTrainerFactory.trainer_init(
        sender_init_info("depo"), client=client, source=ModuleSource(policy)
    )
    perturb(policy, 1)
    sender.send_weights()
    ray.get(actor.update_weight_version.remote("1"))
    after = ray.get(actor.generate.remote(PROMPTS, 4, KEYS, temperature=1.0))
    assert after[0].policy_version == 1
    assert logprob_gap(policy, after, 1.0) <= PARITY < logprob_gap(policy, before, 1.0)
    ray.kill(actor)
