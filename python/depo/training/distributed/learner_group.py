"""The learner as a group of Ray actors, one per rank."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from transformers import PreTrainedModel

from depo.training.distributed.cluster import Cluster
from depo.training.distributed.policy_copy import PolicyCopy, pack_weights, unpack_weights
from depo.training.distributed.sharded_learner import ShardedLearner
from depo.types.records import Float32Array, RolloutGroup, TokenFactors

MakeLearner = Callable[[PolicyCopy, PolicyCopy | None], ShardedLearner]

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others within an update."""


class LearnerRank:
    """Actor: one rank of a sharded learner."""

    def __init__(self, rank: int, ranks: int, device: str) -> None:
        self._rank, self._ranks, self._device = rank, ranks, device

    def meeting_place(self) -> str:
        """Return where ranks can meet.

        An address of this machine, or a file where the cluster is this machine and listens to no
        other.
        """
        import ray

        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        if host == "127.0.0.1":
            return f"file://{tempfile.mkdtemp()}/ranks"
        with closing(socket.create_server((host, 0))) as server:
            return f"tcp://{host}:{server.getsockname()[1]}"

    def join(
        self,
        place: str,
        make_learner: MakeLearner,
        policy: PolicyCopy,
        reference: PolicyCopy | None,
    ) -> None:
        """Meet the other ranks and build the learner with them."""
        if place.startswith("file:"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        backend = "nccl" if self._device.startswith("cuda") else "gloo"
        torch.distributed.init_process_group(
            backend,
            init_method=place,
            rank=self._rank,
            world_size=self._ranks,
            timeout=COLLECTIVE_TIMEOUT,
        )
        self._learner = make_learner(policy, reference)

    def update(
        self,
        batch: tuple[Sequence[RolloutGroup], Float32Array, TokenFactors | None],
        step: int,
        policy_lag: int,
    ) -> dict[str, float]:
        """Take part in an update; every rank returns the metrics of all."""
        groups, advantages_BG, token_factors = batch
        return self._learner.update(
            groups, advantages_BG, step=step, policy_lag=policy_lag, token_factors=token_factors
        )

    def weights(self) -> bytes:
        """Take part in gathering the weights; rank 0 returns them."""
        return pack_weights(self._learner.model, keep=self._rank == 0)

    def state_dict(self) -> dict[str, Any]:
        """Take part in gathering the optimizer's state; rank 0 returns it."""
        state = self._learner.state_dict()
        return state if self._rank == 0 else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over one's part of a whole state."""
        self._learner.load_state_dict(state)


class RayLearnerGroup:
    """Behaves as one `PolicyLearner`.

    `update` sends the batch to all ranks and brings the new weights back.

    A rank that dies takes the group with it: its share of weights and optimizer is gone, and only a
    checkpoint has it.

    Attributes:
        model: This process's copy of the policy, with the newest weights.
    """

    def __init__(
        self,
        cluster: Cluster,
        ranks: int,
        policy: PreTrainedModel,
        reference: PreTrainedModel | None,
        make_learner: MakeLearner,
        *,
        device: str = "cpu",
    ) -> None:
        """Start the ranks and let them meet.

        Args:
            cluster: Where; it has a place for each rank.
            ranks: Number of ranks, >= 2.
            policy: What is trained; it stays here as the copy that the group writes new weights to.
            reference: Policy that `loss.kl_weight` pulls towards.
            make_learner: Called in each rank after they met. Must be importable there.
            device: cpu or cuda.
        """
        self.model = policy
        self._cluster = cluster
        self._ranks = [
            cluster.start("learner", rank, LearnerRank, rank, ranks, device)
            for rank in range(ranks)
        ]
        place = cluster.get(self._ranks[0].meeting_place.remote())
        copies = [
            cluster.put(PolicyCopy.of(each) if each is not None else None)
            for each in (policy, reference)
        ]
        self._on_all("join", place, make_learner, *copies)

    def update(
        self,
        groups: Sequence[RolloutGroup],
        advantages_BG: Float32Array,
        *,
        step: int,
        policy_lag: int = 0,
        token_factors: TokenFactors | None = None,
    ) -> dict[str, float]:
        """Train as `PolicyLearner.update`.

        Raises:
            WorkerError: A rank has died.
        """
        metrics: dict[str, float] = self._on_all(
            "update", self._cluster.put((groups, advantages_BG, token_factors)), step, policy_lag
        )
        if metrics["policy/updated"]:
            unpack_weights(self._on_all("weights"), self.model)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the whole optimizer state, as one learner would."""
        state: dict[str, Any] = self._on_all("state_dict")
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned on any number of ranks."""
        self._on_all("load_state_dict", self._cluster.put(state))

    def _on_all(self, method: str, *arguments: Any) -> Any:
        """Call a method on all ranks at once and return what rank 0 answers."""
        return self._cluster.get_all(
            [getattr(rank, method).remote(*arguments) for rank in self._ranks]
        )[0]
