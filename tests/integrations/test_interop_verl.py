"""What people have for verl works in depo-train as it is.

A Parquet file of verl's preprocessing, and verl's own reward function.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("verl")

from datasets import Dataset

from depo.config import SourceConfig
from depo.data import load_prompts
from depo.rewards.user import load_user_scorer
from tests.integrations.interop_helpers import assert_run_judges_both_ways

REWARD = "verl.utils.reward_score:default_compute_score"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Return a file with the columns that verl's examples/data_preprocess/gsm8k.py writes."""

    def row(example: dict[str, int], index: int) -> dict[str, object]:
        question = f"What is {example['a']} + {example['b']}?"
        return {
            "data_source": "openai/gsm8k",
            "prompt": [
                {
                    "role": "user",
                    "content": f"{question} Let's think step by step and output the final answer "
                    f'after "####".',
                }
            ],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(example["a"] + example["b"])},
            "extra_info": {
                "split": "train",
                "index": index,
                "answer": f"#### {example['a'] + example['b']}",
                "question": question,
            },
        }

    examples = [{"a": a, "b": b} for a in range(2, 8) for b in range(2, 8)]
    file = tmp_path / "train.parquet"
    Dataset.from_list(examples).map(row, with_indices=True, remove_columns=["a", "b"]).to_parquet(
        str(file)
    )
    return file


def test_verls_reward_function_judges_verls_rows(parquet: Path) -> None:
    prompts = load_prompts([SourceConfig(path=str(parquet))])
    assert {(prompt.source, prompt.columns["extra_info"]["split"]) for prompt in prompts} == {
        ("openai/gsm8k", "train")
    }
    scorer = load_user_scorer(REWARD)
    right = [f"Adding up: #### {prompt.answer}" for prompt in prompts]
    assert scorer.score(prompts, right).tolist() == [1.0] * len(prompts)
    assert scorer.score(prompts, [*right[1:], "7"]).mean() < 0.2
    assert scorer.counters() == {"errors": 0}


def test_depo_train_runs_on_both(parquet: Path, tmp_path: Path) -> None:
    """The demonstrations have the form that verl's verifier reads."""
    demonstrations = [
        {"prompt": prompt.text, "answer": f"#### {prompt.answer}"}
        for prompt in load_prompts([SourceConfig(path=str(parquet))])
    ]
    assert_run_judges_both_ways(
        parquet, demonstrations, tmp_path, "--reward.function", REWARD, warm_start_steps=60
    )
