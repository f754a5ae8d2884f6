"""What people have for verl works in depo-train as it is: a Parquet file of verl's preprocessing, and verl's own reward function."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("verl")

from datasets import Dataset
from transformers import AutoTokenizer

from depo.config import SourceConfig, load_config
from depo.data import load_prompts
from depo.rewards.user import load_user_scorer
from depo.run_records import RunRecords
from depo.trainer import Trainer
from depo.warm_start import warm_start_policy
from tiny import TINY_CONFIG

REWARD = "verl.utils.reward_score:default_compute_score"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Return a file with the columns that verl's examples/data_preprocess/gsm8k.py writes."""

    def row(example: dict[str, int], index: int) -> dict[str, object]:
        question = f"What is {example['a']} + {example['b']}?"
        return {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f'{question} Let\'s think step by step and output the final answer after "####".'}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(example["a"] + example["b"])},
            "extra_info": {"split": "train", "index": index, "answer": f"#### {example['a'] + example['b']}", "question": question},
        }

    examples = [{"a": a, "b": b} for a in range(2, 8) for b in range(2, 8)]
    file = tmp_path / "train.parquet"
    Dataset.from_list(examples).map(row, with_indices=True, remove_columns=["a", "b"]).to_parquet(str(file))
    return file


def test_verls_reward_function_judges_verls_rows(parquet: Path) -> None:
    prompts = load_prompts([SourceConfig(path=str(parquet))])
    assert {(prompt.source, prompt.columns["extra_info"]["split"]) for prompt in prompts} == {("openai/gsm8k", "train")}
    scorer = load_user_scorer(REWARD)
    right = [f"Adding up: #### {prompt.answer}" for prompt in prompts]
    assert scorer.score(prompts, right).tolist() == [1.0] * len(prompts)
    assert scorer.score(prompts, [*right[1:], "7"]).mean() < 0.2
    assert scorer.counters() == {"errors": 0}


def test_depo_train_runs_on_both(parquet: Path, tmp_path: Path) -> None:
    config = load_config(run_file(parquet, tmp_path), ["--reward.function", REWARD, "--policy.model", str(chat_policy(parquet, tmp_path))])
    Trainer(config, tmp_path / "run").run()
    rewards = np.array([group["rewards"] for group in RunRecords.read(tmp_path / "run").journal], float)
    assert len(rewards) >= 12
    assert set(rewards.flatten()) == {0.0, 1.0}


def run_file(parquet: Path, directory: Path) -> Path:
    _, _, settings = TINY_CONFIG.partition("[reward]\n")
    sources = f'[[data.train]]\npath = "{parquet}"\n\n[[data.eval]]\npath = "{parquet}"\ncount = 4\n'
    file = directory / "verl.toml"
    file.write_text(f"[run]\nsteps = 3\nprompts_per_step = 4\neval_every = 0\nsave_every = 0\n\n{sources}\n[reward]\n{settings}")
    return file


def chat_policy(parquet: Path, directory: Path) -> Path:
    """Return a tiny chat model that answers in the form that verl's verifier reads, and is right now and then."""
    demonstrations = directory / "demonstrations.jsonl"
    rows = [{"prompt": prompt.text, "answer": f"#### {prompt.answer}"} for prompt in load_prompts([SourceConfig(path=str(parquet))])]
    demonstrations.write_text("\n".join(map(json.dumps, rows)))
    config = load_config(run_file(parquet, directory), ["--warm_start.cache", str(directory), "--warm_start.steps", "60"]).warm_start
    policy = warm_start_policy([SourceConfig(path=str(demonstrations))], [], config, threads=1)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(policy)
    return policy
