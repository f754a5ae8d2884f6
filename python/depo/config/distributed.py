"""Section [distributed] of a configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass

from depo.config.keys import check_section, key, require


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributedConfig:
    """More processes than one, on one machine or many, under Ray (extra `depo-rl[ray]`).

    By default everything runs in this process.
    """

    rollout_workers: int = key(
        0,
        "Ray actors that generate, each with its own copy of the policy; 0: this process generates",
        ge=0,
    )
    learner_ranks: int = key(
        1,
        "Ray actors that train together, weights, gradients and optimizer sharded (FSDP2); 1: "
        "this process trains",
        ge=1,
    )
    overlap: bool = key(
        False,
        "while rollout workers generate, an estimator actor learns from the labels of the step "
        "before and scores the next candidates",
    )
    max_policy_lag: int = key(
        0,
        "1: while the learner updates, workers generate the next batch with the weights from "
        "before, one version old; 0: on-policy",
        ge=0,
        le=1,
    )
    address: str = key(
        "",
        "Ray cluster to join, HOST:PORT or auto; empty: one on this machine, on its loopback "
        "interface, for this run alone",
    )
    actor_cpus: float = key(1.0, "CPUs reserved for each actor", gt=0)
    rollout_gpus: float = key(
        0.0, "GPUs reserved for each rollout worker; 0: it generates on the CPU", ge=0
    )
    learner_gpus: float = key(
        0.0, "GPUs reserved for each learner rank, not a part of one; 0: it trains on the CPU", ge=0
    )
    estimator_gpus: float = key(
        0.0, "GPUs reserved for the estimator actor; 0: it works on the CPU", ge=0
    )

    def __post_init__(self) -> None:
        check_section("distributed", self)
        require(
            re.fullmatch(r"(auto|[^/]+:\d+)?", self.address) is not None,
            "distributed.address",
            self.address,
            "HOST:PORT, auto or nothing",
        )
        overlaps = not self.overlap or self.rollout_workers > 0
        require(
            overlaps,
            "distributed.overlap",
            self.overlap,
            "false without distributed.rollout_workers: rollouts would keep this process busy",
        )
        ahead = self.max_policy_lag == 0 or self.rollout_workers > 0
        require(
            ahead,
            "distributed.max_policy_lag",
            self.max_policy_lag,
            "0 without distributed.rollout_workers: this process updates or generates",
        )
        require(
            self.uses_ray or not self.address,
            "distributed.address",
            self.address,
            "nothing without distributed.rollout_workers or learner_ranks > 1",
        )
        self._check_gpus()

    def _check_gpus(self) -> None:
        for name, actors, needed in (
            ("rollout_gpus", self.rollout_workers, "rollout_workers"),
            ("learner_gpus", self.learner_actors, "learner_ranks > 1"),
            ("estimator_gpus", self.overlap, "overlap"),
        ):
            gpus = getattr(self, name)
            require(
                not gpus or actors > 0,
                f"distributed.{name}",
                gpus,
                f"0 without distributed.{needed}: no actor would use them",
            )
        require(
            not 0 < self.learner_gpus < 1,
            "distributed.learner_gpus",
            self.learner_gpus,
            "0, or 1 or more: NCCL refuses two ranks on one GPU",
        )

    @property
    def learner_actors(self) -> int:
        """Ray actors that train: the ranks, or none where this process trains."""
        return self.learner_ranks if self.learner_ranks > 1 else 0

    @property
    def uses_ray(self) -> bool:
        """Whether any part of the run is an actor."""
        return self.rollout_workers > 0 or self.learner_actors > 0
