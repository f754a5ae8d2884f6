"""Generate rollouts with a transformers model in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depo.rollout.decoding import DecodingRows
from depo.rollout.precision import mixed_precision
from depo.rollout.prompts import encode_prompts
from depo.rollout.requests import (
    check_limits,
    check_request,
    decode_responses,
    end_tokens,
    prompt_positions,
)
from depo.rollout.sampling import sample_tokens
from depo.sampler.keyed import derive_key, uniforms
from depo.types.records import BoolArray, Float32Array, Int64Array, Prompt, RolloutGroup

COMPACT_BELOW = 0.75
"""Finished rows are dropped once fewer than this share of the held rows is unfinished.

Dropping copies the whole cache, while a step only reads it.
"""


class LocalEngine:
    """Generate with any Hugging Face causal LM.

    Each prompt is prefilled once. Each step then appends one token to every unfinished row.

    Response g of prompt b takes its random numbers from (keys[b], g) and the position alone. It
    does not depend on other prompts or on batching, up to the rounding of the forward pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        sequences_per_batch: int,
        max_prompt_tokens: int,
        eos_token_ids: Sequence[int] | None = None,
        autocast: str = "off",
    ) -> None:
        """Generate with `model`, which may be the module that is being trained.

        Args:
            model: The policy.
            tokenizer: The policy's tokenizer.
            max_new_tokens: Token budget of a response, T >= 1.
            sequences_per_batch: Rows that are generated together, >= 1.
            max_prompt_tokens: Limit of a prompt's tokens, >= 1.
            eos_token_ids: Tokens that end a response; None: those of the model's generation config
                and of the tokenizer.
            autocast: Compute type, as `PolicyConfig.autocast`; the learner's own.

        Raises:
            ValueError: An argument is out of its range, or there is no end-of-sequence token.
        """
        check_limits(
            max_new_tokens=max_new_tokens,
            sequences_per_batch=sequences_per_batch,
            max_prompt_tokens=max_prompt_tokens,
        )
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._sequences_per_batch = sequences_per_batch
        self._max_prompt_tokens = min(
            max_prompt_tokens, prompt_positions(model.config, max_new_tokens)
        )
        self._eos_token_ids = np.array(end_tokens(eos_token_ids, model, tokenizer), dtype=np.int64)
        self._policy_version = 0
        self._autocast = autocast

    @property
    def policy_version(self) -> int:
        """Version of the weights that `generate` uses; 0 until `load_weights` sets another."""
        return self._policy_version

    @property
    def max_prompt_tokens(self) -> int:
        """Token limit of a prompt.

        It is the limit that was given, or the model's positions less `max_new_tokens` if fewer.
        """
        return self._max_prompt_tokens

    def load_weights(self, policy: PreTrainedModel, policy_version: int) -> None:
        """Copy the weights of `policy` as version `policy_version`.

        Nothing is copied if `policy` is the engine's own module.

        Raises:
            ValueError: `policy` has another architecture, or only one of the two models ties its
                embeddings.
        """
        if policy is not self._model:
            ours, theirs = self._model.config.tie_word_embeddings, policy.config.tie_word_embeddings
            if ours != theirs:
                raise ValueError(
                    f"policy: got tie_word_embeddings={theirs}, expected {ours} as in the "
                    f"engine's model"
                )
            try:
                self._model.load_state_dict(policy.state_dict())
            except RuntimeError as error:
                raise ValueError(
                    f"policy: its weights do not fit the engine's model: {error}"
                ) from error
        self._policy_version = policy_version

    @torch.inference_mode()
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
        """
        check_request(prompts, group_size, keys, temperature)
        if not prompts:
            return []
        prompt_ids = encode_prompts(prompts, self._tokenizer, self._max_prompt_tokens)
        row_keys_BG = np.array(
            [[derive_key(key, "response", g) for g in range(group_size)] for key in keys],
            dtype=np.uint64,
        )
        tokens_NT = np.empty((len(prompts) * group_size, self._max_new_tokens), dtype=np.int64)
        logprobs_NT = np.empty(tokens_NT.shape, dtype=np.float32)
        with _evaluation_mode(self._model), mixed_precision(self._autocast, self._model.device):
            for rows in self._batches(prompt_ids, group_size):
                chosen, prompt_of_row = np.unique(rows // group_size, return_inverse=True)
                decoding = DecodingRows(
                    self._model,
                    [prompt_ids[b] for b in chosen],
                    prompt_of_row.astype(np.int64),
                    self._max_new_tokens,
                )
                tokens_NT[rows], logprobs_NT[rows] = self._decode(
                    decoding, row_keys_BG.ravel()[rows], temperature
                )
        return self._groups(prompt_ids, tokens_NT, logprobs_NT, group_size)

    def _batches(self, prompt_ids: Sequence[Int64Array], group_size: int) -> Iterator[Int64Array]:
        """Yield batches of rows, int64; row b * G + g is response g of prompt b.

        Prompts of similar length are batched together. A group is split only if it exceeds a batch.
        """
        by_length = np.argsort([ids.size for ids in prompt_ids], kind="stable")
        rows = (by_length[:, None] * group_size + np.arange(group_size)).ravel()
        limit = self._sequences_per_batch
        size = limit - limit % group_size if group_size <= limit else limit
        for start in range(0, rows.size, size):
            yield rows[start : start + size]

    def _decode(
        self, decoding: DecodingRows, row_keys_R: NDArray[np.uint64], temperature: float
    ) -> tuple[Int64Array, Float32Array]:
        """Return tokens and log-probs, [R, T] each.

        Values after a row's first end-of-sequence token are undefined.
        """
        device = decoding.logits_RV.device
        eos_token_ids = torch.from_numpy(self._eos_token_ids).to(device)
        uniforms_RT = torch.from_numpy(uniforms(row_keys_R, 0, self._max_new_tokens)).to(device)
        tokens_RT = torch.zeros(uniforms_RT.shape, dtype=torch.int64, device=device)
        logprobs_RT = torch.zeros(uniforms_RT.shape, device=device)
        held = torch.arange(row_keys_R.size, device=device)
        unfinished = torch.ones_like(held, dtype=torch.bool)
        for step in range(self._max_new_tokens):
            tokens_R, logprobs_R = sample_tokens(
                decoding.logits_RV, uniforms_RT[held, step], temperature
            )
            tokens_RT[held, step] = tokens_R
            logprobs_RT[held, step] = logprobs_R
            unfinished &= (tokens_R[:, None] != eos_token_ids).all(-1)
            count = int(unfinished.sum())
            if count == 0 or step + 1 == self._max_new_tokens:
                break
            if count < COMPACT_BELOW * held.numel():
                kept = unfinished.nonzero()[:, 0]
                decoding.keep(kept)
                held, unfinished, tokens_R = held[kept], unfinished[kept], tokens_R[kept]
            decoding.append(tokens_R)
        if not torch.isfinite(logprobs_RT).all():
            raise FloatingPointError(
                f"policy version {self._policy_version}: its logits at temperature {temperature} "
                f"are not finite; has training diverged?"
            )
        return tokens_RT.cpu().numpy(), logprobs_RT.cpu().numpy()

    def _groups(
        self,
        prompt_ids: Sequence[Int64Array],
        tokens_NT: Int64Array,
        logprobs_NT: Float32Array,
        group_size: int,
    ) -> list[RolloutGroup]:
        """Cut each row after its first end-of-sequence token; return the decoded groups."""
        is_eos_NT = np.isin(tokens_NT, self._eos_token_ids)
        finished_N: BoolArray = np.asarray(is_eos_NT.any(axis=1))
        lengths_N = np.where(finished_N, is_eos_NT.argmax(axis=1) + 1, self._max_new_tokens)
        response_ids = [
            row[:length].copy() for row, length in zip(tokens_NT, lengths_N, strict=True)
        ]
        logprobs = [row[:length].copy() for row, length in zip(logprobs_NT, lengths_N, strict=True)]
        responses = decode_responses(response_ids, finished_N, self._tokenizer)
        return [
            RolloutGroup(
                prompt_ids=ids,
                response_ids=tuple(response_ids[start : start + group_size]),
                rollout_logprobs=tuple(logprobs[start : start + group_size]),
                finished=finished_N[start : start + group_size],
                responses=tuple(responses[start : start + group_size]),
                policy_version=self._policy_version,
            )
            for start, ids in zip(range(0, len(responses), group_size), prompt_ids, strict=True)
        ]


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and restore each module's own mode at the end."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
