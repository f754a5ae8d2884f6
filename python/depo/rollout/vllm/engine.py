"""Rollouts by vLLM in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depo.config import VllmConfig
from depo.rollout.prompts import encode_prompts
from depo.rollout.requests import (
    check_limits,
    check_request,
    decode_responses,
    end_tokens,
    prompt_positions,
)
from depo.rollout.vllm.host import prepare_vllm, unchanged_host
from depo.rollout.vllm.options import check_heads, engine_options
from depo.sampler.keyed import derive_key
from depo.types.records import Prompt, RolloutGroup

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import (
        WeightTransferInitRequest,
        WeightTransferUpdateRequest,
    )

CLOSED = "it is closed, or another one was started in this process"
NO_WEIGHTS = "no weights have arrived yet"
UPDATING = (
    "a weight update has begun and not finished; if it broke off, go on from the newest "
    "checkpoint with another engine"
)
SHAPE_KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
)
"""What two models' configurations must agree on for the one to take the other's weights."""


class VllmEngine:
    """Generates with vLLM.

    A `depo.types.protocols.RolloutEngine`, and the client that vLLM's weight-transfer senders talk
    to.

    Response g of prompt b is sampled with its own generator, seeded by (keys[b], g): it depends on
    no other request, up to the rounding of batched kernels. Its log-probs are those it was sampled
    with, at the request's temperature.

    The four methods of vLLM's `VLLMWeightSyncClient` make an update. `load_weights` calls them for
    a learner in this process. Where a Ray actor is the engine, `RayVLLMWeightSyncClient` calls
    them, and puts what it sends into request objects. An update that breaks off leaves vLLM without
    weights: the engine then refuses all work.

    vLLM's process group and much else is global: a process has one engine. Starting another closes
    it.
    """

    _open: ClassVar[VllmEngine | None] = None

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: VllmConfig,
        *,
        max_new_tokens: int,
        sequences_per_batch: int,
        max_prompt_tokens: int,
        eos_token_ids: Sequence[int] | None = None,
        backend: str = "depo",
    ) -> None:
        """Start vLLM with the architecture, weights and end-of-sequence tokens of `policy`.

        As version 0.

        Args:
            policy: The policy.
            tokenizer: Its tokenizer.
            config: Compute type, "auto" being that of `policy`, memory, and over how many processes
                the model is split.
            max_new_tokens: Token budget of a response, T >= 1.
            sequences_per_batch: Rows generated together, >= 1.
            max_prompt_tokens: Longer prompts are an error, >= 1.
            eos_token_ids: Tokens that end a response; None: those of the policy's generation config
                and of the tokenizer.
            backend: How weights arrive, `depo.rollout.vllm.transfer.Backend`; other than "depo",
                the engine has none before a sender's first update.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: An argument is out of its range, no end-of-sequence token is known, or vLLM
                cannot run the model here.
        """
        check_limits(
            max_new_tokens=max_new_tokens,
            sequences_per_batch=sequences_per_batch,
            max_prompt_tokens=max_prompt_tokens,
        )
        self._tokenizer, self._max_new_tokens = tokenizer, max_new_tokens
        self._eos_token_ids = end_tokens(eos_token_ids, policy, tokenizer)
        self._max_prompt_tokens = min(
            max_prompt_tokens, prompt_positions(policy.config, max_new_tokens)
        )
        on_cpu = prepare_vllm(processes=config.tensor_parallel)
        check_heads(policy.config, config.tensor_parallel, on_cpu=on_cpu)
        if VllmEngine._open:
            VllmEngine._open.close()
        longest = self._max_prompt_tokens + max_new_tokens
        options = engine_options(config, policy, max_model_len=longest, on_cpu=on_cpu)
        transfer = {"weight_transfer_config": {"backend": backend}}
        self._llm = _start_vllm(policy, max_num_seqs=sequences_per_batch, **transfer, **options)
        VllmEngine._open = self
        self._config = policy.config
        self._processes = config.tensor_parallel
        self._policy_version = 0
        self._unusable = "" if backend == "depo" else NO_WEIGHTS
        self._sender: Any = None
        self._sent: PreTrainedModel | None = None
        if backend == "depo":
            self.load_weights(policy, 0)

    @property
    def policy_version(self) -> int:
        """Version of the weights that `generate` uses.

        0 until `load_weights` or `update_weight_version` says otherwise.
        """
        return self._policy_version

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt that `generate` takes.

        The limit given, or what the model's positions leave beside `max_new_tokens` if that is
        less.
        """
        return self._max_prompt_tokens

    def generate(
        self, prompts: Sequence[Prompt], group_size: int, keys: Sequence[int], *, temperature: float
    ) -> list[RolloutGroup]:
        """Return one group per prompt, in order.

        Args:
            prompts: B prompts.
            group_size: Responses per prompt, G >= 1.
            keys: B random keys (unsigned 64 bit).
            temperature: Sampling temperature; 0 is greedy, and then every log-probability is 0.

        Raises:
            ValueError: An argument is out of its range, or a prompt is too long, empty, or needs a
                chat template that the tokenizer lacks.
            FloatingPointError: The model's logits, divided by the temperature, are not finite.
            RuntimeError: A weight update has broken off, or a request was aborted.
        """
        check_request(prompts, group_size, keys, temperature)
        self._require_usable()
        if not prompts:
            return []
        prompt_ids = encode_prompts(prompts, self._tokenizer, self._max_prompt_tokens)
        requests = [{"prompt_token_ids": ids.tolist()} for ids in prompt_ids]
        sampling = [self._sampling(group_size, key, temperature) for key in keys]
        try:
            with unchanged_host():
                outputs = self._llm.generate(requests, sampling, use_tqdm=False)
        except BaseException:
            self.abort()
            raise
        return [self._group(output, group_size, temperature) for output in outputs]

    def abort(self) -> None:
        """Drop every request that waits or runs; an interrupted `generate` does so itself.

        Weights can only be updated between requests.
        """
        engine = self._llm.llm_engine
        engine.abort_request(list(engine.output_processor.request_states), internal=True)

    def close(self) -> None:
        """Give back vLLM's memory, which does not go with this object, and its process group.

        Calling it twice is fine.
        """
        self._llm.llm_engine.engine_core.shutdown()
        self._unusable = CLOSED
        if VllmEngine._open is self:
            VllmEngine._open = None

    def load_weights(self, policy: PreTrainedModel, policy_version: int) -> None:
        """Take over the weights of `policy`, a model in this process, as `policy_version`.

        Raises:
            ValueError: `policy` is of another architecture; nothing has changed.
            RuntimeError: The update broke off; the engine cannot be used any more.
        """
        for name in SHAPE_KEYS:
            got, expected = (
                getattr(config.get_text_config(), name, None)
                for config in (policy.config, self._config)
            )
            if got != expected:
                raise ValueError(
                    f"policy: got {name} = {got}, expected {expected} as in the engine's model"
                )
        try:
            if self._sent is not policy:
                self._connect(policy)
            self._sender.send_weights()
        except Exception as error:
            raise RuntimeError(
                f"the weights of policy version {policy_version} did not reach vLLM, which cannot "
                f"go on without them: {error}"
            ) from error
        self._policy_version = policy_version

    def init_weight_transfer_engine(
        self, init_info: Mapping[str, Any] | WeightTransferInitRequest
    ) -> None:
        """Connect vLLM's workers to a sender."""
        self._llm.collective_rpc(
            "init_weight_transfer_engine",
            kwargs={"init_info": getattr(init_info, "init_info", init_info)},
        )

    def start_weight_update(self) -> None:
        """Begin an update; until `finish_weight_update` nothing can be generated.

        Raises:
            RuntimeError: An earlier update has not finished.
        """
        if self._unusable != NO_WEIGHTS:
            self._require_usable()
        self._unusable = UPDATING
        self._llm.collective_rpc("start_weight_update")

    def update_weights(self, update_info: Mapping[str, Any] | WeightTransferUpdateRequest) -> None:
        """Receive what the sender sends."""
        self._llm.collective_rpc(
            "update_weights",
            kwargs={"update_info": getattr(update_info, "update_info", update_info)},
        )

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put received weights into place and forget keys and values of the old ones.

        Raises:
            RuntimeError: Requests are running, so that vLLM keeps the old keys and values.
        """
        self._llm.collective_rpc("finish_weight_update")
        if not self._llm.reset_prefix_cache():
            raise RuntimeError(
                "vLLM keeps keys and values of the old weights, because requests are running; "
                "expected `abort` before a weight update"
            )
        self._unusable = ""
        if weight_version is not None:
            self.update_weight_version(weight_version)

    def update_weight_version(self, weight_version: str) -> None:
        """Stamp what is generated from now on with a policy version, as decimal digits."""
        self._policy_version = int(weight_version)

    def _connect(self, policy: PreTrainedModel) -> None:
        from vllm.distributed.weight_transfer.base import ModuleSource
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        from depo.rollout.vllm.transfer import sender_init_info

        self._sender = WeightTransferTrainerFactory.trainer_init(
            sender_init_info("depo", n_workers=self._processes),
            client=self,
            source=ModuleSource(policy),
        )
        self._sent = policy

    def _require_usable(self) -> None:
        if self._unusable:
            raise RuntimeError(f"this vLLM engine cannot be used: {self._unusable}")

    def _sampling(self, group_size: int, key: int, temperature: float) -> Any:
        """Return the request's parameters. vLLM seeds sample g with seed + g.

        These 63 bits leave room for, and takes one sample when it is greedy.
        """
        from vllm import SamplingParams

        return SamplingParams(
            n=group_size if temperature else 1,
            temperature=temperature,
            max_tokens=self._max_new_tokens,
            seed=derive_key(key, "vllm") >> 1,
            ignore_eos=True,
            stop_token_ids=self._eos_token_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
        )

    def _group(self, output: Any, group_size: int, temperature: float) -> RolloutGroup:
        """Return what vLLM made of one request."""
        samples = output.outputs if temperature else output.outputs * group_size
        if aborted := [
            sample.finish_reason
            for sample in samples
            if sample.finish_reason not in ("stop", "length")
        ]:
            raise RuntimeError(
                f"vLLM ended a request for the reason {aborted[0]!r}, expected stop or length"
            )
        response_ids = tuple(np.array(sample.token_ids, np.int64) for sample in samples)
        logprobs = tuple(np.array(sample.logprobs.logprobs, np.float32) for sample in samples)
        if not all(np.isfinite(row).all() for row in logprobs):
            raise FloatingPointError(
                f"policy version {self._policy_version}: its logits at temperature {temperature} "
                f"are not finite; has training diverged?"
            )
        finished = np.array([sample.finish_reason == "stop" for sample in samples])
        return RolloutGroup(
            prompt_ids=np.array(output.prompt_token_ids, np.int64),
            response_ids=response_ids,
            rollout_logprobs=logprobs
            if temperature
            else tuple(np.zeros_like(row) for row in logprobs),
            finished=finished,
            responses=tuple(decode_responses(response_ids, finished, self._tokenizer)),
            policy_version=self._policy_version,
        )


def _start_vllm(policy: PreTrainedModel, **options: Any) -> Any:
    """Start vLLM with the architecture of `policy`, without its weights."""
    from vllm import LLM

    from depo.rollout.vllm.transfer import register_backend

    register_backend()
    with tempfile.TemporaryDirectory() as directory, unchanged_host():
        policy.config.save_pretrained(directory)
        return LLM(model=directory, **options)
