"""Users' reward functions in TRL's and verl's signatures."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.config import RewardConfig
from depo.rewards import load_reward
from depo.rewards.user import load_user_scorer
from depo.types.errors import ConfigError
from depo.types.records import Prompt
from tests.rewards.reward_helpers import judge

USER_FILE = """
import asyncio

def trl(completions, solution, **kwargs):
    return [None if c == "?" else float(c == s) for c, s in zip(completions, solution)]

async def trl_async(prompts, completions, solution):
    await asyncio.sleep(0)
    return trl(completions, solution)

def trl_chat(prompts, completions, log_metric, **kwargs):
    log_metric("seen", 1)
    pairs = zip(prompts, completions)
    return [float(p[-1]["role"] == "user" and c[0]["content"] == "ok") for p, c in pairs]

def trl_short(completions, **kwargs):
    return [1.0]

def trl_text(completions, **kwargs):
    return ["1.0"] * len(completions)

def trl_raises(completions, **kwargs):
    raise KeyError("boom")

async def trl_async_raises(completions, **kwargs):
    raise KeyError("boom")

def trl_wants_more(completions, rubric):
    return [0.0] * len(completions)

def verl(data_source, solution_str, ground_truth, extra_info=None):
    score, length = solution_str == ground_truth, extra_info["length"]
    return {"score": score, "source": data_source, "length": length}

async def verl_async(data_source, solution_str, ground_truth, **kwargs):
    await asyncio.sleep(0)
    if solution_str == "?":
        raise ValueError("cannot judge")
    return int(solution_str == ground_truth)

def verl_raises(data_source, solution_str, ground_truth):
    if solution_str == "?":
        raise ValueError("cannot judge")
    return solution_str == ground_truth

def verl_text(data_source, solution_str, ground_truth):
    return "good"

def verl_no_score(data_source, solution_str, ground_truth):
    return {"acc": 1}

def verl_infinite(data_source, solution_str, ground_truth):
    return float("inf")

def neither(prediction, truth):
    return 1.0

constant = 3
"""


@pytest.fixture(scope="module")
def user_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("user") / "my_rewards.py"
    path.write_text(USER_FILE)
    return str(path)


def row(answer: str) -> Prompt:
    return Prompt(
        text="Q",
        answer=answer,
        source="mine",
        columns={
            "prompt": "Q",
            "solution": answer,
            "data_source": "contest",
            "extra_info": {"length": 1},
        },
    )


@pytest.mark.parametrize("name", ["trl", "trl_async", "verl_async", "verl_raises"])
@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("ab?")), max_size=6))
def test_user_functions_of_both_signatures_sync_and_async_give_the_same_rewards(
    name: str, rows: list[tuple[str, str]], user_file: str
) -> None:
    reward = load_reward(RewardConfig(function=f"{user_file}:{name}"))
    rewards = reward(
        [row(answer) for answer, _ in rows],
        [response for _, response in rows],
        np.ones(len(rows), dtype=np.bool_),
    )
    expected = [
        math.nan if response == "?" else float(response == answer) for answer, response in rows
    ]
    np.testing.assert_array_equal(rewards, np.array(expected, dtype=np.float32))
    if name.startswith("verl"):
        assert reward.counters() == {"errors": sum(response == "?" for _, response in rows)}


def test_verl_functions_get_source_and_extra_info_and_may_return_a_mapping(user_file: str) -> None:
    assert judge(
        load_reward(RewardConfig(function=f"{user_file}:verl")), [row("a"), row("a")], ["a", "b"]
    ) == [1.0, 0.0]


def test_trl_functions_get_chat_turns_for_chat_prompts(user_file: str) -> None:
    chat = Prompt(
        text="hi",
        messages=({"role": "user", "content": "hi"},),
        columns={"prompt": [{"role": "user", "content": "hi"}]},
    )
    assert judge(
        load_reward(RewardConfig(function=f"{user_file}:trl_chat")), [chat, chat], ["ok", "no"]
    ) == [1.0, 0.0]


def test_a_verl_error_is_unknown_counted_and_logged_once(
    user_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    reward = load_reward(RewardConfig(function=f"{user_file}:verl_raises"))
    for _ in range(2):
        assert [math.isnan(value) for value in judge(reward, [row("a")] * 3, ["?", "a", "?"])] == [
            True,
            False,
            True,
        ]
    assert reward.counters() == {"errors": 4}
    assert caplog.text.count("such samples are unknown") == 1
    assert "cannot judge" in caplog.text


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("trl_short", ValueError, r"trl_short: got \[1.0\], expected a list of 2 numbers or None"),
        ("trl_text", ValueError, "trl_text: got '1.0', expected a finite number"),
        ("trl_raises", RuntimeError, "trl_raises raised on a batch of 2: KeyError: 'boom'"),
        (
            "trl_async_raises",
            RuntimeError,
            "trl_async_raises raised on a batch of 2: KeyError: 'boom'",
        ),
        (
            "trl_wants_more",
            ValueError,
            "trl_wants_more needs rubric, but the data has columns .*solution",
        ),
        ("verl_text", ValueError, "verl_text: got 'good', expected a finite number"),
        (
            "verl_no_score",
            ValueError,
            "verl_no_score: got a mapping with acc, expected one with score",
        ),
        ("verl_infinite", ValueError, "verl_infinite: got inf, expected a finite number"),
    ],
)
def test_broken_user_functions_are_explained(
    name: str, error: type[Exception], message: str, user_file: str
) -> None:
    reward = load_reward(RewardConfig(function=f"{user_file}:{name}"))
    with pytest.raises(error, match=message):
        judge(reward, [row("a"), row("b")], ["a", "b"])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:f", "importing 'no_such_module' raised ModuleNotFoundError"),
        ("/no/such/file.py:f", "there is no file /no/such/file.py"),
        ("FILE:absent", "has no function 'absent'"),
        ("FILE:constant", "has no function 'constant'"),
        (
            "FILE:neither",
            r"parameters \(prediction, truth\), expected TRL's .*completions.* or verl's "
            r".*solution_str",
        ),
    ],
)
def test_user_functions_that_cannot_be_used_are_refused_at_load(
    reference: str, message: str, user_file: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_reward(RewardConfig(function=reference.replace("FILE", user_file)))


def test_a_file_that_fails_to_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"broken\.py raised ZeroDivisionError"):
        load_user_scorer(f"{tmp_path / 'broken.py'}:f")


def test_async_functions_run_inside_a_running_event_loop(user_file: str) -> None:
    reward = load_reward(RewardConfig(function=f"{user_file}:verl_async"))

    async def notebook_cell() -> list[float]:
        return judge(reward, [row("a"), row("a")], ["a", "b"])

    assert asyncio.run(notebook_cell()) == [1.0, 0.0]


def test_trl_and_verl_reference_functions_run_unchanged() -> None:
    accuracy = pytest.importorskip("trl.rewards").accuracy_reward
    prompts = [
        Prompt(
            text="Q", messages=({"role": "user", "content": "Q"},), columns={"solution": solution}
        )
        for solution in (r"\frac{1}{2}", r"$\sqrt{3}$", "$x$")
    ]
    reward = load_reward(RewardConfig(function=f"{accuracy.__module__}:{accuracy.__name__}"))
    responses = [r"\boxed{0.5}", r"\boxed{\sqrt{3}}", r"\boxed{y}"]
    expected = accuracy(
        [[{"role": "assistant", "content": response}] for response in responses],
        [prompt.columns["solution"] for prompt in prompts],
    )
    np.testing.assert_array_equal(
        judge(reward, prompts, responses),
        [math.nan if value is None else value for value in expected],
    )
