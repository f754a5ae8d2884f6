"""Bytes that each process of a run will hold; docs/scaling.md says the formulas in words.

Weights, gradients, moments, keys and values are exact, what one pass needs is measured to be within
a tenth on the tests' models. Not counted: what the allocator wastes, CUDA's context, Python, the
libraries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from depo.config import TrainConfig
from depo.rollout.vllm.options import CPU_KV_CACHE_BYTES
from depo.training.dry_run.shapes import SIZES, EstimatorShape, Lengths, PolicyShape
from depo.training.learner.losses import CHUNK_ELEMENTS

MOMENTS = 2
"""Numbers that AdamW keeps for each parameter, of the parameter's own type."""

OBJECT_STORE_COPIES = 3
"""Of the weights, in Ray's object store: those that actors are built from, the present ones, and
the next ones on their way in.
"""

TRANSIT_COPIES = 2
"""Of the weights, on the host of a process that sends or receives them: the packed bytes, and the
tensors read from them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Bytes that one kind of process holds.

    Attributes:
        name: Its role.
        count: How many there are.
        on_gpu: Whether `held` and `phases` are on a GPU.
        held: What stays, by name.
        phases: What comes on top of it, one at a time, by name.
        transit: Most bytes on the host while weights are on their way.
        generates: Whether it has an engine.
    """

    name: str
    count: int
    on_gpu: bool
    held: Mapping[str, int]
    phases: Mapping[str, int] = field(default_factory=dict)
    transit: int = 0
    generates: bool = False

    @property
    def peak(self) -> int:
        """Most bytes on its device at a time."""
        return sum(self.held.values()) + max(self.phases.values(), default=0)

    @property
    def host(self) -> int:
        """Most bytes on the host."""
        return self.transit + (0 if self.on_gpu else self.peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """The processes of a run and what they hold.

    Attributes:
        config: The run.
        policy: Its policy.
        lengths: Of prompts and responses.
        estimator: Its estimator, or None.
        on_gpu: Whether the starting process works on a GPU.
        gpu_bytes: Memory of one GPU; 0: not known.
    """

    config: TrainConfig
    policy: PolicyShape
    lengths: Lengths
    estimator: EstimatorShape | None = None
    on_gpu: bool = False
    gpu_bytes: int = 0

    @property
    def weights(self) -> int:
        """Bytes of the policy's weights."""
        return self.policy.parameters * SIZES[self.config.policy.dtype]

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint's tensors: weights and moments of policy and estimator."""
        estimator = self._estimator()[0]
        return (1 + MOMENTS) * self.weights + sum(estimator.values())

    @property
    def object_store(self) -> int:
        """Bytes of weights in Ray's object store."""
        return OBJECT_STORE_COPIES * self.weights if self.config.distributed.uses_ray else 0

    def processes(self) -> Iterator[Process]:
        """Yield each kind of process: the one that is started, then the actors."""
        settings = self.config.distributed
        estimator, estimator_phases = self._estimator()
        yield self._starting_process()
        if settings.rollout_workers:
            on_gpu = settings.rollout_gpus > 0
            held, phases = (
                {"policy's weights": self.weights} | self._engine(on_gpu),
                self._rollout(),
            )
            yield self._process(
                "rollout worker", settings.rollout_workers, on_gpu, held, phases, generates=True
            )
        if settings.learner_actors:
            on_gpu, ranks = settings.learner_gpus > 0, settings.learner_actors
            held = {f"policy's weights / {ranks}": self.weights // ranks} | self._learner(ranks)
            yield self._process(
                "learner rank", ranks, on_gpu, held, {"update": self.update(ranks, on_gpu)}
            )
        if settings.overlap and estimator:
            yield Process(
                name="estimator",
                count=1,
                on_gpu=settings.estimator_gpus > 0,
                held=estimator,
                phases=estimator_phases,
            )

    def _starting_process(self) -> Process:
        settings = self.config.distributed
        held, phases = {"policy's weights": self.weights}, dict[str, int]()
        if not settings.learner_actors:
            held |= self._learner(1)
            phases |= {"update": self.update(1, self.on_gpu)}
        if not settings.rollout_workers:
            held |= self._engine(self.on_gpu)
            phases |= self._rollout()
        if not settings.overlap:
            estimator, estimator_phases = self._estimator()
            held, phases = held | estimator, phases | estimator_phases
        return self._process(
            "starting process", 1, self.on_gpu, held, phases, generates=not settings.rollout_workers
        )

    def _process(
        self,
        name: str,
        count: int,
        on_gpu: bool,
        held: Mapping[str, int],
        phases: Mapping[str, int],
        *,
        generates: bool = False,
    ) -> Process:
        """Return a process that sends or receives weights if there is another."""
        transit = TRANSIT_COPIES * self.weights if self.config.distributed.uses_ray else 0
        return Process(
            name=name,
            count=count,
            on_gpu=on_gpu,
            held=held,
            phases=phases,
            transit=transit,
            generates=generates,
        )

    def update(self, ranks: int, on_gpu: bool) -> int:
        """Return the bytes of an update beyond what stays.

        Gradients, and the largest of what follows one after the other.
        """
        gathered = 0
        if (
            ranks > 1
            # embeddings, head and their gradients are whole for a pass; one layer is in use and one
            # comes ahead of time
        ):
            gathered = (
                2
                * (self.policy.outside_parameters + self.policy.layer_parameters)
                * SIZES[self.config.policy.dtype]
            )
        at_once = (
            self.weights // ranks if on_gpu else 0
        )  # AdamW on a GPU takes all parameters together
        return self.weights // ranks + max(gathered + self.microbatch(), at_once)

    def microbatch(self) -> int:
        """Return the bytes of one forward and backward pass.

        Activations, logits and their gradient, weights as autocast casts them.
        """
        policy, size = self.policy, self._compute_size
        casts = size < SIZES[self.config.policy.dtype]
        run, optimizer = self.config.run, self.config.optimizer
        sequences = (
            math.ceil(run.prompts_per_step / optimizer.minibatches) * self.config.rollout.group_size
        )
        tokens = max(
            self.lengths.longest,
            min(optimizer.tokens_per_microbatch, sequences * self.lengths.longest),
        )
        loss_tokens = (
            tokens * self.lengths.response // (self.lengths.shortest_prompt + self.lengths.response)
        )
        logits, copy = size * loss_tokens * policy.vocabulary, casts * size * policy.parameters
        chunk = 4 * min(loss_tokens * policy.vocabulary, CHUNK_ELEMENTS)
        loss = max(logits + 3 * chunk, 2 * logits + chunk)
        around = tokens * 8 * policy.width + loss_tokens * size * policy.width
        layer = tokens * policy.layer_activations(size, casts)
        if self.config.policy.gradient_checkpointing:
            return (
                around + policy.layers * tokens * 4 * policy.width + max(loss, copy + logits, layer)
            )
        return around + policy.layers * layer + copy + loss

    def rollout(self) -> int:
        """Return the bytes of keys and values.

        Also of what sampling needs, while the local engine generates.
        """
        sampling = self.policy.vocabulary * (
            self._compute_size + 3 * 4 + 8
        )  # logits; three times float32 and once float64 of as many
        return self.config.rollout.sequences_per_batch * (self.kv_per_sequence + sampling)

    @property
    def kv_per_sequence(self) -> int:
        """Bytes of keys and values of the longest sequence in one process.

        Those of the local engine are of the weights' type, autocast or not.
        """
        if self.config.rollout.engine == "local":
            return self.lengths.longest * self.policy.kv_bytes(SIZES[self.config.policy.dtype])
        return (
            self.lengths.longest
            * self.policy.kv_bytes(self._vllm_size)
            // min(self.config.vllm.tensor_parallel, self.policy.kv_heads)
        )

    def _learner(self, ranks: int) -> dict[str, int]:
        part = f" / {ranks}" if ranks > 1 else ""
        reference = (
            {f"reference policy{part}": self.weights // ranks}
            if self.config.loss.kl_weight > 0
            else {}
        )
        return {f"AdamW's moments{part}": MOMENTS * self.weights // ranks} | reference

    def _rollout(self) -> dict[str, int]:
        return {"rollout": self.rollout()} if self.config.rollout.engine == "local" else {}

    def _engine(self, on_gpu: bool) -> dict[str, int]:
        """Return what vLLM holds, its keys and values for as long as it lives.

        On each of its GPUs, or on the host in all of its processes together.

        The local engine generates with the policy itself.
        """
        if self.config.rollout.engine == "local":
            return {}
        weights, settings = self.policy.parameters * self._vllm_size, self.config.vllm
        processes = settings.tensor_parallel
        mib = settings.kv_cache_mib
        cache = CPU_KV_CACHE_BYTES if mib == "auto" else mib << 20
        if not on_gpu:
            return {"vLLM's weights": weights, "vLLM's keys and values, or more": processes * cache}
        if mib == "auto":
            cache = max(
                int(settings.gpu_memory_share * self.gpu_bytes) - weights // processes,
                self.kv_per_sequence,
            )
        part = f" / {processes}" if processes > 1 else ""
        return {
            f"vLLM's weights{part}": weights // processes,
            "vLLM's keys and values, or more": cache,
        }

    @property
    def _vllm_size(self) -> int:
        dtype = self.config.vllm.dtype
        return self._compute_size if dtype == "auto" else SIZES[dtype]

    @property
    def _compute_size(self) -> int:
        """Bytes of a number in matrix products.

        This goes by the learner's device in all processes.
        """
        autocast, settings = self.config.policy.autocast, self.config.distributed
        on_gpu = settings.learner_gpus > 0 if settings.learner_actors else self.on_gpu
        return SIZES[
            "bfloat16"
            if autocast == "bfloat16" or (autocast == "auto" and on_gpu)
            else self.config.policy.dtype
        ]

    def _estimator(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return what an estimator holds, and gradients and activations of its update."""
        if not self.estimator:
            return {}, {}
        texts = min(
            max(self.config.run.prompts_per_step, self.config.estimator.replay_batch),
            self.estimator.texts_per_pass,
        )
        held = {
            "estimator and its moments": 4
            * (self.estimator.parameters + MOMENTS * self.estimator.trained)
        }
        return held, {
            "estimator's update": 4 * self.estimator.trained + texts * self.estimator.activations
        }
