"""Compare mathematical answers by math-verify, in worker processes with a time limit."""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from depo.rewards.math_answers import (
    Answer,
    as_number,
    clean_gold,
    compare_text,
    extract_answer,
    within_limits,
)
from depo.rewards.pool import Outcome, WorkerPool
from depo.rewards.scorer import accepted_answers
from depo.types.errors import install_hint
from depo.types.records import Float32Array, Prompt

Question = tuple[tuple[str, ...], Answer]
"""Accepted ground truths, and the answer to compare with them."""

CACHE_ENTRIES = 100_000
COUNTER_NAMES = {"timeout": "timeouts", "crash": "crashes", "error": "errors"}
GOLD_TIMEOUT_FACTOR = 5.0
"""Ground truths get this many times the limit of a response.

They are verified once, and a busy machine must not shrink the data set.
"""

logger = logging.getLogger(__name__)


class MathScorer:
    """Return 1.0 where the final answer equals the ground truth, else 0.0.

    NaN means that the verification timed out or crashed. Strings and numbers are compared
    directly, other answers by math-verify in a `WorkerPool`. Answers beyond `within_limits` are
    wrong.
    """

    def __init__(self, timeout_seconds: float, workers: int) -> None:
        """Prepare the pool; its processes start with the first answer that needs them.

        Args:
            timeout_seconds: Wall-clock limit of one verification [> 0].
            workers: Processes [>= 1].

        Raises:
            ImportError: math-verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise ImportError(
                f"reward.function math needs the package math-verify: {install_hint('train')}"
            )
        self._timeout_seconds = timeout_seconds
        self._workers = workers
        self._pool = self._new_pool(timeout_seconds)
        self._cache: dict[Question, float] = {}
        self._counters: Counter[str] = Counter()

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Float32Array:
        """Return float32 [N] of 0.0, 1.0 and NaN.

        Raises:
            DataError: A ground truth is not a string, a number or a list of these.
        """
        questions = [
            (_golds(prompt), extract_answer(response))
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        verdicts = {question: self._settle(*question) for question in questions}
        unsettled = [question for question, verdict in verdicts.items() if verdict is None]
        for question, outcome in zip(
            unsettled,
            self._pool.map([(golds, answer.text, answer.marked) for golds, answer in unsettled]),
            strict=True,
        ):
            verdicts[question] = self._record(question, outcome)
        return np.array([verdicts[question] for question in questions], dtype=np.float32)

    def check_golds(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
        """Split off the prompts whose ground truth does not verify against itself.

        A warning gives their number.

        Returns:
            Kept prompts and dropped prompts, each in order.

        Raises:
            DataError: A ground truth is not a string, a number or a list of these.
        """
        golds = {gold for prompt in prompts for gold in _golds(prompt)}
        verified = {gold for gold in golds if as_number(gold) is not None}
        symbolic = sorted(gold for gold in golds - verified if within_limits(gold))
        with self._new_pool(self._timeout_seconds * GOLD_TIMEOUT_FACTOR) as pool:
            outcomes = pool.map([([gold], gold, True) for gold in symbolic])
        verified |= {
            gold for gold, outcome in zip(symbolic, outcomes, strict=True) if outcome.value
        }
        kept = [prompt for prompt in prompts if verified.intersection(_golds(prompt))]
        dropped = [prompt for prompt in prompts if not verified.intersection(_golds(prompt))]
        if dropped:
            logger.warning(
                "dropped %d of %d prompts whose ground truth does not verify against itself, the "
                "first being %.80r",
                len(dropped),
                len(prompts),
                dropped[0].answer,
            )
        return kept, dropped

    def counters(self) -> dict[str, int]:
        """Return how many verifications had no result since the start.

        The keys are "timeouts", "crashes" and "errors".
        """
        return {name: self._counters[name] for name in COUNTER_NAMES.values()}

    def close(self) -> None:
        """End the worker processes; calling it twice is fine."""
        self._pool.close()

    def _new_pool(self, timeout_seconds: float) -> WorkerPool:
        return WorkerPool(
            "depo.rewards.math_worker:verify_answer",
            workers=self._workers,
            timeout_seconds=timeout_seconds,
        )

    def _settle(self, golds: tuple[str, ...], answer: Answer) -> float | None:
        verdicts = {compare_text(gold, answer.text) for gold in golds}
        if True in verdicts or None not in verdicts:
            return float(True in verdicts)
        return (
            self._cache.get((golds, answer)) if answer.text and within_limits(answer.text) else 0.0
        )

    def _record(self, question: Question, outcome: Outcome) -> float:
        if outcome.failure:
            # Not cached: the call may have timed out only because the machine was busy.
            self._counters[COUNTER_NAMES[outcome.failure]] += 1
            logger.warning(
                "math verification of %.80r against %.80r: %s %s",
                question[1].text,
                question[0][0],
                outcome.failure,
                outcome.detail,
            )
            return float("nan")
        if len(self._cache) >= CACHE_ENTRIES:
            del self._cache[next(iter(self._cache))]
        return self._cache.setdefault(question, float(outcome.value))


def _golds(prompt: Prompt) -> tuple[str, ...]:
    return tuple(map(clean_gold, accepted_answers(prompt)))
