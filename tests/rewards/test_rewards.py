"""What all reward functions share, exact match, and reasoning-gym."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.config import RewardConfig, SourceConfig
from depo.data import load_prompts
from depo.rewards import Reward, load_reward
from depo.rewards.exact import ExactScorer
from depo.types.errors import ConfigError, DataError
from depo.types.records import Float32Array, Prompt
from tests.rewards.reward_helpers import judge, prompts_for


class FixedScorer:
    def __init__(self, values: Sequence[float]) -> None:
        self.values = values
        self.closed = 0

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Float32Array:
        return np.array(self.values, dtype=np.float32)

    def counters(self) -> dict[str, int]:
        return {"errors": 3}

    def close(self) -> None:
        self.closed += 1


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(width=32), st.booleans()), max_size=12),
    rule=st.sampled_from(["zero", "score", "unknown"]),
)
def test_truncated_responses_follow_the_rule_and_finished_ones_never_change(
    rows: list[tuple[float, bool]], rule: Any
) -> None:
    scorer = FixedScorer([value for value, _ in rows])
    reward = Reward(scorer, rule)
    rewards = reward(
        prompts_for(*rows),
        [""] * len(rows),
        np.array([finished for _, finished in rows], dtype=np.bool_),
    )
    expected = [
        value if finished or rule == "score" else {"zero": 0.0, "unknown": math.nan}[rule]
        for value, finished in rows
    ]
    np.testing.assert_array_equal(rewards, np.array(expected, dtype=np.float32))
    reward.close()
    assert scorer.closed == 1
    assert reward.counters() == {"errors": 3}


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="got 1, 2, 1 entries"):
        Reward(ExactScorer())(prompts_for("1"), ["1", "1"], np.ones(1, dtype=np.bool_))


SPACE = st.text(" \n\t", max_size=3)


@settings(deadline=None)
@given(answer=st.text(), other=st.text(), before=SPACE, after=SPACE)
def test_exact_ignores_white_space_around_and_nothing_else(
    answer: str, other: str, before: str, after: str
) -> None:
    rewards = judge(
        load_reward(RewardConfig(function="exact")),
        prompts_for(answer, answer),
        [before + answer + after, other],
    )
    assert rewards == [1.0, float(other.strip() == answer.strip())]


def test_exact_takes_numbers_and_lists_of_alternatives_and_refuses_the_rest() -> None:
    reward = load_reward(RewardConfig())
    assert judge(reward, prompts_for(7, ["yes", "y"], ["yes", "y"]), ["7", " y", "n"]) == [
        1.0,
        1.0,
        0.0,
    ]
    for answer in (None, {"a": 1}, [], [None], True):
        with pytest.raises(
            DataError, match=r"answer of prompt 'question 0'.*expected a string, a number or a list"
        ):
            judge(reward, prompts_for(answer), ["7"])


def test_unknown_functions_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"reward\.function: got 'maths', expected exact, reasoning_gym, math, "
        r"module:function",
    ):
        load_reward(RewardConfig(function="maths"))


TASKS = [
    "chain_sum",
    "basic_arithmetic",
    "gcd",
    "count_bits",
    "spell_backward",
    "base_conversion",
    "syllogism",
    "letter_counting",
    "prime_factorization",
]
EVALUATING_TASKS = ["countdown", "binary_matrix", "n_queens", "spiral_matrix", "string_insertion"]


@pytest.mark.parametrize("task", TASKS + EVALUATING_TASKS)
def test_reference_answers_earn_one_and_partial_credit_is_zero(task: str) -> None:
    reward = load_reward(RewardConfig(function="reasoning_gym"))
    prompts = load_prompts([SourceConfig(task=task, seed=11, count=3)])
    for prompt in prompts:
        answer = str(prompt.answer)
        responses = [
            answer,
            f" {answer}\n",
            f"Let me see.\n<answer>0</answer> no, <answer> {answer} </answer>",
            f"The answer is {answer}, I say",
            "",
            "zzz",
            "-12345",
        ]
        assert judge(reward, [prompt] * len(responses), responses) == [
            1.0,
            1.0,
            1.0,
            0.0,
            0.0,
            0.0,
            0.0,
        ], task
    assert reward.counters() == {"errors": 0}


@pytest.mark.parametrize("task", EVALUATING_TASKS)
def test_no_response_is_ever_run_as_code(task: str, tmp_path: Path) -> None:
    reward = load_reward(RewardConfig(function="reasoning_gym"))
    (prompt,) = load_prompts([SourceConfig(task=task, seed=1, count=1)])
    trace = tmp_path / "trace"
    attacks = [
        f"open({str(trace)!r}, 'w')",
        f"[open({str(trace)!r}, 'w')]",
        f"__import__('os').mkdir({str(trace)!r})",
        "9**9**9**9",
        "[0]*10**12",
    ]
    assert judge(reward, [prompt] * len(attacks), attacks) == [0.0] * len(attacks)
    assert not trace.exists()


def test_other_solutions_than_the_reference_count() -> None:
    reward = load_reward(RewardConfig(function="reasoning_gym"))
    (prompt,) = load_prompts([SourceConfig(task="countdown", seed=2, count=1)])
    assert judge(reward, [prompt, prompt], [f"({prompt.answer})", f"{prompt.answer} + 1"]) == [
        1.0,
        0.0,
    ]


def test_a_scorer_that_fails_on_its_own_answer_is_unknown_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reward = load_reward(RewardConfig(function="reasoning_gym"))
    columns = {
        "task": "prime_factorization",
        "entry": {"question": "?", "answer": "not numbers", "metadata": {}},
    }
    assert math.isnan(judge(reward, [Prompt(text="?", columns=columns)], ["7 × x"])[0])
    assert reward.counters() == {"errors": 1}
    assert "prime_factorization" in caplog.text


def test_prompts_of_other_sources_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"columns of prompt 'question 0': .*expected task and entry"
    ):
        judge(load_reward(RewardConfig(function="reasoning_gym")), prompts_for("1"), ["1"])
