"""Parts that all reward functions share: shapes, truncated responses, counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from depo.types.errors import DataError
from depo.types.records import BoolArray, Float32Array, Prompt


class Scorer(Protocol):
    """Judges responses by their text alone."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Float32Array:
        """Return float32 [N], one reward per response; NaN where the verifier failed."""

    def counters(self) -> dict[str, int]:
        """Return the number of unknown rewards since the start, by cause."""

    def close(self) -> None:
        """End worker processes; calling it twice is fine."""


class Reward:
    """A scorer with the rule for truncated responses.

    Satisfies `depo.types.protocols.RewardFunction`.
    """

    def __init__(
        self, scorer: Scorer, truncated: Literal["zero", "score", "unknown"] = "zero"
    ) -> None:
        """Wrap a scorer.

        Args:
            scorer: Judges responses.
            truncated: Reward of a response cut by the token budget: 0, the scorer's, or NaN.
        """
        self.scorer = scorer
        self._truncated = truncated

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], finished: BoolArray
    ) -> Float32Array:
        """Return one reward per response, float32 [N]; NaN means unknown, never "wrong".

        Args:
            prompts: N prompts, one per response.
            responses: N decoded responses.
            finished: bool [N], False where the token budget cut the response.

        Raises:
            ValueError: The three differ in length.
        """
        if not len(prompts) == len(responses) == len(finished):
            raise ValueError(
                f"prompts, responses, finished: got {len(prompts)}, {len(responses)}, "
                f"{len(finished)} entries, expected as many of each"
            )
        rewards = self.scorer.score(prompts, responses)
        if self._truncated != "score":
            rewards[~np.asarray(finished, dtype=np.bool_)] = (
                0.0 if self._truncated == "zero" else np.nan
            )
        return rewards

    def counters(self) -> dict[str, int]:
        """Return the number of unknown rewards since the start, by cause."""
        return self.scorer.counters()

    def close(self) -> None:
        """End worker processes; calling it twice is fine."""
        self.scorer.close()


def accepted_answers(prompt: Prompt) -> tuple[str, ...]:
    """Return the accepted ground truths of a prompt as text.

    Raises:
        DataError: The ground truth is not a string, a number or a non-empty list of these.
    """
    answers = prompt.answer if isinstance(prompt.answer, (list, tuple)) else [prompt.answer]
    if not answers or any(
        isinstance(answer, bool) or not isinstance(answer, (str, int, float)) for answer in answers
    ):
        raise DataError(
            f"answer of prompt {prompt.text!r:.80} (source {prompt.source}): got "
            f"{prompt.answer!r:.80}, expected a string, a number or a list of these"
        )
    return tuple(map(str, answers))
