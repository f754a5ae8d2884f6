"""A small Ray for tests, and an engine that says in which process it works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
    "0"  # on the loopback interface alone; Ray reads it when it is imported
)
os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
pytest.importorskip("ray")

import ray
import torch
from transformers import PreTrainedModel

from depo.rollout.local import LocalEngine
from depo.training.distributed.policy_copy import PolicyCopy
from depo.types.records import RolloutGroup
from tests.rollout.rollout_helpers import VOCAB_SIZE, build_model, word_tokenizer


@contextmanager
def small_ray(cpus: int) -> Iterator[None]:
    """Run Ray with as many logical CPUs; its actors find the helpers of these tests."""
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}}
    limits = {"num_cpus": cpus, "object_store_memory": 100 << 20, "include_dashboard": False}
    ray.init(
        address="local",
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env=environment,
        **limits,
    )
    try:
        yield
    finally:
        ray.shutdown()


class EngineWithPid(LocalEngine):
    """Returns the id of its process in place of the texts."""

    def generate(self, *arguments: Any, **options: Any) -> list[RolloutGroup]:
        return [
            replace(group, responses=(str(os.getpid()),))
            for group in super().generate(*arguments, **options)
        ]


def engine_of(policy: PreTrainedModel) -> EngineWithPid:
    """Return an engine whose responses never end by themselves.

    So that generating takes a while.
    """
    return EngineWithPid(
        policy,
        word_tokenizer(),
        max_new_tokens=40,
        sequences_per_batch=64,
        max_prompt_tokens=20,
        eos_token_ids=[VOCAB_SIZE],
    )


def make_engine(copy: PolicyCopy) -> tuple[PreTrainedModel, EngineWithPid]:
    torch.set_num_threads(1)
    policy = copy.build(torch.device("cpu"))
    return policy, engine_of(policy)


def die(_: PolicyCopy) -> None:
    os._exit(1)


def policy(seed: int) -> PreTrainedModel:
    model = build_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * seed)
    return model
