"""Extract the final answer of a mathematical response and compare it as text or number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_ANSWER_CHARS = 300
"""Longer answers are wrong; without a marked answer, this much of the response's end is read."""
MAX_NESTING = 20

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[|\\boxed")
_EXPLOSIVE = re.compile(
    r"""\d{5,}\s*\}?\s*\)?\s*!                        # factorials from 10000! on
      | (?:\^|\*\*)\s*[{(]*\s*[-+]?\s*\d{5,}          # exponents of five digits and more
      | \d\s*\^\s*[{(]*\s*\d+\s*[})]*\s*\^\s*[{(]*\s*\d  # towers of numbers""",
    re.VERBOSE,
)
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_RATIONAL = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+|\d+/\d+)")
_FRACTION = re.compile(r"([-+]?)\\frac\{(\d+)\}\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer that a response gives.

    Attributes:
        text: The answer, or the end of the response.
        marked: Whether the response marked it (box, tag, ####); unmarked text counts only after
            words such as "the answer is".
    """

    text: str
    marked: bool


def extract_answer(response: str) -> Answer:
    r"""Return the part of a response that holds its final answer.

    The last `\boxed{..}`, else what follows the last `####` (GSM8K), else the last
    `<answer>..</answer>`, else the end of the response.
    """
    boxed = _last_box(response)
    if boxed is not None:
        return Answer(boxed.strip(), marked=True)
    _, separator, after = response.rpartition("####")
    if separator:
        return Answer(after.strip().partition("\n")[0].strip(), marked=True)
    tagged = _TAGGED.findall(response)
    if tagged:
        return Answer(tagged[-1].strip(), marked=True)
    return Answer(response.strip()[-MAX_ANSWER_CHARS:], marked=False)


def clean_gold(gold: str) -> str:
    """Return a ground truth without GSM8K's worked solution and outer white space."""
    return gold.rpartition("####")[2].strip()


def as_latex(answer: str) -> str:
    r"""Return an answer in `$..$`, as math-verify expects it.

    Otherwise `\sqrt{3}` or `x^2` would parse to nothing, without an error.
    """
    answer = answer.replace(r"\$", "").replace(r"\!", "")
    return answer if _DELIMITED.search(answer) else f"${answer}$"


def within_limits(answer: str) -> bool:
    """Return whether an answer is safe for computer algebra.

    Overlong or deeply nested answers and huge powers or factorials are not.
    """
    depth = deepest = 0
    for character in answer[: MAX_ANSWER_CHARS + 1]:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    return (
        len(answer) <= MAX_ANSWER_CHARS and deepest <= MAX_NESTING and not _EXPLOSIVE.search(answer)
    )


def compare_text(gold: str, answer: str) -> bool | None:
    """Return whether two answers are equal as strings or numbers.

    None means that only computer algebra can decide.
    """
    if _normalized(gold) == _normalized(answer):
        return bool(_normalized(gold))
    gold_number, answer_number = as_number(gold), as_number(answer)
    if gold_number is None or answer_number is None:
        return None
    if gold_number == answer_number:
        return True
    # Unequal decimals may still agree within math-verify's rounding.
    return False if gold_number.denominator == answer_number.denominator == 1 else None


def as_number(answer: str) -> Fraction | None:
    r"""Return the exact value of an integer, decimal, `a/b` or `\frac{a}{b}`, else None.

    Thousands separators are allowed.
    """
    answer = _normalized(answer)
    if _GROUPED.fullmatch(answer):
        answer = answer.replace(",", "")
    fraction = _FRACTION.fullmatch(answer)
    if fraction:
        answer = f"{fraction[1]}{fraction[2]}/{fraction[3]}"
    if len(answer) > MAX_ANSWER_CHARS or not _RATIONAL.fullmatch(answer):
        return None
    try:
        return Fraction(answer)
    except ZeroDivisionError:
        return None


def _last_box(text: str) -> str | None:
    starts = list(_BOX.finditer(text))
    if not starts:
        return None
    start, depth = starts[-1], 1
    for position in range(start.end(), len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return text[start.end() : position]
    return None


def _normalized(answer: str) -> str:
    answer = (
        answer.replace("\\dfrac", "\\frac")
        .replace("\\tfrac", "\\frac")
        .replace("\\left", "")
        .replace("\\right", "")
    )
    answer = answer.replace("\\!", "").replace("{,}", ",").replace("\\$", "")
    return " ".join(answer.strip().strip("$").strip().removesuffix(".").split())
