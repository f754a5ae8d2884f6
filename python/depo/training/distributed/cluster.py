"""The Ray cluster of a run.

One reservation for all of its actors, made before the first one starts and given back at the end.
"""

from __future__ import annotations

import ipaddress
import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from depo.config import DistributedConfig
from depo.types.errors import ConfigError, WorkerError, install_hint

Role = Literal["rollout", "learner", "estimator"]

CONNECT_SECONDS = 10.0
"""How long the head of a cluster may take to accept a connection."""

READY_SECONDS = 60.0
"""How long other runs on the same cluster may take to free what this one needs."""


def set_up_ray(*, local: bool) -> None:
    """Set what Ray reads when it is imported, unless it is set.

    No usage statistics, and of a cluster on this machine alone no open port.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_IGNORE_UNHANDLED_ERRORS", "1"
    )  # what several actors share is raised once; the others' copies need no mention
    if local:
        os.environ.setdefault(
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"
        )  # else it listens on all interfaces of this machine
        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # else actors, which do the work, give way to all that runs here, the update included


class Cluster:
    """Starts actors within the resources that a configuration asks for.

    Args:
        config: Actors wanted, and the cluster's address.
        threads: Threads of each actor [>= 1].
        has_estimator: Whether there is an estimator, for which `overlap` reserves a place.

    Raises:
        ImportError: Ray is not installed.
        ConfigError: No cluster at the address, or one that has too little; the message says what
            was asked and what there is.
    """

    def __init__(self, config: DistributedConfig, threads: int, has_estimator: bool = True) -> None:
        self._bundles = reservation_bundles(config, has_estimator)
        self._threads = threads
        set_up_ray(local=not config.address)
        try:
            import ray
        except ImportError as error:
            raise ImportError(
                "distributed: got Ray actors to start, but the package ray is missing: "
                + install_hint("ray")
            ) from error
        self._ray: Any = ray  # whose annotations are partial
        self._owned = not ray.is_initialized()
        if self._owned:
            self._connect(config.address)
        try:
            self._reservation = self._reserve()
        except BaseException:
            if self._owned:
                ray.shutdown()
            raise

    def start(self, role: Role, index: int, actor: type, *arguments: Any) -> Any:
        """Return a handle of a new actor in the place reserved for number `index` of its role.

        It is never restarted by Ray, which would not tell.
        """
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        place = [position for position, (each, _) in enumerate(self._bundles) if each == role][
            index
        ]
        resources = self._bundles[place][1]
        environment = {
            "OMP_NUM_THREADS": str(self._threads),
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if not resources["GPU"]:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        options = {
            "num_cpus": resources["CPU"],
            "num_gpus": resources["GPU"],
            "max_restarts": 0,
            "runtime_env": {"env_vars": environment},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._reservation, placement_group_bundle_index=place
            ),
        }
        return self._ray.remote(actor).options(**options).remote(*arguments)

    def put(self, value: Any) -> Any:
        """Return a reference to a value that many actors may read."""
        return self._ray.put(value)

    def get(self, reference: Any) -> Any:
        """Wait for a result.

        Raises:
            WorkerError: The actor died, or the node that held its result. What the actor itself
                raised is raised as it is.
        """
        try:
            return self._ray.get(reference)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
            raise WorkerError(f"an actor of this run has died: {error}") from error
        except self._ray.exceptions.RayTaskError as error:  # whose text is a traceback
            raise error.cause from error

    def get_all(self, references: Sequence[Any]) -> list[Any]:
        """Wait for all results.

        The first that fails is raised at once, though others may hang because of it.

        Raises:
            WorkerError: An actor died.
        """
        waiting = list(references)
        while waiting:
            waiting.remove(done := self.first(waiting))
            self.get(done)
        return [self.get(reference) for reference in references]

    def first(self, references: Sequence[Any]) -> Any:
        """Return the reference whose result, or failure, is there first."""
        done, _ = self._ray.wait(list(references), num_returns=1)
        return done[0]

    def kill(self, actor: Any) -> None:
        """End an actor, dead ones included."""
        self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End all actors and give back what was reserved.

        A cluster that was started for this run ends too. Calling it twice is fine.
        """
        if self._ray.is_initialized():
            self._ray.util.remove_placement_group(self._reservation)
            if self._owned:
                self._ray.shutdown()

    def _connect(self, address: str) -> None:
        cpus = sum(resources["CPU"] for _, resources in self._bundles)
        # On this machine CPUs are shared as all processes share them; GPUs are counted.
        local = (
            {}
            if address
            else {"num_cpus": max(math.ceil(cpus), os.cpu_count() or 1), "include_dashboard": False}
        )
        if (
            not address
            and not ipaddress.ip_address(host := self._ray.util.get_node_ip_address()).is_loopback
        ):
            found = (
                f"but Ray was imported before depo could confine it and would listen at "
                f"{host}, to whoever asks"
            )
            raise ConfigError(
                f"distributed.address: got nothing, {found}; set "
                f"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 first, or call ray.init yourself"
            )
        with cluster_expected(address):
            if ":" in address:
                probe(address)
            self._ray.init(
                address=address or "local", log_to_driver=False, logging_level="ERROR", **local
            )

    def _reserve(self) -> Any:
        from ray.util.placement_group import placement_group, remove_placement_group

        asked = {
            kind: sum(resources[kind] for _, resources in self._bundles) for kind in ("CPU", "GPU")
        }
        total = self._ray.cluster_resources()
        if any(asked[kind] > total.get(kind, 0.0) for kind in asked):
            raise ConfigError(
                f"distributed: got {_words(asked)} to reserve for {self._roles()}, but the "
                f"cluster has {_words(total)}"
            )
        bundles = [
            {kind: amount for kind, amount in resources.items() if amount}
            for _, resources in self._bundles
        ]
        reservation = placement_group(bundles, strategy="PACK")
        if not reservation.wait(READY_SECONDS):
            free = _words(self._ray.available_resources())
            remove_placement_group(reservation)
            limits = (
                f"within {READY_SECONDS:.0f} s; of the cluster's {_words(total)}, free are "
                f"{free}, on {len(self._ray.nodes())} nodes"
            )
            raise ConfigError(
                f"distributed: got {_words(asked)} to reserve for {self._roles()}, which was not "
                f"possible {limits}"
            )
        return reservation

    def _roles(self) -> str:
        roles = [role for role, _ in self._bundles]
        return " + ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(roles))


@contextmanager
def cluster_expected(address: str) -> Iterator[None]:
    """Turn an OSError.

    This is what a failed connection raises, into a ConfigError about `distributed.address`.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"distributed.address: got {address!r}, expected a Ray cluster that runs: {error}"
        ) from error


def probe(address: str) -> None:
    """Raise an OSError if nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def reservation_bundles(
    config: DistributedConfig, has_estimator: bool
) -> list[tuple[Role, dict[str, float]]]:
    """Return role and resources of each actor."""
    wanted: list[tuple[Role, int, float]] = [
        ("rollout", config.rollout_workers, config.rollout_gpus),
        ("learner", config.learner_actors, config.learner_gpus),
        ("estimator", int(config.overlap and has_estimator), config.estimator_gpus),
    ]
    return [
        (role, {"CPU": config.actor_cpus, "GPU": gpus})
        for role, count, gpus in wanted
        for _ in range(count)
    ]


def _words(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs"
