"""Score responses by reasoning-gym's own scorers, as 0 or 1."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import reasoning_gym
from reasoning_gym.utils import extract_answer

from depo.types.errors import DataError
from depo.types.records import Float32Array, Prompt

logger = logging.getLogger(__name__)

_BOARD = re.compile(r"[A-Z0-9_\s]*")
ACCEPTED_RESPONSES: Mapping[str, re.Pattern[str]] = {
    "countdown": re.compile(r"(?!.*(?:\*\*|//))[0-9+\-*/(). ]{1,200}"),
    "binary_matrix": _BOARD,
    "n_queens": _BOARD,
    "spiral_matrix": _BOARD,
    "string_insertion": _BOARD,
}
"""Family -> form of the responses that its scorer gets; all others are wrong.

The scorers of these families evaluate the response as Python code (reasoning-gym 0.1.25). A right
answer always has this form: countdown takes arithmetic without powers, and in the board families a
Python list earns partial credit at most.
"""


class ReasoningGymScorer:
    """Return 1.0 where the task's scorer gives full marks, else 0.0.

    Partial credit counts as 0, because it can be earned without solving the task. The scorer gets
    the text of the last `<answer>..</answer>`, else the whole response without outer white space.
    """

    def __init__(self) -> None:
        """Start with zeroed counters."""
        self._counters: Counter[str] = Counter()

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Float32Array:
        """Return float32 [N] of 0.0 and 1.0.

        NaN means that the scorer failed on its own reference answer.

        Raises:
            DataError: A prompt's columns hold no task and entry.
        """
        with contextlib.redirect_stdout(io.StringIO()):  # some scorers print
            return np.array(
                [
                    self._score(prompt, response)
                    for prompt, response in zip(prompts, responses, strict=True)
                ],
                dtype=np.float32,
            )

    def counters(self) -> dict[str, int]:
        """Return {"errors": number of scorer failures} since the start."""
        return {"errors": self._counters["errors"]}

    def close(self) -> None:
        """Do nothing: there are no workers."""

    def _score(self, prompt: Prompt, response: str) -> float:
        task, entry = prompt.columns.get("task"), prompt.columns.get("entry")
        if not isinstance(task, str) or not isinstance(entry, Mapping):
            raise DataError(
                f"columns of prompt {prompt.text!r:.80}: got {', '.join(prompt.columns)}, "
                f"expected task and entry of a reasoning-gym source"
            )
        answer = extract_answer(response)
        answer = response.strip() if answer is None else answer
        if task in ACCEPTED_RESPONSES and not ACCEPTED_RESPONSES[task].fullmatch(answer):
            return 0.0
        score_answer = _scorer(task)
        try:
            return float(score_answer(answer, entry) >= 1.0)
        except Exception as error:  # scorers raise many classes for malformed, wrong responses
            if entry["answer"] is None or _accepts_reference(score_answer, entry):
                return 0.0
            self._counters["errors"] += 1
            logger.warning(
                "reasoning-gym scorer of %s failed on its own answer %.80r: %r",
                task,
                entry["answer"],
                error,
            )
            return float("nan")


@cache
def _scorer(task: str) -> Any:
    return reasoning_gym.get_score_answer_fn(task)


def _accepts_reference(score_answer: Any, entry: Mapping[str, Any]) -> bool:
    try:
        return bool(score_answer(entry["answer"], entry) >= 1.0)
    except Exception:  # whatever it raises
        return False
