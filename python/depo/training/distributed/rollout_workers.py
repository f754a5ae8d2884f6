"""Rollouts by Ray actors.

Data parallel, equal for any number of workers, and not disturbed by the death of one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from transformers import PreTrainedModel

from depo.training.distributed.cluster import Cluster
from depo.training.distributed.policy_copy import PolicyCopy, pack_weights, unpack_weights
from depo.types.errors import WorkerError
from depo.types.protocols import RolloutEngine
from depo.types.records import Prompt, RolloutGroup

logger = logging.getLogger(__name__)

DEATHS_PER_CALL = 3
"""So many workers may die during one call; then something is wrong that a new process does not
mend.
"""


class RolloutWorker:
    """Actor: one engine with a policy of its own, built when it is first asked for.

    Ray would report what a constructor raises as a death.
    """

    def __init__(
        self,
        copy: PolicyCopy,
        make_engine: Callable[[PolicyCopy], tuple[PreTrainedModel, RolloutEngine]],
    ) -> None:
        self._make = partial(make_engine, copy)

    @cached_property
    def _built(self) -> tuple[PreTrainedModel, RolloutEngine]:
        built = self._make()
        del self._make  # and the packed weights in it
        return built

    def max_prompt_tokens(self) -> int:
        """Longest prompt that `generate` takes."""
        return self._built[1].max_prompt_tokens

    def load_weights(self, weights: bytes, policy_version: int) -> None:
        """Take over packed weights."""
        policy, engine = self._built
        unpack_weights(weights, policy)
        engine.load_weights(policy, policy_version)

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        keys: Sequence[int],
        temperature: float,
        policy_version: int,
    ) -> list[RolloutGroup]:
        """Return one group per prompt, of this version of the policy and no other."""
        _, engine = self._built
        if engine.policy_version != policy_version:
            raise RuntimeError(
                f"policy_version: got {policy_version}, but this worker has "
                f"{engine.policy_version}: its weights did not arrive"
            )
        return engine.generate(prompts, group_size, keys, temperature=temperature)


class RayRolloutEngine:
    """A `RolloutEngine` of many workers. Worker w of W generates for prompts w, w + W, ...

    A response is a function of weights, prompt and key. So the result is the same for any number of
    workers up to the rounding of batched forward passes, and the prompts of a worker that died are
    generated again by its successor, with the same keys: no draw is lost, none has to be redrawn,
    and the run is the one that it would have been.
    """

    def __init__(
        self,
        cluster: Cluster,
        workers: int,
        policy: PreTrainedModel,
        make_engine: Callable[[PolicyCopy], Any],
    ) -> None:
        """Start the workers.

        Args:
            cluster: Where; it has a place for each worker.
            workers: Number of workers, >= 1.
            policy: Its architecture, weights and generation settings go to every worker.
            make_engine: Called in the worker: returns the policy built there, and an engine that
                generates with it. Must be importable there.
        """
        self._cluster = cluster
        self._arguments = (cluster.put(PolicyCopy.of(policy)), make_engine)
        self._weights: Any = None
        self._policy_version = 0
        self._workers = [self._start(index) for index in range(workers)]
        self._max_prompt_tokens: int = min(
            cluster.get_all([worker.max_prompt_tokens.remote() for worker in self._workers])
        )

    @property
    def policy_version(self) -> int:
        """Version of the weights that `generate` uses; 0 until `load_weights` says otherwise."""
        return self._policy_version

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt that `generate` takes."""
        return self._max_prompt_tokens

    def load_weights(self, policy: PreTrainedModel, policy_version: int) -> None:
        """Send the weights of `policy` to every worker.

        Packed once, read by all from the object store.

        Raises:
            ValueError: `policy` is of another architecture.
            WorkerError: Workers die again and again.
        """
        before = self._weights, self._policy_version
        self._weights, self._policy_version = (
            self._cluster.put(pack_weights(policy)),
            policy_version,
        )
        try:
            self._ask(range(len(self._workers)), self._send_weights)
        except ValueError:
            self._weights, self._policy_version = before
            raise

    def generate(
        self, prompts: Sequence[Prompt], group_size: int, keys: Sequence[int], *, temperature: float
    ) -> list[RolloutGroup]:
        """Return one group per prompt, in order.

        Raises:
            ValueError: As the engine of the workers.
            WorkerError: Workers die again and again.
        """
        count = len(self._workers)

        def ask(index: int) -> Any:
            share = slice(index, None, count)
            return self._workers[index].generate.remote(
                prompts[share], group_size, keys[share], temperature, self._policy_version
            )

        answers = self._ask(range(min(count, len(prompts))), ask)
        return [answers[position % count][position // count] for position in range(len(prompts))]

    def _ask(self, indices: Sequence[int], ask: Callable[[int], Any]) -> dict[int, Any]:
        """Return what workers answer, by index; one that dies is replaced, and asked again."""
        answers: dict[int, Any] = {}
        waiting = {ask(index): index for index in indices}
        deaths = 0
        while waiting:
            index = waiting.pop(done := self._cluster.first([*waiting]))
            try:
                answers[index] = self._cluster.get(done)
            except WorkerError as death:
                deaths += 1
                if deaths > DEATHS_PER_CALL:
                    raise WorkerError(
                        f"rollout workers died {deaths} times during one call, the last one so: "
                        f"{death}"
                    ) from death
                logger.warning(
                    "rollout worker %d has died and is replaced; its prompts are generated again",
                    index,
                )
                self._replace(index)
                waiting[ask(index)] = index
        return answers

    def _replace(self, index: int) -> None:
        """Put a new worker with the present weights in the place of another."""
        self._cluster.kill(self._workers[index])
        self._workers[index] = self._start(index)
        if self._weights is not None:
            self._send_weights(index)  # a worker does things in the order in which it is asked

    def _start(self, index: int) -> Any:
        return self._cluster.start("rollout", index, RolloutWorker, *self._arguments)

    def _send_weights(self, index: int) -> Any:
        return self._workers[index].load_weights.remote(self._weights, self._policy_version)
