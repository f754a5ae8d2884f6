"""One estimator for all processes of a run, and the check that their samplers agree.

Every process holds a replica of the sampler. Rewards are gathered before they are observed, so
replicas stay equal as long as their predictions are; those therefore come from one process, because
the floats of a network differ between devices.
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
    """The main process's estimator, heard by all (a `depo.types.protocols.DifficultyEstimator`).

    All processes call each method together, but for `state_dict`.

    Args:
        estimator: Predicts and learns; None in every process but the main one.
        accelerator: Knows the processes.
    """

    def __init__(self, estimator: DifficultyEstimator | None, accelerator: Accelerator) -> None:
        self._estimator, self._accelerator = estimator, accelerator
        self._version = self._heard_version()

    @property
    def version(self) -> int:
        """Number of updates so far, known to all."""
        return self._version

    def predict(self, texts: Sequence[str]) -> Float32Array:
        """Return the main process's predictions, float32 [C]."""
        predicted_C = self._estimator.predict(texts) if self._estimator else np.zeros(len(texts))
        heard_C: Float32Array = self._heard(torch.tensor(predicted_C, dtype=torch.float32)).numpy()
        return heard_C

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        """Let the main process learn; the metrics are empty in the others."""
        metrics = self._estimator.update(batches) if self._estimator else {}
        self._version = self._heard_version()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the estimator's state, as if it stood alone.

        Empty in every process but the main one.
        """
        return self._estimator.state_dict() if self._estimator else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the estimator's state, at which only the main process looks."""
        if self._estimator:
            self._estimator.load_state_dict(state)
        self._version = self._heard_version()

    def _heard_version(self) -> int:
        return int(self._heard(torch.tensor([self._estimator.version if self._estimator else 0])))

    def _heard(self, values: torch.Tensor) -> torch.Tensor:
        heard: torch.Tensor = broadcast(values.to(self._accelerator.device)).cpu()
        return heard


def shared_estimator(
    estimator: DifficultyEstimator | EstimatorConfig | None,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> DifficultyEstimator | None:
    """Return an estimator that says the same in every process; all of them call this together.

    Args:
        estimator: Settings of one to be built on the accelerator's device, or one of which the main
            process's is used, or None.
        accelerator: Knows the processes.
        tokenizer: The policy's.
        seed: Source of the built estimator's random numbers.
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
    """Check that all processes, which call this together, hold the same value.

    Args:
        what: Name of the value, for the message.
        value: Anything that `repr` tells apart.
        accelerator: Knows the processes.

    Raises:
        StateError: They do not.
    """
    if accelerator.num_processes == 1:
        return
    checksums = gather(
        torch.tensor([zlib.crc32(repr(value).encode())], device=accelerator.device)
    ).tolist()
    if len(set(checksums)) > 1:
        raise StateError(
            f"{what}: got checksums {checksums}, one of each process, expected the same in all of "
            f"them"
        )
