"""Mathematical answers: as text, in killable processes, against real completions."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.config import RewardConfig, SourceConfig
from depo.data import load_prompts
from depo.rewards import Reward, check_golds, load_reward
from depo.rewards.math import MathScorer
from depo.rewards.math_answers import (
    MAX_ANSWER_CHARS,
    as_number,
    clean_gold,
    compare_text,
    extract_answer,
    within_limits,
)
from depo.rewards.pool import Outcome, WorkerPool
from depo.types.records import Prompt
from tests.rewards.reward_helpers import judge, prompts_for

SAMPLES = Path(__file__).parents[1] / "data"
SHARED = Path(os.environ.get("DEPO_SHARED", Path(__file__).parents[3] / "shared" / "data"))
BOMB = r"\boxed{\binom{100000000}{50000000}}"
"""Within all limits on the text, and days of work for computer algebra."""


# --- answers as text
# ------------------------------------------------------------------------------------------

BALANCED = st.recursive(
    st.text("abc123\\,+- ", max_size=5),
    lambda inner: st.lists(inner.map(lambda text: "{" + text + "}"), max_size=3).map("".join),
    max_leaves=6,
)


@settings(deadline=None)
@given(before=st.text(), answer=BALANCED, after=st.text(st.characters(exclude_characters="{}\\")))
def test_the_last_box_is_the_answer_whatever_stands_around_it(
    before: str, answer: str, after: str
) -> None:
    extracted = extract_answer(f"{before} \\boxed{{7}} \\boxed{{{answer}}}{after}")
    assert (extracted.text, extracted.marked) == (answer.strip(), True)


@settings(deadline=None)
@given(
    text=st.text(min_size=1).filter(
        lambda text: "####" not in text and "box" not in text and "<answer>" not in text
    )
)
def test_an_unmarked_response_offers_its_end(text: str) -> None:
    extracted = extract_answer(text)
    assert text.strip().endswith(extracted.text)
    assert len(extracted.text) == min(len(text.strip()), MAX_ANSWER_CHARS)
    assert not extracted.marked


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so\n#### 42\nbye", "42"),
        ("#### 1\n#### 2", "2"),
        ("<answer>1</answer> <answer> 2 </answer>", "2"),
        (r"#### 1 \boxed{2}", "2"),
        (r"\boxed{1} and then \boxed{2", None),
        (r"\fbox{3}", "3"),
    ],
)
def test_marks(response: str, answer: str | None) -> None:
    extracted = extract_answer(response)
    assert extracted.marked is (answer is not None)
    assert answer is None or extracted.text == answer


@settings(deadline=None)
@given(
    gold=st.integers(),
    answer=st.integers(),
    form=st.sampled_from(["{}", " {} ", "${}$", "{}.", "{:,}", "{}.00", "{}/1"]),
)
def test_integers_are_decided_exactly_in_every_spelling(gold: int, answer: int, form: str) -> None:
    assert compare_text(str(gold), form.format(answer)) is (gold == answer)
    assert compare_text(form.format(gold), str(gold)) is True


@settings(deadline=None)
@given(a=st.fractions(), b=st.fractions())
def test_fractions_are_equal_exactly_when_their_values_are(a: Fraction, b: Fraction) -> None:
    sign = "-" if b < 0 else ""
    assert (
        as_number(f"{sign}\\frac{{{abs(b.numerator)}}}{{{b.denominator}}}")
        == b
        == as_number(f"{b.numerator}/{b.denominator}")
    )
    verdict = compare_text(
        str(a), f"{sign}\\dfrac{{{abs(b.numerator) * 3}}}{{{b.denominator * 3}}}"
    )
    undecided = None if a.denominator > 1 or b.denominator > 1 else False  # math-verify rounds
    assert verdict is (True if a == b else undecided)


@pytest.mark.parametrize(
    "text", ["", "x", "1/0", "1,23", "1 2", "--1", "½", "1e5", "5%", "\\frac{1}{0}", "9" * 5000]
)
def test_what_is_no_plain_number_is_left_to_computer_algebra(text: str) -> None:
    assert as_number(text) is None


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9}}",
        "10^{100000}",
        "99999999!",
        "(" * 21 + "x" + ")" * 21,
        "{" * 3000,
        "1+" * 151 + "1",
        "2**1000000",
    ],
)
def test_monsters_are_beyond_the_limits(answer: str) -> None:
    assert not within_limits(answer)


@pytest.mark.parametrize(
    "answer", ["e^{x^2}", "2^{1000}", "10!", "\\frac{\\sqrt{3}}{2}", "x^{2}y^{3}", "(1,2,3)"]
)
def test_honest_answers_are_within_the_limits(answer: str) -> None:
    assert within_limits(answer)


# --- the pool
# ------------------------------------------------------------------------------------------


def test_a_hanging_call_is_killed_while_its_neighbours_finish() -> None:
    with WorkerPool("time:sleep", workers=2, timeout_seconds=1.5) as pool:
        assert pool.map([[0], [3600], [0.01], [0], [3600], [0]]) == [
            Outcome() if call != 3600 else Outcome(failure="timeout")
            for call in (0, 3600, 0.01, 0, 3600, 0)
        ]
        assert pool.map([[0]] * 3) == [Outcome()] * 3, "killed workers are replaced"


def test_results_keep_their_order_and_failures_stay_apart() -> None:
    with WorkerPool("operator:truediv", workers=2, timeout_seconds=30) as pool:
        outcomes = pool.map([[n, n - 5] for n in range(10)])
    assert [outcome.value for outcome in outcomes] == [
        n / (n - 5) if n != 5 else None for n in range(10)
    ]
    assert outcomes[5] == Outcome(failure="error", detail="ZeroDivisionError: division by zero")


@pytest.mark.parametrize("noticed", ["before the call", "during the call"])
def test_a_worker_killed_from_outside_is_respawned_and_its_call_repeated(noticed: str) -> None:
    with WorkerPool("os:getpid", workers=1, timeout_seconds=30) as pool:
        (first,) = pool.map([[]])
        os.kill(first.value, signal.SIGKILL)
        while (
            noticed == "before the call"
            and ") Z " not in Path(f"/proc/{first.value}/stat").read_text()
        ):
            time.sleep(0.001)
        second, third = pool.map([[], []])
        assert second.failure == third.failure == ""
        assert second.value == third.value != first.value


def test_a_call_that_kills_its_process_is_a_crash_and_the_next_one_runs() -> None:
    with WorkerPool("os:_exit", workers=1, timeout_seconds=30) as pool:
        assert pool.map([[1], [0]]) == [Outcome(failure="crash")] * 2


def test_output_of_the_function_does_not_get_between_the_replies() -> None:
    with WorkerPool("builtins:print", workers=1, timeout_seconds=30) as pool:
        assert pool.map([['{"value": 1}'], ["noise"]]) == [Outcome(), Outcome()]


def test_memory_is_limited() -> None:
    with WorkerPool(
        "builtins:range.__len__", workers=1, timeout_seconds=30, memory_bytes=1 << 30
    ) as pool:
        assert pool.map([[1]])[0].failure == "error", "calls reach the function"
    with WorkerPool("operator:mul", workers=1, timeout_seconds=30, memory_bytes=1 << 30) as pool:
        outcomes = pool.map([["x", 1 << 34], ["x", 3]])
    assert outcomes == [Outcome(failure="error", detail="MemoryError: "), Outcome(value="xxx")]


def test_a_pool_whose_function_does_not_exist_says_so() -> None:
    with (
        WorkerPool("os:no_such_function", workers=1, timeout_seconds=30) as pool,
        pytest.raises(RuntimeError, match="did not start"),
    ):
        pool.map([[]])


# --- math
# ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def math_reward() -> Iterator[Reward]:
    reward = load_reward(RewardConfig(function="math", timeout_seconds=60.0))
    yield reward
    reward.close()
    reward.close()


EQUIVALENT: list[tuple[Any, str]] = [
    (r"\sqrt{3}", r"\boxed{\sqrt{3}}"),
    (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt{2}}}"),
    ("x^2+2x+1", r"\boxed{(x+1)^2}"),
    ("(0,1]", r"\boxed{(0, 1]}"),
    ("10{,}000", r"\boxed{10,000}"),
    (r"\$32,\!348", r"\boxed{32348}"),
    ("0.5", r"\boxed{\frac{1}{2}}"),
    ("42", "Natalia has <<40+2=42>>42.\n#### 42"),
    ("40 + 2 = <<40+2=42>>42\n#### 42", r"\boxed{42}"),
    ("$\\frac{1}{3}$", "<answer>1/3</answer>"),
    ("5", "After some thought, the final answer is $5$."),
    ("72", " 72\n"),
    (["7", "\\sqrt{2}"], r"\boxed{2^{1/2}}"),
]
DIFFERENT: list[tuple[Any, str]] = [
    (r"\sqrt{3}", r"\boxed{\sqrt{2}}"),
    ("x^2+2x+1", r"\boxed{(x-1)^2}"),
    ("5", "I count 3, then 4, so 5."),
    ("5", r"\boxed{4} or 5"),
    ("5", r"\boxed{}"),
    ("5", ""),
    ("5", "It is 5. \\boxed{5"),
    ("2^{99}+1", r"\boxed{9^{9^{9}}}"),
    ("x^2", "(" * 400 + "x^2" + ")" * 400),
]


def test_equal_answers_earn_one_and_others_zero(math_reward: Reward) -> None:
    prompts = prompts_for(*(gold for gold, _ in EQUIVALENT + DIFFERENT))
    rewards = judge(math_reward, prompts, [response for _, response in EQUIVALENT + DIFFERENT])
    wrong = [
        case
        for case, reward in zip(EQUIVALENT + DIFFERENT, rewards, strict=True)
        if reward != (case in EQUIVALENT)
    ]
    assert not wrong
    assert (
        judge(math_reward, prompts, [response for _, response in EQUIVALENT + DIFFERENT]) == rewards
    ), "cached verdicts are the same"


def test_a_remembered_verdict_belongs_to_its_ground_truth(math_reward: Reward) -> None:
    for gold, reward in (("p+q", 1.0), ("p-q", 0.0), ("q+p+0", 1.0)):
        assert judge(math_reward, prompts_for(gold), [r"\boxed{q + p}"]) == [reward]


def test_it_works_in_any_thread(math_reward: Reward) -> None:
    rewards: list[float] = []
    thread = threading.Thread(
        target=lambda: rewards.extend(
            judge(math_reward, prompts_for("x+y", "x+y"), [r"\boxed{y+x}", r"\boxed{y-x}"])
        )
    )
    thread.start()
    thread.join()
    assert rewards == [1.0, 0.0]


def test_workers_hold_no_torch(math_reward: Reward) -> None:
    judge(math_reward, prompts_for("a+b"), [r"\boxed{b+a}"])
    parents = {
        path.parent: path.read_text().rpartition(")")[2].split()[1]
        for path in Path("/proc").glob("[0-9]*/stat")
    }
    children = [process for process, parent in parents.items() if int(parent) == os.getpid()]
    maps = [
        (child / "maps").read_text()
        for child in children
        if "depo.rewards.pool_worker" in (child / "cmdline").read_text()
    ]
    assert maps
    assert not any("libtorch" in mapped for mapped in maps)


def test_a_bomb_hits_the_limit_while_its_neighbours_get_their_verdicts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scorer = MathScorer(timeout_seconds=3.0, workers=1)
    prompts = prompts_for("x+1", "7", "x+1", "7", "7")
    started = time.process_time()
    rewards = scorer.score(prompts, [r"\boxed{1+x}", BOMB, r"\boxed{1-x}", BOMB, r"\boxed{7}"])
    np.testing.assert_array_equal(rewards, np.array([1, np.nan, 0, np.nan, 1], dtype=np.float32))
    assert scorer.counters() == {"timeouts": 1, "crashes": 0, "errors": 0}, (
        "equal questions are asked once"
    )
    assert time.process_time() - started < 1.0, "waiting costs the trainer no processor time"
    assert "timeout" in caplog.text
    assert np.isnan(scorer.score(prompts[1:2], [BOMB])).all(), (
        "an unknown verdict is not remembered"
    )
    assert scorer.counters()["timeouts"] == 2
    scorer.close()


def test_golds_that_do_not_verify_are_dropped_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    golds = [
        "5",
        r"\sqrt{3}",
        "x_{0} \\cos (\\omega t)+$ $\\dot{x}_{0}",
        "",
        "(0,1]",
        "x=" + "1+" * 200 + "1",
        "#### 12",
        ["$ $", "4"],
    ]
    prompts = prompts_for(*golds)
    with caplog.at_level(logging.WARNING):
        kept, dropped = check_golds(prompts, RewardConfig(function="math", timeout_seconds=10.0))
    assert [prompts.index(prompt) for prompt in kept] == [0, 1, 4, 6, 7]
    assert [prompts.index(prompt) for prompt in dropped] == [2, 3, 5]
    assert "dropped 3 of 8 prompts" in caplog.text
    for config in (
        RewardConfig(function="exact"),
        RewardConfig(function="math", check_golds=False),
    ):
        assert check_golds(prompts, config) == (prompts, [])


def test_sample_golds_verify_and_solve_themselves(math_reward: Reward) -> None:
    prompts = load_prompts(
        [
            SourceConfig(path=str(SAMPLES / name))
            for name in ("gsm8k_sample.jsonl", "dapo_math_sample.jsonl")
        ]
    )
    assert check_golds(prompts, RewardConfig(function="math")) == (prompts, [])
    solutions = [f"Therefore \\boxed{{{clean_gold(prompt.answer)}}}." for prompt in prompts]
    assert judge(math_reward, prompts, solutions) == [1.0] * 10
    assert judge(math_reward, prompts, solutions[1:] + solutions[:1]) == [0.0] * 10
    assert (
        judge(math_reward, prompts[:5], [prompt.answer for prompt in prompts[:5]]) == [1.0] * 5
    ), "GSM8K's own solutions"


def test_verdicts_on_real_completions_agree_with_the_reference(math_reward: Reward) -> None:
    path = SHARED / "completions" / "math_qwen_8x.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}: set DEPO_SHARED to the folder of the real data sets")
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    prompts = [
        Prompt(text=row["question"], answer=row["gold"]) for row in rows for _ in row["completions"]
    ]
    rewards = judge(
        math_reward, prompts, [completion for row in rows for completion in row["completions"]]
    )
    reference = [float(verdict) for row in rows for verdict in row["ref_correct"]]
    assert 0.0 < np.mean(reference) < 1.0
    assert sum(
        reward == verdict for reward, verdict in zip(rewards, reference, strict=True)
    ) >= 0.9975 * len(reference)
