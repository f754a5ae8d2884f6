"""Generate rollouts with vLLM in this process."""

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

CLOSED = "it was closed, or another engine was started in this process"
NO_WEIGHTS = "no weights have arrived yet"
UPDATING = (
    "a weight update has begun and not finished; if it failed, resume from the newest "
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
"""Keys of the configuration that must be equal for a model to take another model's weights."""


class VllmEngine:
    """Generate with vLLM, as a `depo.types.protocols.RolloutEngine`.

    Response g of prompt b is sampled with its own generator, seeded by (keys[b], g). It does not
    depend on other requests, up to the rounding of batched kernels. Its log-probabilities are those
    of the sampling distribution, at the request's temperature.

    The class also implements vLLM's `VLLMWeightSyncClient`, whose four methods make a weight
    update. `load_weights` calls them for a learner in this process. If a Ray actor holds the
    engine, `RayVLLMWeightSyncClient` calls them with request objects. A failed update leaves vLLM
    without weights; the engine then raises on every request.

    A process has one engine, because vLLM's process group and other state are global. Starting
    another engine closes the first.
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

        The weights get version 0.

        Args:
            policy: The policy.
            tokenizer: The policy's tokenizer.
            config: Compute type ("auto": that of `policy`), memory, and number of processes.
            max_new_tokens: Token budget of a response, T >= 1.
            sequences_per_batch: Rows that are generated together, >= 1.
            max_prompt_tokens: Limit of a prompt's tokens, >= 1.
            eos_token_ids: Tokens that end a response; None: those of the policy's generation config
                and of the tokenizer.
            backend: How weights arrive, `depo.rollout.vllm.transfer.Backend`; other than "depo",
                the engine has none before a sender's first update.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: An argument is out of its range, there is no end-of-sequence token, or vLLM
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

        It is 0 until `load_weights` or `update_weight_version` sets another.
        """
        return self._policy_version

    @property
    def max_prompt_tokens(self) -> int:
        """Token limit of a prompt.

        It is the limit that was given, or the model's positions less `max_new_tokens` if fewer.
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
            FloatingPointError: Logits divided by the temperature are not finite.
            RuntimeError: A weight update has failed, or a request was aborted.
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
        """Drop every waiting or running request; an interrupted `generate` calls this itself.

        Weights can only be updated between requests.
        """
        engine = self._llm.llm_engine
        engine.abort_request(list(engine.output_processor.request_states), internal=True)

    def close(self) -> None:
        """Free vLLM's memory and its process group; calling it twice is fine.

        Deleting the object does not free them.
        """
        self._llm.llm_engine.engine_core.shutdown()
        self._unusable = CLOSED
        if VllmEngine._open is self:
            VllmEngine._open = None

    def load_weights(self, policy: PreTrainedModel, policy_version: int) -> None:
        """Copy the weights of `policy`, a model in this process, as version `policy_version`.

        Raises:
            ValueError: `policy` has another architecture; nothing is changed.
            RuntimeError: The update failed; the engine cannot be used any more.
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
                f"the weights of policy version {policy_version} did not reach vLLM, whose "
                f"engine cannot be used any more: {error}"
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
        """Activate the received weights and drop cached keys and values of the old ones.

        Raises:
            RuntimeError: Requests are running, so vLLM keeps the old keys and values.
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
        """Set the policy version of later rollouts, given as decimal digits."""
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
        """Return the request's parameters; a greedy request takes one sample.

        vLLM seeds sample g with seed + g, so the seed has 63 of 64 bits.
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
        """Return vLLM's output of one request as a rollout group."""
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
