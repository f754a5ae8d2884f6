"""What people have for TRL works in depo-train as it is.

Data sets in TRL's two formats, and TRL's own reward functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from depo.config import SourceConfig
from depo.data import load_prompts
from depo.rewards.user import load_user_scorer
from depo.types.records import Prompt
from tests.integrations.interop_helpers import assert_run_judges_both_ways

SUMS = [(a, b) for a in range(2, 8) for b in range(2, 8)]
ACCURACY = "trl.rewards:accuracy_reward"


def boxed(answer: int) -> str:
    return f"\\boxed{{{answer}}}"  # the form that accuracy_reward demands of a response


def standard(a: int, b: int) -> dict[str, Any]:
    return {"prompt": f"What is {a} + {b}?", "solution": boxed(a + b), "level": a}


def conversational(a: int, b: int) -> dict[str, Any]:
    return {**standard(a, b), "prompt": [{"role": "user", "content": f"What is {a} + {b}?"}]}


def write(rows: list[dict[str, Any]], file: Path) -> Path:
    """Write a data set by `datasets` itself."""
    data = Dataset.from_list(rows)
    data.to_parquet(str(file)) if file.suffix == ".parquet" else data.to_json(str(file))
    return file


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
@pytest.mark.parametrize("row", [standard, conversational])
def test_rows_are_read_with_all_their_columns(row: Any, name: str, tmp_path: Path) -> None:
    prompts = load_prompts(
        [SourceConfig(path=str(write([row(a, b) for a, b in SUMS], tmp_path / name)))]
    )
    assert [prompt.text for prompt in prompts] == [f"What is {a} + {b}?" for a, b in SUMS]
    assert [(prompt.answer, prompt.columns["level"]) for prompt in prompts] == [
        (boxed(a + b), a) for a, b in SUMS
    ]
    assert all((prompt.messages is not None) == (row is conversational) for prompt in prompts)


def test_trls_reward_functions_judge_trls_rows(tmp_path: Path) -> None:
    unparseable = {**conversational(1, 1), "solution": ""}
    prompts = load_prompts(
        [
            SourceConfig(
                path=str(
                    write(
                        [conversational(2, 3), conversational(4, 5), unparseable],
                        tmp_path / "train.jsonl",
                    )
                )
            )
        ]
    )
    responses = [f"So it is {boxed(5)}", f"So it is {boxed(5)}", boxed(2)]
    assert np.array_equal(
        load_user_scorer(ACCURACY).score(prompts, responses), [1.0, 0.0, np.nan], equal_nan=True
    )
    thoughts = ["<think>2 and 3</think>5", "5", "<think>"]
    assert load_user_scorer("trl.rewards:think_format_reward").score(
        prompts, thoughts
    ).tolist() == [1.0, 0.0, 0.0]
    reasons = [
        f"<think>or {boxed(6)}</think>{boxed(5)}",
        f"<think></think>{boxed(4)}",
        "<think></think>",
    ]
    scored = load_user_scorer("trl.rewards:reasoning_accuracy_reward").score(prompts, reasons)
    assert np.array_equal(scored, [1.0, 0.0, np.nan], equal_nan=True)


def test_a_reward_that_needs_token_ids_says_so(tmp_path: Path) -> None:
    file = tmp_path / "shaped.py"
    file.write_text(
        "from trl.rewards import get_cosine_scaled_reward\n\nshaped = "
        "get_cosine_scaled_reward(max_len=8)\n"
    )
    with pytest.raises(ValueError, match="needs completion_ids, but the data has columns"):
        load_user_scorer(f"{file}:shaped").score(
            [Prompt(text="2 + 3", columns={"solution": "$5$"})], ["$5$"]
        )


TEXT_REWARD = """
def exact(prompts, completions, solution, level, trainer_state, **kwargs):
    assert all(prompt.startswith("What is") for prompt in prompts) and all(level)
    return [float(text.strip() == truth) for text, truth in zip(completions, solution)]
"""


@pytest.mark.parametrize(
    ("row", "name", "settings", "reward"),
    [
        (conversational, "train.parquet", "", ACCURACY),
        (standard, "train.jsonl", "chat = true", ACCURACY),
        (standard, "train.parquet", "", "exact.py:exact"),
    ],
    ids=["conversational", "standard through the chat template", "standard"],
)
def test_depo_train_runs_on_both(
    row: Any, name: str, settings: str, reward: str, tmp_path: Path
) -> None:
    (tmp_path / "exact.py").write_text(TEXT_REWARD)
    reference = reward if reward == ACCURACY else str(tmp_path / reward)
    data = write([row(a, b) for a, b in SUMS], tmp_path / name)
    demonstrations = [{"prompt": f"What is {a} + {b}?", "answer": boxed(a + b)} for a, b in SUMS]
    overrides = ("--reward.function", reference, "--rollout.max_new_tokens", "14")
    assert_run_judges_both_ways(
        data, demonstrations, tmp_path, *overrides, warm_start_steps=150, settings=settings
    )
