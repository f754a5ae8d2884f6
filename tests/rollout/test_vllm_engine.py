"""Laws of the vLLM engine, on a real vLLM.

Exact log-probs before and after every sync, randomness from the keys alone, clear ends, an
untouched host.
"""

from __future__ import annotations

import copy
import gc
import os
import random
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import Qwen2ForCausalLM

from depo.rollout.local import LocalEngine
from depo.rollout.vllm import host
from depo.rollout.vllm.engine import VllmEngine
from depo.types.records import Prompt, RolloutGroup
from tests.rollout.rollout_helpers import EOS, PAD, flat_responses, word_prompts, word_tokenizer
from tests.rollout.vllm_helpers import (
    MAX_NEW_TOKENS,
    MAX_PROMPT_TOKENS,
    build_policy,
    logprob_gap,
    needs_vllm,
    perturb,
    start_engine,
)
from tests.training.learner.learner_helpers import (
    gradients_of_update,
    make_learner,
    random_advantages,
)
from tests.training.learner.reference_losses import random_groups, tiny_policy

pytestmark = needs_vllm

STOPS = (EOS, 9, 23)
PROMPTS = word_prompts()
KEYS = [2**64 - 1, 0, 17, 3, 5, 2**63]
PARITY = 1e-4


def host_state() -> dict[str, Any]:
    """Everything of this process that vLLM is known to change.

    Also what a learner computes in it.
    """
    gradients, metrics = gradients_of_update(
        make_learner(tiny_policy()),
        random_groups(tiny_policy(), 0, 3, 4, noise=0.1),
        random_advantages(3, 4),
    )
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "thread setter": torch.set_num_threads,
        "LD_PRELOAD": os.environ.get("LD_PRELOAD"),
        "grad mode": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "update": (metrics, {name: gradient.tolist() for name, gradient in gradients.items()}),
    }


@pytest.fixture(scope="module")
def host_before() -> dict[str, Any]:
    return host_state()


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def served(
    request: pytest.FixtureRequest, host_before: dict[str, Any]
) -> tuple[Qwen2ForCausalLM, VllmEngine]:
    """A policy, and an engine that has its weights; tests may move both."""
    policy = build_policy(tied=request.param)
    return policy, start_engine(policy, eos_token_ids=STOPS)


def generate(
    engine: VllmEngine,
    prompts: list[Prompt] = PROMPTS,
    *,
    group_size: int = 6,
    temperature: float = 1.0,
) -> list[RolloutGroup]:
    return engine.generate(prompts, group_size, KEYS[: len(prompts)], temperature=temperature)


def assert_same_groups(ours: list[RolloutGroup], theirs: list[RolloutGroup]) -> None:
    assert flat_responses(ours) == flat_responses(theirs)
    for group, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            np.concatenate(group.rollout_logprobs),
            np.concatenate(other.rollout_logprobs),
            atol=1e-5,
        )


def test_logprobs_are_the_learners_before_and_after_every_sync(
    served: tuple[Qwen2ForCausalLM, VllmEngine],
) -> None:
    policy, engine = served
    assert logprob_gap(policy, generate(engine, temperature=0.7), 0.7) <= PARITY
    for version in (1, 2, 3):
        served = copy.deepcopy(policy)
        perturb(policy, version)
        before = generate(engine)
        assert before[0].policy_version == engine.policy_version == version - 1
        assert logprob_gap(served, before, 1.0) <= PARITY, (
            "the learner moves its weights in place; the engine must have its own"
        )
        assert logprob_gap(policy, before, 1.0) > 1000 * PARITY
        engine.load_weights(policy, version)
        after = generate(engine)
        assert {group.policy_version for group in after} == {version}
        assert all(
            logprobs.dtype == np.float32 for group in after for logprobs in group.rollout_logprobs
        )
        assert logprob_gap(policy, after, 1.0) <= PARITY


def test_keys_and_values_of_old_weights_are_forgotten(
    served: tuple[Qwen2ForCausalLM, VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, engine = served
    prompts = [
        Prompt(text=" ".join(f"w{2 + (7 * i + j) % 37}" for j in range(160))) for i in range(3)
    ]  # the cache holds whole blocks of 128 tokens
    generate(engine, prompts)
    perturb(policy, 11)
    engine.load_weights(policy, 11)
    assert logprob_gap(policy, generate(engine, prompts), 1.0) <= PARITY
    perturb(policy, 12)
    with monkeypatch.context() as without_reset:
        without_reset.setattr(engine._llm, "reset_prefix_cache", lambda: True)
        engine.load_weights(policy, 12)
    assert logprob_gap(policy, generate(engine, prompts), 1.0) > 100 * PARITY, (
        "this test must be able to fail"
    )
    engine.load_weights(policy, 12)
    assert logprob_gap(policy, generate(engine, prompts), 1.0) <= PARITY


def test_responses_depend_on_their_key_and_prompt_alone(
    served: tuple[Qwen2ForCausalLM, VllmEngine],
) -> None:
    _, engine = served
    expected = generate(engine)
    assert_same_groups(generate(engine), expected)
    order = [4, 1, 5, 0, 3, 2]
    shuffled = engine.generate(
        [PROMPTS[i] for i in order], 6, [KEYS[i] for i in order], temperature=1.0
    )
    assert_same_groups(shuffled, [expected[i] for i in order])
    fewer = generate(engine, group_size=2)
    assert flat_responses(fewer) == [
        ids.tolist() for group in expected for ids in group.response_ids[:2]
    ]
    alone = [
        engine.generate([prompt], 6, [key], temperature=1.0)[0]
        for prompt, key in zip(PROMPTS, KEYS, strict=True)
    ]
    assert_same_groups(alone, expected)


def test_another_key_gives_other_responses_and_no_two_of_a_group_are_alike(
    served: tuple[Qwen2ForCausalLM, VllmEngine],
) -> None:
    _, engine = served
    first, second = (
        engine.generate([PROMPTS[0]] * 2, 8, keys, temperature=1.0) for keys in ([1, 2], [2, 3])
    )
    assert flat_responses(first)[8:] == flat_responses(second)[:8]
    everything = flat_responses(first) + flat_responses(second)[8:]
    assert len({tuple(ids) for ids in everything}) > 20, "neighbouring keys share no stream"


def test_a_response_ends_with_its_first_end_token_or_at_the_budget(
    served: tuple[Qwen2ForCausalLM, VllmEngine],
) -> None:
    _, engine = served
    groups = generate(engine, group_size=16)
    assert [group.prompt_ids.tolist() for group in groups] == word_tokenizer()(
        [prompt.text for prompt in PROMPTS]
    ).input_ids
    endings = set()
    for group in groups:
        for ids, logprobs, finished, text in zip(
            group.response_ids, group.rollout_logprobs, group.finished, group.responses, strict=True
        ):
            assert ids.dtype == np.int64
            assert ids.shape == logprobs.shape
            body = ids[:-1] if finished else ids
            assert finished == (ids[-1] in STOPS)
            assert not np.isin(body, STOPS).any()
            assert finished or ids.size == MAX_NEW_TOKENS
            assert text.split() == [f"w{token}" for token in body if token != PAD]
            endings.add(int(ids[-1]) if finished else None)
    assert endings == {None, *STOPS}


def test_greedy_is_the_local_engines(served: tuple[Qwen2ForCausalLM, VllmEngine]) -> None:
    policy, engine = served
    engine.load_weights(policy, 20)
    limits = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "sequences_per_batch": 64,
        "max_prompt_tokens": MAX_PROMPT_TOKENS,
    }
    local = LocalEngine(policy, word_tokenizer(), eos_token_ids=STOPS, **limits).generate(
        PROMPTS, 2, KEYS, temperature=0
    )
    groups = generate(engine, group_size=2, temperature=0)
    assert_same_groups(groups, local)
    assert not any(logprobs.any() for group in groups for logprobs in group.rollout_logprobs)
    assert [group.responses for group in groups] == [group.responses for group in local]


def test_an_interrupted_call_leaves_nothing_behind(
    served: tuple[Qwen2ForCausalLM, VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, engine = served
    expected, core = generate(engine), engine._llm.llm_engine
    steps = []

    def interrupted_step() -> Any:
        steps.append(core.get_num_unfinished_requests())
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original()

    original = core.step
    with monkeypatch.context() as interrupting:
        interrupting.setattr(core, "step", interrupted_step)
        with pytest.raises(KeyboardInterrupt):
            generate(engine)
    assert steps[-1] > 0
    assert core.get_num_unfinished_requests() == 0
    assert_same_groups(generate(engine), expected)
    engine.load_weights(policy, engine.policy_version + 1)
    assert_same_groups(generate(engine), expected)


def test_what_is_refused_is_named_and_changes_nothing(
    served: tuple[Qwen2ForCausalLM, VllmEngine],
) -> None:
    policy, engine = served
    expected, version = generate(engine), engine.policy_version
    assert engine.max_prompt_tokens == MAX_PROMPT_TOKENS
    with pytest.raises(ValueError, match=r"got 201 tokens, expected 1 to max_prompt_tokens = 200"):
        generate(engine, [Prompt(text=" ".join(["w5"] * 201))])
    with pytest.raises(ValueError, match=r"^group_size: got 0"):
        generate(engine, group_size=0)
    with pytest.raises(ValueError, match=r"^temperature: got -1"):
        generate(engine, temperature=-1.0)
    with pytest.raises(ValueError, match=r"^keys: got 1, expected one for each of 6 prompts"):
        engine.generate(PROMPTS, 2, [1], temperature=1.0)
    ties = policy.config.tie_word_embeddings
    with pytest.raises(
        ValueError, match=rf"^policy: got tie_word_embeddings = {not ties}, expected {ties}"
    ):
        engine.load_weights(build_policy(tied=not ties), 99)
    assert engine.generate([], 2, [], temperature=1.0) == []
    assert engine.policy_version == version
    assert_same_groups(generate(engine), expected)


def test_updates_come_through_the_methods_that_vllms_own_clients_call(
    served: tuple[Qwen2ForCausalLM, VllmEngine],
) -> None:
    from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient

    policy, engine = served
    assert isinstance(engine, VLLMWeightSyncClient)
    perturb(policy, 30)
    engine.init_weight_transfer_engine({})
    engine.start_weight_update()
    for name, parameter in policy.named_parameters():  # in pieces, as bounded buffers make them
        engine.update_weights({"tensors": {name: parameter.detach().clone()}})
    engine.finish_weight_update("31")
    groups = generate(engine)
    assert groups[0].policy_version == 31
    assert logprob_gap(policy, groups, 1.0) <= PARITY


def test_backends_between_gpus_are_vllms_own(served: tuple[Qwen2ForCausalLM, VllmEngine]) -> None:
    """What is handed to them; the transfer itself needs GPUs."""
    from vllm.distributed.weight_transfer.factory import (
        WeightTransferEngineFactory,
        WeightTransferTrainerFactory,
    )

    from depo.rollout.vllm.transfer import sender_init_info

    nccl = sender_init_info("nccl", master_address="10.0.0.1", master_port=29500, n_workers=4)
    assert (nccl.world_size, nccl.master_address, nccl.master_port, nccl.is_sender) == (
        5,
        "10.0.0.1",
        29500,
        True,
    )
    assert not sender_init_info("ipc", rank=1).is_sender
    for backend in ("depo", "nccl", "ipc"):
        assert sender_init_info(backend).backend == backend
        assert backend in WeightTransferEngineFactory._registry
        assert backend in WeightTransferTrainerFactory._registry


def test_an_untested_release_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "TESTED", (0, 31))
    with pytest.warns(UserWarning, match=r"^rollout.engine: tested with vLLM 0.31, not with 0\.32"):
        host.prepare_vllm()


def test_the_host_process_is_as_it_was(
    host_before: dict[str, Any], served: tuple[Qwen2ForCausalLM, VllmEngine]
) -> None:
    """After starts, requests and syncs.

    A learner beside the engine computes what it computed before, bit for bit.
    """
    policy, engine = served
    generate(engine)
    generate(engine, temperature=0)
    engine.load_weights(policy, engine.policy_version + 1)
    after = host_state()
    assert after.keys() == host_before.keys()
    for name, value in host_before.items():
        assert after[name] == value, name


def test_a_process_has_one_engine_the_newest(host_before: dict[str, Any]) -> None:
    older, newer = (start_engine(build_policy(tied=tied)) for tied in (True, False))
    with pytest.raises(
        RuntimeError,
        match="this vLLM engine cannot be used: it was closed, or another engine was started in "
        "this process",
    ):
        generate(older)
    older.close()
    expected = generate(newer)
    del older
    gc.collect()
    assert_same_groups(generate(newer), expected)
    newer.close()
    newer.close()
    assert not torch.distributed.is_initialized()


def test_heads_without_a_kernel_are_refused_at_the_start() -> None:
    policy = build_policy(tied=True)
    policy.config.num_attention_heads = 4
    with pytest.raises(
        ValueError, match=r"^policy: got attention heads of size 16, expected one of \[32, 64"
    ):
        start_engine(policy)


def test_bfloat16_differs_by_rounding(host_before: dict[str, Any]) -> None:
    policy = build_policy(tied=True)
    assert PARITY < logprob_gap(policy, generate(start_engine(policy, dtype="bfloat16")), 1.0) < 0.5


def test_an_update_that_breaks_off_is_fatal_and_says_so() -> None:
    doomed = start_engine(build_policy(tied=True))
    doomed.start_weight_update()
    with pytest.raises(Exception, match="elsewhere"):
        doomed.update_weights({"tensors": {"elsewhere.weight": torch.zeros(3)}})
    with pytest.raises(
        RuntimeError,
        match="a weight update has begun and not finished; if it failed, resume from the newest "
        "checkpoint",
    ):
        generate(doomed)
    with pytest.raises(
        RuntimeError,
        match=r"the weights of policy version 5 did not reach vLLM, .*: this vLLM engine cannot "
        r"be used: a weight update",
    ):
        doomed.load_weights(build_policy(tied=True), 5)
    assert doomed.policy_version == 0


def test_no_update_while_requests_run() -> None:
    doomed = start_engine(build_policy(tied=True))
    core = doomed._llm.llm_engine
    core.add_request("running", {"prompt_token_ids": [5, 6, 7]}, doomed._sampling(2, 1, 1.0))
    core.step()
    with pytest.raises(
        RuntimeError,
        match=r"did not reach vLLM.*: vLLM keeps keys and values of the old weights, because "
        r"requests are running",
    ):
        doomed.load_weights(build_policy(tied=True), 5)
    with pytest.raises(RuntimeError, match="this vLLM engine cannot be used"):
        generate(doomed)
