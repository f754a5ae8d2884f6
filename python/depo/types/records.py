"""The values that flow through a training step.

Prompt -> Draw -> RolloutGroup -> Verdict -> TrainBatch.

Dimension letters, here and in every file: B prompts of a step, G rollouts of a prompt, C
candidates, N sequences (B*G), T tokens, M targets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
TokenFactors = Sequence[Sequence[Float32Array]]
"""[B][G] arrays float32 [T]: one factor for each response token of each group."""


class DrawKind(StrEnum):
    """Why a prompt was drawn."""

    SELECTED = "selected"
    """The selection policy wanted it."""
    WARMUP = "warmup"
    """Drawn in epoch order, because the estimator is still in its warm-up."""
    EXPLORE = "explore"
    """A random candidate that the policy would have rejected: an unbiased probe of the rejected."""
    REPROBE = "reprobe"
    """Unlabelled for `max_age` policy steps, and not selected: probed with `n_rollouts` to see
    whether that changes.
    """
    FILL = "fill"
    """The nearest to admission, because too few candidates passed within the scan cap."""


class VerdictStatus(StrEnum):
    """What became of one observation."""

    LABELLED = "labelled"
    """Rewards were recorded as this prompt's newest label."""
    UNKNOWN = "unknown"
    """Every reward was NaN: the prompt is free again and nothing was learned."""
    CLOSED = "closed"
    """The draw had been observed or released before: ignored."""
    NEVER_ISSUED = "never_issued"
    """No draw with this id was ever handed out by this sampler: ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One task of the pool.

    Attributes:
        text: What the estimator reads and a plain-text policy continues; for chat prompts the
            contents joined by blank lines.
        answer: Ground truth as the reward function expects it (string, number, list or mapping;
            None if the reward needs none).
        source: Name of the data set or task family; floors and per-source metrics go by it.
        band: Difficulty band for reports, such as "frontier"; empty: none.
        id: Stable identity. Left empty, it becomes the hash of (source, text, answer), so it
            survives re-ordering and merging.
        messages: Chat turns ({"role", "content"}) to be rendered with the tokenizer's chat
            template; None for plain text.
        columns: The untouched row of the data file, passed on to reward functions.
    """

    text: str
    answer: Any = None
    source: str = "default"
    id: str = ""
    band: str = ""
    messages: tuple[Mapping[str, str], ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            content = json.dumps(
                [self.source, self.text, self.answer],
                sort_keys=True,
                default=str,
                ensure_ascii=False,
            )
            object.__setattr__(
                self, "id", hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One prompt handed out for one group of rollouts.

    Attributes:
        draw_id: Unique per sampler, increasing from 0.
        prompt: The prompt.
        predicted_reward: Estimator's predicted pass rate, in (0, 1); NaN where no estimator has
            looked.
        p_informative: Believed probability that the group's rewards differ, in [0, 1].
        admission: Probability with which this candidate was to be drawn, in (0, 1].
        kind: Why it was drawn.
        n_rollouts: Rollouts wanted: the group size, or fewer of a re-probe, whose rewards are
            recorded (the rest as NaN) but not trained on.
        policy_version: Policy version at the time of the draw.
    """

    draw_id: int
    prompt: Prompt
    predicted_reward: float
    p_informative: float
    admission: float
    kind: DrawKind
    n_rollouts: int
    policy_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """G responses to one prompt.

    Attributes:
        prompt_ids: int64 [P], prompt tokens as the policy saw them.
        response_ids: G arrays int64 [T_g], sampled tokens, end-of-sequence included when it was
            sampled.
        rollout_logprobs: G arrays float32 [T_g], log-probability of each sampled token under the
            distribution it was sampled from.
        finished: bool [G], True where the response ended by itself, False where the token budget
            cut it.
        responses: G decoded responses, special tokens removed.
        policy_version: Version of the weights that generated it.
    """

    prompt_ids: Int64Array
    response_ids: tuple[Int64Array, ...]
    rollout_logprobs: tuple[Float32Array, ...]
    finished: BoolArray
    responses: tuple[str, ...]
    policy_version: int

    @property
    def mean_token_logprob(self) -> float:
        """Mean over the group of each response's mean token log-probability.

        NaN if every response is empty (DEPO's distillation target).
        """
        means = [float(logprobs.mean()) for logprobs in self.rollout_logprobs if logprobs.size]
        return float(np.mean(means)) if means else float("nan")

    @property
    def n_tokens(self) -> int:
        """Generated tokens of the whole group."""
        return sum(ids.size for ids in self.response_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a group's rewards said.

    Attributes:
        draw_id: The draw it answers.
        status: Whether the rewards were recorded, and if not, why.
        informative: True when known rewards of the group differ by more than the tolerance, so that
            its advantages are not all zero.
        mean_reward: Mean of the known rewards; NaN when none is known.
        pass_rate: Share of the known rewards at or above `success_threshold`, in [0, 1]; NaN when
            none is known.
    """

    draw_id: int
    status: VerdictStatus
    informative: bool
    mean_reward: float
    pass_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedGroup:
    """A group with everything known of it: the trainer's unit of work and one line of the journal.

    Attributes:
        draw: The draw it answers.
        rollouts: The G responses, fewer of a probe.
        rewards_G: float32 [G], NaN = unknown, or of a probe not generated.
        verdict: What the sampler made of the rewards.
    """

    draw: Draw
    rollouts: RolloutGroup
    rewards_G: Float32Array
    verdict: Verdict

    @property
    def is_probe(self) -> bool:
        """Whether fewer rollouts than a group were asked for: learned from, not trained on."""
        return self.draw.n_rollouts < self.rewards_G.size


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetBatch:
    """Labels for one optimizer step of the estimator.

    Attributes:
        texts: M prompt texts.
        reward_targets: float32 [M] in [0, 1], observed pass rate of a group.
        logprob_targets: float32 [M] in (0, 1), exp(mean token log-probability) of a group; NaN
            where unknown.
        counts: float32 [M], number of known rewards behind each target.
        weights: float32 [M], 1 / admission, clipped, times the share of the group that is known.
    """

    texts: Sequence[str]
    reward_targets: Float32Array
    logprob_targets: Float32Array
    counts: Float32Array
    weights: Float32Array
