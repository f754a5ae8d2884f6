"""What a math worker runs.

Math-verify without its own time limits, which rest on SIGALRM and do not interrupt C code; the pool
has its own.
"""

from __future__ import annotations

import logging
from itertools import product

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from depo.rewards.math_answers import as_latex

_ANCHORED = (
    LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False),
    ExprExtractionConfig(try_extract_without_anchor=False),
)
"""Of unmarked text only what follows words such as "the answer is" counts, not whatever number
comes last.
"""

logging.getLogger("math_verify").setLevel(
    logging.ERROR
)  # it warns once per process that its own limits are off
parse(
    "$1$", parsing_timeout=None
)  # the grammar loads with the first parse, which would count against the first call's limit


def verify_answer(golds: list[str], answer: str, marked: bool) -> bool:
    """Return whether an answer is mathematically equal to one of the ground truths.

    Args:
        golds: Ground truths, with or without `$`.
        answer: The answer alone if `marked`, else text that may name one.
        marked: See `Answer.marked`.

    Raises:
        MemoryError, RecursionError: The comparison is beyond the worker's means; nothing is known
            about the answer.
    """
    expected = [value for gold in golds for value in parse(as_latex(gold), parsing_timeout=None)]
    targets = (
        parse(as_latex(answer), parsing_timeout=None)
        if marked
        else parse(answer, _ANCHORED, parsing_timeout=None)
    )
    return any(_equal(gold, target) for gold, target in product(expected, targets))


def _equal(gold: object, target: object) -> bool:
    try:
        return bool(verify(gold, target, timeout_seconds=None, raise_on_error=True))
    except (MemoryError, RecursionError):
        raise
    except (
        Exception
    ):  # sympy raises many classes for things that cannot be compared, which are then not equal
        return False
