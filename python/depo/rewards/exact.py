"""Exact match of the whole response."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.rewards.scorer import accepted_answers
from depo.types.records import Float32Array, Prompt


class ExactScorer:
    """Return 1.0 where the response equals the ground truth or one of a list, else 0.0.

    Surrounding white space is ignored.
    """

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Float32Array:
        """Return float32 [N] of 0.0 and 1.0.

        Raises:
            DataError: A ground truth is not a string, a number or a list of these.
        """
        return np.array(
            [
                response.strip() in map(str.strip, accepted_answers(prompt))
                for prompt, response in zip(prompts, responses, strict=True)
            ],
            dtype=np.float32,
        )

    def counters(self) -> dict[str, int]:
        """Return nothing: comparing strings cannot fail."""
        return {}

    def close(self) -> None:
        """Do nothing: there are no workers."""
