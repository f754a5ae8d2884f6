"""Share one estimator among all processes of a run, and check that their samplers agree.

Every process holds a replica of the sampler. Rewards are gathered before they are observed, so
replicas stay equal if their predictions are equal. Predictions are broadcast from one process,
because a network's floats differ between devices.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather
from transformers import PreTrainedTokenizerBase

from depo.config import EstimatorConfig
from depo.estimator import BertDifficultyEstimator
from depo.types.errors import StateError
from depo.types.protocols import DifficultyEstimator
from depo.types.records import Float32Array, TargetBatch


class MainProcessEstimator:
    """Broadcast the main process's predictions (a `depo.types.protocols.DifficultyEstimator`).

    Every method except `state_dict` is a collective: all processes must call it.

    Args:
        estimator: The estimator in the main process; None in all others.
        accelerator: The run's Accelerator.
    """

    def __init__(self, estimator: DifficultyEstimator | None, accelerator: Accelerator) -> None:
        self._estimator, self._accelerator = estimator, accelerator
        self._version = self._broadcast_version()

    @property
    def version(self) -> int:
        """Number of updates so far, equal in all processes."""
        return self._version

    def predict(self, texts: Sequence[str]) -> Float32Array:
        """Return the main process's predictions, float32 [C]."""
        predicted_C = self._estimator.predict(texts) if self._estimator else np.zeros(len(texts))
        shared_C: Float32Array = self._broadcast(
            torch.tensor(predicted_C, dtype=torch.float32)
        ).numpy()
        return shared_C

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        """Update the main process's estimator; return its metrics, empty in the others."""
        metrics = self._estimator.update(batches) if self._estimator else {}
        self._version = self._broadcast_version()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the estimator's own state; empty in every process but the main one."""
        return self._estimator.state_dict() if self._estimator else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the estimator's state; only the main process reads it."""
        if self._estimator:
            self._estimator.load_state_dict(state)
        self._version = self._broadcast_version()

    def _broadcast_version(self) -> int:
        return int(
            self._broadcast(torch.tensor([self._estimator.version if self._estimator else 0]))
        )

    def _broadcast(self, values: torch.Tensor) -> torch.Tensor:
        shared: torch.Tensor = broadcast(values.to(self._accelerator.device)).cpu()
        return shared


def shared_estimator(
    estimator: DifficultyEstimator | EstimatorConfig | None,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> DifficultyEstimator | None:
    """Return an estimator with equal predictions in every process; all processes call this.

    Args:
        estimator: Settings of an estimator to build on the accelerator's device; an estimator, of
            which the main process's replica is used; or None.
        accelerator: The run's Accelerator.
        tokenizer: The policy's tokenizer.
        seed: Seed of the estimator that is built.
    """
    if isinstance(estimator, EstimatorConfig):
        device = accelerator.device if accelerator.device.type == "cuda" else "cpu"
        wanted = estimator.enabled and accelerator.is_main_process
        built: DifficultyEstimator | None = (
            BertDifficultyEstimator(estimator, tokenizer, seed=seed, device=device)
            if wanted
            else None
        )
        absent = not estimator.enabled
    else:
        built, absent = estimator, estimator is None
    if absent or accelerator.num_processes == 1:
        return built
    return MainProcessEstimator(built if accelerator.is_main_process else None, accelerator)


def require_equal(what: str, value: object, accelerator: Accelerator) -> None:
    """Check that all processes hold the same value; all processes call this.

    Args:
        what: Name of the value, for the message.
        value: Any value whose `repr` identifies it.
        accelerator: The run's Accelerator.

    Raises:
        StateError: The values differ.
    """
    if accelerator.num_processes == 1:
        return
    checksums = gather(
        torch.tensor([zlib.crc32(repr(value).encode())], device=accelerator.device)
    ).tolist()
    if len(set(checksums)) > 1:
        raise StateError(
            f"{what}: got checksums {checksums}, one per process, expected equal ones; give "
            f"every process the same data and seed"
        )
