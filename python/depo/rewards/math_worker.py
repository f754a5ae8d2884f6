"""Compare answers inside a worker process, with math-verify's own time limits off.

Those limits use SIGALRM, which does not interrupt C code. The pool has limits of its own.
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
"""In unmarked text, only what follows words such as "the answer is" counts, not the last number."""

# math-verify would warn in every process that its own limits are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)
# Load the grammar now: it would count against the limit of the first call.
parse("$1$", parsing_timeout=None)


def verify_answer(golds: list[str], answer: str, marked: bool) -> bool:
    """Return whether an answer is mathematically equal to one of the ground truths.

    Args:
        golds: Ground truths, with or without `$`.
        answer: The answer alone if `marked`, else text that may name one.
        marked: See `Answer.marked`.

    Raises:
        MemoryError, RecursionError: The comparison exceeds the worker's limits; the result is
            unknown.
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
    except Exception:  # sympy raises many classes if values cannot be compared: they are not equal
        return False
