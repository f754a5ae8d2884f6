"""Rollout actors.

Equal to one engine for any number of workers, undisturbed by deaths, clear about what a cluster
lacks. Real Ray, one start for all.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.training.ray_helpers import die, engine_of, make_engine, policy, small_ray  # isort: skip  # first of all

import ray
import torch

import depo.training.distributed.cluster
import depo.training.distributed.rollout_workers
from depo.config import DistributedConfig
from depo.rollout.local import LocalEngine
from depo.training.distributed.cluster import Cluster
from depo.training.distributed.policy_copy import PolicyCopy, pack_weights, unpack_weights
from depo.training.distributed.rollout_workers import RayRolloutEngine
from depo.types.errors import ConfigError, WorkerError
from depo.types.records import RolloutGroup
from tests.rollout.rollout_helpers import build_model, flat_responses, word_prompts

WORKERS = 2
PROMPTS = word_prompts()
KEYS = [7, 8, 9, 10, 11, 12]


def local(seed: int, version: int = 0) -> LocalEngine:
    engine = engine_of(model := policy(seed))
    engine.load_weights(model, version)
    return engine


def assert_same(ours: Sequence[RolloutGroup], theirs: Sequence[RolloutGroup]) -> None:
    assert flat_responses(ours) == flat_responses(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.policy_version == other.policy_version
        np.testing.assert_array_equal(one.prompt_ids, other.prompt_ids)
        np.testing.assert_allclose(
            np.concatenate(one.rollout_logprobs),
            np.concatenate(other.rollout_logprobs),
            rtol=1e-5,
            atol=1e-5,
        )


def workers_of(groups: Sequence[RolloutGroup]) -> list[int]:
    return [int(group.responses[0]) for group in groups]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with small_ray(cpus=WORKERS + 1):
        cluster = Cluster(DistributedConfig(rollout_workers=WORKERS), threads=1)
        yield cluster
        cluster.close()
        assert ray.is_initialized()  # it was there before


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> RayRolloutEngine:
    return RayRolloutEngine(cluster, WORKERS, policy(0), make_engine)


def test_workers_generate_what_one_engine_does(engine: RayRolloutEngine) -> None:
    assert engine.max_prompt_tokens == 20
    one = local(0)
    for version in (0, 5):
        if version:
            engine.load_weights(policy(1), version)
            one.load_weights(policy(1), version)
        groups = engine.generate(PROMPTS, 3, KEYS, temperature=0.7)
        assert_same(groups, one.generate(PROMPTS, 3, KEYS, temperature=0.7))
        assert engine.policy_version == version
        first, second = workers_of(groups)[:2]
        assert workers_of(groups) == [first, second] * 3
        assert first != second != os.getpid()
    few = engine.generate(PROMPTS[:1], 2, KEYS[:1], temperature=0.0)
    assert_same(few, one.generate(PROMPTS[:1], 2, KEYS[:1], temperature=0.0))
    assert engine.generate([], 2, [], temperature=1.0) == []


def test_errors_of_a_worker_are_those_of_its_engine_and_change_nothing(
    engine: RayRolloutEngine,
) -> None:
    with pytest.raises(ValueError, match=r"^group_size: got 0, expected at least 1$"):
        engine.generate(PROMPTS, 0, KEYS, temperature=1.0)
    before = engine.generate(PROMPTS[:2], 2, KEYS[:2], temperature=1.0)
    with pytest.raises(ValueError, match="weights: got another architecture"):
        engine.load_weights(build_model("gpt2"), engine.policy_version + 1)
    assert_same(engine.generate(PROMPTS[:2], 2, KEYS[:2], temperature=1.0), before)


def test_worker_killed_while_it_generates_is_replaced_and_nothing_is_lost(
    engine: RayRolloutEngine,
) -> None:
    engine.load_weights(policy(2), 9)
    expected = local(2, 9).generate(PROMPTS, 64, KEYS, temperature=1.0)
    started = time.monotonic()
    before = engine.generate(PROMPTS, 64, KEYS, temperature=1.0)
    midway = (time.monotonic() - started) / 2  # of the next one, on any machine
    killed = threading.Timer(midway, os.kill, (workers_of(before)[1], signal.SIGKILL))
    killed.start()
    after = engine.generate(PROMPTS, 64, KEYS, temperature=1.0)
    killed.join()
    assert_same(before, expected)
    assert_same(after, expected)
    assert workers_of(after)[0] == workers_of(before)[0]
    assert workers_of(after)[1] != workers_of(before)[1]
    assert {group.policy_version for group in after} == {9}


def test_worker_killed_between_steps_gets_the_new_weights(engine: RayRolloutEngine) -> None:
    os.kill(workers_of(engine.generate(PROMPTS, 1, KEYS, temperature=1.0))[0], signal.SIGKILL)
    engine.load_weights(policy(3), 10)
    assert_same(
        engine.generate(PROMPTS, 3, KEYS, temperature=1.0),
        local(3, 10).generate(PROMPTS, 3, KEYS, temperature=1.0),
    )


def test_cluster_says_what_it_lacks(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError,
        match=r"got 9 CPUs and 0 GPUs to reserve for 8 rollout \+ 1 estimator, but the cluster "
        r"has 3 CPUs and 0 GPUs",
    ):
        Cluster(DistributedConfig(rollout_workers=8, overlap=True), threads=1)
    with pytest.raises(ConfigError, match=r"to reserve for 8 rollout, but"):
        Cluster(DistributedConfig(rollout_workers=8, overlap=True), threads=1, has_estimator=False)
    with pytest.raises(
        ConfigError,
        match=r"got 2 CPUs and 2 GPUs to reserve for 2 learner, but the cluster has 3 CPUs and 0 "
        r"GPUs",
    ):
        Cluster(DistributedConfig(learner_ranks=2, learner_gpus=1.0), threads=1)
    monkeypatch.setattr(depo.training.distributed.cluster, "READY_SECONDS", 0.5)
    with pytest.raises(
        ConfigError,
        match=r"not possible within 0 s; of the cluster's 3 CPUs and 0 GPUs, free are 1 CPUs and "
        r"0 GPUs, on 1 nodes",
    ):
        Cluster(DistributedConfig(rollout_workers=2), threads=1)


def test_workers_that_die_again_and_again_end_the_call(
    engine: RayRolloutEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last of this module: the engine does not recover."""
    monkeypatch.setattr(engine, "_arguments", (engine._arguments[0], die))
    monkeypatch.setattr(depo.training.distributed.rollout_workers, "DEATHS_PER_CALL", 1)
    os.kill(workers_of(engine.generate(PROMPTS, 1, KEYS, temperature=1.0))[0], signal.SIGKILL)
    with pytest.raises(WorkerError, match="rollout workers died 2 times during one call"):
        engine.generate(PROMPTS, 1, KEYS, temperature=1.0)


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen2_untied_eager", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_is_the_policy(name: str, dtype: torch.dtype) -> None:
    model = build_model(name).to(dtype)
    model.generation_config.eos_token_id = [3, 5]
    copy = PolicyCopy.of(model).build(torch.device("cpu"))
    assert copy.generation_config.eos_token_id == [3, 5]
    assert copy.dtype == dtype
    unpack_weights(pack_weights(model), copy)
    assert copy.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(tensor, model.state_dict()[key]) for key, tensor in copy.state_dict().items()
    )


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'depo-rl\[ray\]'"):
        Cluster(DistributedConfig(rollout_workers=1), threads=1)


def test_an_address_without_a_cluster_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(
        ConfigError,
        match=f"distributed.address: got '{address}', expected a Ray cluster that runs: .*refused",
    ):
        Cluster(DistributedConfig(rollout_workers=1, address=address), threads=1)
    with pytest.raises(
        ConfigError,
        match=r"distributed\.address: got 'ray://head:1', expected HOST:PORT, auto or nothing",
    ):
        DistributedConfig(rollout_workers=1, address="ray://head:1")


def test_a_cluster_that_others_could_reach_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(
        ray.util, "get_node_ip_address", lambda: "192.0.2.1"
    )  # what Ray says where it was imported without the limit of ray_helpers.py
    with pytest.raises(
        ConfigError,
        match=r"distributed\.address: got nothing, but Ray .* would listen at 192\.0\.2\.1",
    ):
        Cluster(DistributedConfig(rollout_workers=1), threads=1)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_of_the_runs_own_that_has_too_little_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(Cluster, "_connect", lambda *_: None)
    with pytest.raises(ConfigError, match="to reserve for 9 rollout"):
        Cluster(DistributedConfig(rollout_workers=9), threads=1)
    assert ended


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"overlap": True},
            "overlap: got True, expected false without distributed.rollout_workers",
        ),
        (
            {"address": "auto"},
            "address: got 'auto', expected nothing without distributed.rollout_workers or "
            "learner_ranks > 1",
        ),
        (
            {"learner_ranks": 2, "rollout_gpus": 1.0},
            "rollout_gpus: got 1.0, expected 0 without distributed.rollout_workers: no actor "
            "would use them",
        ),
        (
            {"rollout_workers": 1, "learner_gpus": 1.0},
            "learner_gpus: got 1.0, expected 0 without distributed.learner_ranks > 1: no actor "
            "would use them",
        ),
        (
            {"rollout_workers": 1, "estimator_gpus": 0.5},
            "estimator_gpus: got 0.5, expected 0 without distributed.overlap: no actor would use "
            "them",
        ),
        (
            {"learner_ranks": 2, "learner_gpus": 0.5},
            "learner_gpus: got 0.5, expected 0, or 1 or more: NCCL refuses two ranks on one GPU",
        ),
    ],
)
def test_settings_without_an_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^distributed.{re.escape(message)}"):
        DistributedConfig(**settings)
