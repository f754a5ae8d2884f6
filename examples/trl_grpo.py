"""TRL's GRPOTrainer without and with depo: how many groups of rollouts carry no signal?

    pip install 'depo-rl[trl]' python examples/trl_grpo.py [--steps 40]      (3 minutes on one core,
    half of it the start of the tiny policy)

Trains the quickstart's policy of 0.3M parameters on the quickstart's tasks; nothing is downloaded,
no GPU is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from depo.config import load_config
from depo.data import load_prompts
from depo.integrations.trl import DepoGRPOTrainer
from depo.training.warm_start import warm_start_policy

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.toml"


def policy_and_rows(cache: str = "runs/cache") -> tuple[Path, Dataset]:
    """Return the directory of the tiny policy, trained first unless it is in the cache.

    Also rows in TRL's layout.
    """
    config = load_config(QUICKSTART, ["--warm_start.cache", cache])
    policy = warm_start_policy(
        config.data.train, config.data.eval, config.warm_start, config.run.threads
    )
    return policy, Dataset.from_list(
        [
            {"prompt": prompt.text, "solution": str(prompt.answer)}
            for prompt in load_prompts(config.data.train)
        ]
    )


def exact_match(completions: Sequence[str], solution: Sequence[str], **_: Any) -> list[float]:
    """TRL's kind of reward function: 1 where the response is the solution."""
    return [
        float(response.strip() == expected)
        for response, expected in zip(completions, solution, strict=True)
    ]


def make_trainer(
    trainer_class: type[GRPOTrainer], policy: Path, rows: Dataset, steps: int, **depo: Any
) -> GRPOTrainer:
    """Return a trainer of 16 prompts x 8 rollouts per step.

    `depo` are arguments that only DepoGRPOTrainer knows.
    """
    arguments = GRPOConfig(
        output_dir="runs/trl_grpo",
        max_steps=steps,
        per_device_train_batch_size=128,
        num_generations=8,
        max_completion_length=14,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        activation_checkpointing=False,
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(policy)
    return trainer_class(
        model=str(policy),
        reward_funcs=exact_match,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        **depo,
    )


def silent_shares(trainer: GRPOTrainer) -> list[float]:
    """Train, and return of each step the share of groups whose rewards are all alike.

    As TRL logs it.
    """
    trainer.train()
    return [
        entry["frac_reward_zero_std"]
        for entry in trainer.state.log_history
        if "frac_reward_zero_std" in entry
    ]


def main() -> None:
    """Train both and compare the second half of the runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    policy, rows = policy_and_rows()
    shares = {
        each.__name__: silent_shares(make_trainer(each, policy, rows, steps))[steps // 2 :]
        for each in (GRPOTrainer, DepoGRPOTrainer)
    }
    for name, values in shares.items():
        print(
            f"{name}: {sum(values) / len(values):.0%} of the groups of steps {steps // 2} to "
            f"{steps} carry no signal"
        )


if __name__ == "__main__":
    main()
