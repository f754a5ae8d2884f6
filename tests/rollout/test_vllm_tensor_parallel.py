"""One model split over two processes of vLLM, real ones on a CPU.

It generates what one process does, and weights reach both.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import psutil
from transformers import Qwen2Config, Qwen2ForCausalLM

from depo.rollout.vllm import transfer
from depo.rollout.vllm.engine import VllmEngine
from depo.rollout.vllm.options import check_heads
from depo.types.records import RolloutGroup
from tests.rollout.rollout_helpers import word_prompts
from tests.rollout.vllm_helpers import build_policy, logprob_gap, needs_vllm, perturb, start_engine

pytestmark = [needs_vllm, pytest.mark.slow]

PROMPTS = word_prompts()
KEYS = [2**64 - 1, 0, 17, 3, 5, 2**63]
PARITY = 1e-4


def generate(engine: VllmEngine, temperature: float = 0.7) -> list[RolloutGroup]:
    return engine.generate(PROMPTS, 6, KEYS, temperature=temperature)


@pytest.fixture(scope="module")
def split() -> Iterator[tuple[Qwen2ForCausalLM, VllmEngine]]:
    """A policy with tied embeddings, two attention heads and one head of keys and values.

    Also an engine of two processes that has its weights.
    """
    policy = build_policy(tied=True)
    engine = start_engine(policy, tensor_parallel=2)
    yield policy, engine
    engine.close()


def test_logprobs_are_the_learners_before_and_after_every_sync(
    split: tuple[Qwen2ForCausalLM, VllmEngine],
) -> None:
    policy, engine = split
    assert logprob_gap(policy, generate(engine), 0.7) <= PARITY
    for version in (1, 2):
        perturb(policy, version)
        before = generate(engine)
        engine.load_weights(policy, version)
        after = generate(engine)
        assert (before[0].policy_version, after[0].policy_version) == (version - 1, version)
        assert logprob_gap(policy, after, 0.7) <= PARITY < 1e-2 < logprob_gap(policy, before, 0.7)


def test_weights_pass_through_memory_and_leave_nothing_there(
    split: tuple[Qwen2ForCausalLM, VllmEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, engine = split
    monkeypatch.setattr(transfer, "MEMORY", tmp_path)
    sent = []
    original = engine.update_weights
    monkeypatch.setattr(
        engine,
        "update_weights",
        lambda update: sent.append([*tmp_path.rglob("*.safetensors")]) or original(update),
    )
    engine.load_weights(policy, 7)
    assert [len(files) for files in sent] == [1]
    assert not list(tmp_path.iterdir())
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    engine.load_weights(policy, 8)
    assert [len(files) for files in sent] == [1, 0], (
        "where memory has no room, as in many a container, a disk will do"
    )
    assert logprob_gap(policy, generate(engine), 0.7) <= PARITY


def test_processes_listen_to_this_machine_alone(split: tuple[Qwen2ForCausalLM, VllmEngine]) -> None:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        address.laddr.ip
        for process in processes
        for address in process.net_connections()
        if address.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize(("heads", "kv_heads", "processes"), [(12, 2, 3), (28, 4, 7), (6, 4, 3)])
def test_heads_of_keys_and_values_must_be_shared_evenly(
    heads: int, kv_heads: int, processes: int
) -> None:
    config = Qwen2Config(
        hidden_size=32 * heads, num_attention_heads=heads, num_key_value_heads=kv_heads
    )
    with pytest.raises(
        ValueError,
        match=rf"^vllm.tensor_parallel: got {processes}, expected a divisor or a multiple of the "
        rf"policy's {kv_heads} heads of keys",
    ):
        check_heads(config, processes, on_cpu=False)
    for even in (1, 2):
        check_heads(config, even, on_cpu=False)


def test_heads_that_cannot_be_shared_are_refused_at_the_start() -> None:
    with pytest.raises(
        ValueError,
        match=r"^vllm.tensor_parallel: got 3, expected a divisor of the policy's 2 attention heads",
    ):
        start_engine(build_policy(tied=True), tensor_parallel=3)


def test_one_process_generates_the_same(split: tuple[Qwen2ForCausalLM, VllmEngine]) -> None:
    """Greedy, where rounding decides nothing.

    Starting the other engine closes the first and ends its processes.
    """
    policy, engine = split
    engine.load_weights(policy, 9)
    expected = generate(engine, temperature=0)
    workers = [
        process
        for process in psutil.Process().children()
        if "spawn_main" in " ".join(process.cmdline())
    ]
    assert len(workers) == 2
    alone = generate(start_engine(policy), temperature=0)
    for ours, theirs in zip(alone, expected, strict=True):
        assert [ids.tolist() for ids in ours.response_ids] == [
            ids.tolist() for ids in theirs.response_ids
        ]
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
