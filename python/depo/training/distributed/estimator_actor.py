"""The difficulty estimator in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from depo.training.distributed.cluster import Cluster
from depo.types.protocols import DifficultyEstimator
from depo.types.records import Float32Array, TargetBatch


class EstimatorActor:
    """Actor: one estimator, built when it is first asked for.

    Ray would report what a constructor raises as a death.
    """

    def __init__(self, make_estimator: Callable[[], DifficultyEstimator]) -> None:
        self._make = make_estimator

    @cached_property
    def _estimator(self) -> DifficultyEstimator:
        return self._make()

    def version(self) -> int:
        """Number of updates so far."""
        return self._estimator.version

    def predict(self, texts: Sequence[str]) -> Float32Array:
        """Return the predicted pass rate of each text."""
        return self._estimator.predict(texts)

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        """Take one optimizer step per batch."""
        return self._estimator.update(batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the estimator's state."""
        return self._estimator.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the estimator's state."""
        self._estimator.load_state_dict(state)


class RayEstimator:
    """A `DifficultyEstimator` that works elsewhere; each call waits for its answer.

    Raises:
        WorkerError: Of any call, when the actor has died.
    """

    def __init__(self, cluster: Cluster, make_estimator: Callable[[], DifficultyEstimator]) -> None:
        """Start the actor in its place on `cluster`.

        `make_estimator` is called there and must be importable there. What it raises is raised
        here.
        """
        self._cluster = cluster
        self._actor = cluster.start("estimator", 0, EstimatorActor, make_estimator)
        cluster.get(self._actor.version.remote())

    @property
    def version(self) -> int:
        """Number of updates so far."""
        return int(self._cluster.get(self._actor.version.remote()))

    def predict(self, texts: Sequence[str]) -> Float32Array:
        """Return the predicted pass rate of each text, float32 [C] in (0, 1)."""
        predicted_C: Float32Array = self._cluster.get(self._actor.predict.remote(texts))
        return predicted_C

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        """Take one optimizer step per batch, in order, and return metrics named `estimator/...`."""
        metrics: dict[str, float] = self._cluster.get(self._actor.update.remote(batches))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the estimator's state."""
        state: dict[str, Any] = self._cluster.get(self._actor.state_dict.remote())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the estimator's state."""
        self._cluster.get(self._actor.load_state_dict.remote(state))
