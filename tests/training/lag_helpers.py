"""Training one step behind the rollouts, in one process.

The local engine on a copy of the policy does what Ray workers do elsewhere.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import PreTrainedModel

import depo.training.build
from depo.rollout.local import LocalEngine

LAG = (
    "--distributed.rollout_workers",
    "1",
    "--distributed.max_policy_lag",
    "1",
    "--optimizer.learning_rate",
    "1e-2",
)


def engine_with_copy(policy: PreTrainedModel, *arguments: Any, **options: Any) -> LocalEngine:
    return LocalEngine(copy.deepcopy(policy), *arguments, **options)


def without_cluster(patch: pytest.MonkeyPatch) -> None:
    """Let trainers that want Ray actors do with this process."""
    patch.setattr(depo.training.build, "Cluster", lambda *_: None)
    patch.setattr(depo.training.build, "LocalEngine", engine_with_copy)
