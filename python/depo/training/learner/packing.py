"""From rollout groups to the tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel

from depo.types.records import Float32Array, Int64Array, RolloutGroup, TokenFactors

HEAD_TAKES_A_MASK = Version(transformers.__version__).release >= (5, 20)
"""Whether `logits_to_keep` may differ from row to row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSequence:
    """One response with its prompt.

    Attributes:
        token_ids: int64 [P + T], prompt and response.
        prompt_length: P >= 1.
        rollout_logprobs: float32 [T], log-probability of each response token when it was sampled.
        advantages: float32 [T], advantage of each response token.
        learner_logprobs: float32 [T], log-probability of each response token under the weights
            before the update, as the learner computes it; None: not noted.
    """

    token_ids: Int64Array
    prompt_length: int
    rollout_logprobs: Float32Array
    advantages: Float32Array
    learner_logprobs: Float32Array | None = None

    @property
    def response_length(self) -> int:
        """Response tokens, T >= 0."""
        return self.token_ids.size - self.prompt_length


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """N sequences padded on the right to T tokens.

    Also their L response tokens without padding, row after row.

    A causal model never looks to the right, so padding there needs neither an attention mask nor
    position ids.

    Attributes:
        input_ids_NT: int64 [N, T].
        predicts_NT: bool [N, T], True where the next token is a response token; L of them are True.
        target_ids_L: int64 [L], those next tokens.
        lengths_N: int64 [N], response tokens of each sequence; their sum is L.
        rollout_logprobs_L: float32 [L], their log-probabilities when they were sampled.
        advantages_L: float32 [L], their advantages.
        weights_L: float32 [L], factor of their loss in the loss of the whole batch.
        learner_logprobs_L: float32 [L], or None unless it is noted for all N sequences.
    """

    input_ids_NT: Tensor
    predicts_NT: Tensor
    target_ids_L: Tensor
    lengths_N: Tensor
    rollout_logprobs_L: Tensor
    advantages_L: Tensor
    weights_L: Tensor
    learner_logprobs_L: Tensor | None


def flatten_groups(
    groups: Sequence[RolloutGroup],
    advantages_BG: Float32Array,
    token_factors: TokenFactors | None = None,
) -> list[TrainSequence]:
    """Return the B * G responses of B groups, group after group.

    Args:
        groups: B groups of G responses.
        advantages_BG: [B, G], advantage of each response.
        token_factors: [B][G] arrays float32 [T], what each token's advantage is multiplied by;
            None: 1.

    Raises:
        ValueError: The advantages do not fit the groups or are not finite, a prompt is empty, or a
            response has another length than its log-probs or factors.
    """
    if advantages_BG.ndim != 2 or advantages_BG.shape[0] != len(groups):
        raise ValueError(
            f"advantages_BG: got shape {advantages_BG.shape}, expected [{len(groups)}, G], one "
            f"row per group"
        )
    if not np.isfinite(advantages_BG).all():
        raise ValueError(
            f"advantages_BG: got {np.count_nonzero(~np.isfinite(advantages_BG))} values that are "
            f"not finite, expected none"
        )
    sequences: list[TrainSequence] = []
    for index, (group, advantages_G) in enumerate(zip(groups, advantages_BG, strict=True)):
        _check_group(group, advantages_G.size, index)
        factors = (
            token_factors[index]
            if token_factors is not None
            else [np.ones(response.size, np.float32) for response in group.response_ids]
        )
        _require_lengths(f"token_factors[{index}]", factors, group)
        for row, (response, logprobs) in enumerate(
            zip(group.response_ids, group.rollout_logprobs, strict=True)
        ):
            advantages = advantages_G[row] * factors[row]
            token_ids = np.concatenate([group.prompt_ids, response])
            sequences.append(
                TrainSequence(
                    token_ids=token_ids,
                    prompt_length=group.prompt_ids.size,
                    rollout_logprobs=logprobs,
                    advantages=advantages,
                )
            )
    return sequences


def _check_group(group: RolloutGroup, group_size: int, index: int) -> None:
    if len(group.response_ids) != group_size:
        raise ValueError(
            f"groups[{index}]: got {len(group.response_ids)} responses, expected {group_size}, "
            f"the columns of advantages_BG"
        )
    if group.prompt_ids.size == 0:
        raise ValueError(
            f"groups[{index}].prompt_ids: got no token, expected at least 1 to predict the first "
            f"response token from"
        )
    _require_lengths(f"groups[{index}].rollout_logprobs", group.rollout_logprobs, group)


def _require_lengths(name: str, values: Sequence[Float32Array], group: RolloutGroup) -> None:
    """Raise unless there is one array for each response of the group, as long as the response."""
    if len(values) != len(group.response_ids):
        raise ValueError(
            f"{name}: got {len(values)} arrays, expected {len(group.response_ids)}, one per "
            f"response"
        )
    for response, array in zip(group.response_ids, values, strict=True):
        if response.size != array.size:
            raise ValueError(
                f"{name}: got {array.size} for a response of {response.size} tokens, expected as "
                f"many"
            )


def microbatches(lengths: Sequence[int], tokens_per_microbatch: int) -> list[list[int]]:
    """Return index lists that cover `lengths`, longest first, within the budget.

    In each, count * longest stays within it.

    A sequence longer than the budget is alone. Equal lengths keep their order: a pure function of
    the lengths.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens_per_microbatch:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def collate(
    sequences: Sequence[TrainSequence],
    weights: Sequence[float],
    *,
    pad_token_id: int,
    device: torch.device | str,
) -> TrainBatch:
    """Pad sequences on the right and gather what the loss needs of their response tokens.

    Args:
        sequences: N >= 1 sequences.
        weights: N factors, one per sequence.
        pad_token_id: Any valid token; never attended to, never trained on.
        device: Where the tensors go.
    """
    shape = (len(sequences), max(sequence.token_ids.size for sequence in sequences))
    input_ids_NT, predicts_NT = np.full(shape, pad_token_id, np.int64), np.zeros(shape, np.bool_)
    for row, sequence in enumerate(sequences):
        input_ids_NT[row, : sequence.token_ids.size] = sequence.token_ids
        predicts_NT[row, sequence.prompt_length - 1 : sequence.token_ids.size - 1] = True
    lengths_N = np.array([sequence.response_length for sequence in sequences], np.int64)
    noted = [
        sequence.learner_logprobs for sequence in sequences if sequence.learner_logprobs is not None
    ]
    return TrainBatch(
        input_ids_NT=torch.from_numpy(input_ids_NT).to(device),
        predicts_NT=torch.from_numpy(predicts_NT).to(device),
        target_ids_L=torch.from_numpy(
            np.concatenate([s.token_ids[s.prompt_length :] for s in sequences])
        ).to(device),
        lengths_N=torch.from_numpy(lengths_N).to(device),
        rollout_logprobs_L=torch.from_numpy(
            np.concatenate([s.rollout_logprobs for s in sequences])
        ).to(device),
        advantages_L=torch.from_numpy(np.concatenate([s.advantages for s in sequences])).to(device),
        weights_L=torch.from_numpy(np.repeat(np.array(weights, np.float32), lengths_N)).to(device),
        learner_logprobs_L=torch.from_numpy(np.concatenate(noted)).to(device)
        if len(noted) == len(sequences)
        else None,
    )


def response_logits(model: PreTrainedModel, batch: TrainBatch) -> Tensor:
    """Return the logits [L, V] that predict the response tokens.

    The model's head runs on no other position, or before transformers 5.20 on few others.
    """
    if HEAD_TAKES_A_MASK:
        logits_LV: Tensor = model(
            input_ids=batch.input_ids_NT, logits_to_keep=batch.predicts_NT, use_cache=False
        ).logits
        return logits_LV
    kept = batch.predicts_NT.any(0).nonzero()[:, 0]
    logits_NKV: Tensor = model(
        input_ids=batch.input_ids_NT, logits_to_keep=kept, use_cache=False
    ).logits
    return logits_NKV[batch.predicts_NT[:, kept]]
