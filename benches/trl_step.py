"""CPU time of a training step.

depo-train against TRL's GRPOTrainer, on the same policy, prompts, batch and hardware.

Both sides start from one checkpoint and take their steps in turn, in one process and on one thread.
A step is: draw 16 prompts, generate 8 responses to each, judge them, one AdamW step on the DAPO
loss, log. TRL has no option on that costs time: no KL, no checkpointing of activations, no
bfloat16, no evaluation, no saving, no completions logged, metrics kept in memory. depo selects
nothing (preset uniform) and writes everything that it always writes: journal, metrics, TensorBoard.
That both compute the same loss and gradient is what tests/test_parity_trl.py says.

    python benches/trl_step.py [--steps 40]     (about 20 minutes on one core; writes
    docs/results/trl_step.md)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

from depo.config import TrainConfig, load_config
from depo.rewards import load_reward
from depo.sampler import PromptSampler
from depo.training.trainer import Trainer
from depo.training.warm_start import warm_start_policy
from depo.types.records import Prompt

WARM_UP = 3
"""Steps that are not counted: first calls allocate."""

TRL_MICROBATCHES = 4
"""TRL's step in one piece, in 2 and in 4: 4 was the fastest here."""

STILL = ("--optimizer.learning_rate", "1e-9")
"""What says nothing would make the lengths of the two policies drift apart."""

SIGNAL = (
    "--reward.function",
    f"{Path(__file__).resolve()}:alternate",
    "--reward.truncated",
    "score",
    *STILL,
)
UNTRAINED = ("--warm_start.steps", "1")
"""Almost random tokens: responses nearly fill their budget."""

LARGER = (
    *UNTRAINED,
    *SIGNAL,
    "--warm_start.hidden_size",
    "256",
    "--warm_start.layers",
    "4",
    "--warm_start.feed_forward",
    "512",
)
LONGER = (*LARGER, "--rollout.max_new_tokens", "64")
SMALL_BATCHES = ("--optimizer.tokens_per_microbatch", "1024")
CASES: Mapping[str, Sequence[str]] = {
    "quickstart": (),
    "quickstart, every group with signal": SIGNAL,
    "quickstart, every group with signal, micro-batches": (*SIGNAL, *SMALL_BATCHES),
    "256 x 4 layers": LARGER,
    "256 x 4 layers, micro-batches": (*LARGER, *SMALL_BATCHES),
    "256 x 4 layers, up to 64 tokens": LONGER,
    "256 x 4 layers, up to 64 tokens, micro-batches": (*LONGER, *SMALL_BATCHES),
}
"""Name -> overrides of configs/quickstart.toml."""


def alternate(completions: Sequence[str], **_: Any) -> list[float]:
    """Reward every other response.

    Then no group is without signal, and no update can be left out.
    """
    return [float(index % 2) for index in range(len(completions))]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPair:
    """One step of both sides: CPU seconds and generated tokens.

    depo's share of groups with signal.
    """

    depo: float
    depo_rollout: float
    depo_tokens: float
    trl: float
    trl_rollout: float
    trl_tokens: float
    informative: float


class Alternation(TrainerCallback):
    """Takes a step of depo after each of TRL's and books the CPU seconds of both, TRL's from the
    end of depo's step before.
    """

    def __init__(self, depo: Trainer) -> None:
        self.pairs: list[StepPair] = []
        self._depo = depo
        self._mark = self._trl_rollout = self._trl_tokens = 0.0

    def watch(self, trainer: trl.GRPOTrainer) -> None:
        """Book what generation, rewards and advantages cost apart."""
        generate = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            start = time.process_time()
            batch = generate(inputs)
            self._trl_rollout, self._trl_tokens = (
                time.process_time() - start,
                float(batch["completion_mask"].sum()),
            )
            return batch

        trainer._generate_and_score_completions = timed
        trainer.add_callback(self)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._mark = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        start = time.process_time()
        step = len(self.pairs)
        metrics = self._depo.step(step)
        parts = self._depo.training.build.stopwatch.take()
        self._depo.log.write(step + 1, metrics, parts)
        end = time.process_time()
        pair = StepPair(
            depo=end - start,
            depo_rollout=parts["time/rollout"] + parts["time/reward"],
            depo_tokens=metrics["rollout/tokens"],
            trl=start - self._mark,
            trl_rollout=self._trl_rollout,
            trl_tokens=self._trl_tokens,
            informative=metrics["rollout/informative_share"],
        )
        self.pairs.append(pair)
        self._mark = time.process_time()


def trl_trainer(
    config: TrainConfig, prompts: Sequence[Prompt], policy: Path, directory: Path, steps: int
) -> trl.GRPOTrainer:
    """Return TRL's trainer with depo's settings and reward, on these prompts in this order."""
    reward, by_text = load_reward(config.reward), {prompt.text: prompt for prompt in prompts}
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")

    def judge(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        finished = np.array([ids[-1] == tokenizer.eos_token_id for ids in completion_ids])
        return reward([by_text[text] for text in prompts], completions, finished).tolist()

    optimizer, rollout, loss = config.optimizer, config.rollout, config.loss
    settings = trl.GRPOConfig(
        output_dir=str(directory),
        max_steps=steps,
        seed=config.run.seed,
        shuffle_dataset=False,
        per_device_train_batch_size=config.run.prompts_per_step
        * rollout.group_size
        // TRL_MICROBATCHES,
        gradient_accumulation_steps=TRL_MICROBATCHES,
        steps_per_generation=TRL_MICROBATCHES,
        num_generations=rollout.group_size,
        max_completion_length=rollout.max_new_tokens,
        temperature=rollout.temperature,
        loss_type="dapo",
        epsilon=loss.clip_low,
        epsilon_high=loss.clip_high,
        beta=0.0,
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=optimizer.warmup_steps,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.grad_clip,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        dataloader_num_workers=0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        log_completions=False,
        disable_tqdm=True,
    )
    dataset = Dataset.from_list([{"prompt": prompt.text} for prompt in prompts])
    trainer = trl.GRPOTrainer(
        model=str(policy),
        reward_funcs=judge,
        args=settings,
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    assert not trainer.model.is_activation_checkpointing
    return trainer


def measure(overrides: Sequence[str], steps: int, cache: Path) -> list[StepPair]:
    """Return the counted steps of one case."""
    total = steps + WARM_UP
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        directory = Path(name)
        common = (
            "--selection.preset",
            "uniform",
            "--run.steps",
            str(total),
            "--warm_start.cache",
            str(cache),
        )
        config = load_config(Path("configs/quickstart.toml"), [*common, *overrides])
        policy = warm_start_policy(
            config.data.train, config.data.eval, config.warm_start, config.run.threads
        )
        depo = Trainer(config, directory / "depo")
        order = PromptSampler(
            depo.training.build.sampler.prompts,
            config.rollout.group_size,
            config.selection,
            None,
            config.run.seed,
        )
        draws = order.sample(config.run.prompts_per_step * total, policy_version=0)
        trainer = trl_trainer(
            config, [draw.prompt for draw in draws], policy, directory / "trl", total
        )
        alternation = Alternation(depo)
        alternation.watch(trainer)
        with depo.log:
            trainer.train()
        drawn = [
            json.loads(row)["prompt_id"]
            for row in (directory / "depo" / "journal.jsonl").read_text().splitlines()
        ]
        assert drawn == [draw.prompt.id for draw in draws], (
            "both sides must see the same prompts at every step"
        )
    return alternation.pairs[WARM_UP:]


def row(name: str, pairs: Sequence[StepPair]) -> str:
    """Return one line of the table; milliseconds are medians."""
    column = {
        item.name: np.array([getattr(pair, item.name) for pair in pairs])
        for item in fields(StepPair)
    }
    ratios = column["trl"] / column["depo"]
    sides = [
        f"{column[f'{side}_tokens'].mean():,.0f} | {np.median(column[side]) * 1e3:,.0f} | "
        f"{np.median(column[f'{side}_rollout']) * 1e3:,.0f} + "
        f"{np.median(column[side] - column[f'{side}_rollout']) * 1e3:,.0f}"
        for side in ("depo", "trl")
    ]
    quartiles = (
        f"**{np.median(ratios):.2f}** ({np.quantile(ratios, 0.25):.2f} .. "
        f"{np.quantile(ratios, 0.75):.2f})"
    )
    return f"| {name} | {column['informative'].mean():.0%} | {' | '.join(sides)} | {quartiles} |"


def page(rows: Sequence[str], steps: int) -> str:
    """Return the Markdown page."""
    versions = (
        f"TRL {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    )
    paragraphs = [
        "# A training step of depo-train and of TRL's GRPOTrainer",
        f"`python benches/trl_step.py --steps {steps}`: "
        f"{' '.join(str(__doc__).split(chr(10) * 2)[1].split())}",
        f"CPU milliseconds per step, medians of {steps} steps after {WARM_UP}; *a + b* is a for "
        f"rollouts, rewards and (TRL) advantages, b for everything else, "
        f"most of it the update. The ratio is that of step k of TRL to step k of depo: median and "
        f"quartiles. {versions}.",
        "\n".join(
            [
                "| policy and reward | groups with signal | depo tokens | depo ms | rollout + "
                "rest | TRL tokens | TRL ms | rollout + rest | TRL / depo |",
                "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
                *rows,
            ]
        ),
        *NOTES,
    ]
    return "\n\n".join(paragraphs) + "\n"


NOTES = (
    "- *Quickstart*: its policy of 128 x 2 layers, 0.3M parameters, with its reward and its "
    "budget of 14 tokens. depo leaves the groups whose advantages are "
    "zero out of the update, which changes neither loss nor gradient.\n"
    "- *Every group with signal*, and all rows of 256 x 4 layers: every other response is "
    "rewarded, so that nothing can be left out, at a learning rate of "
    "1e-9, so that lengths do not drift apart. The larger policies are untrained, and their "
    "responses nearly fill the budget.\n"
    "- *Micro-batches*: `optimizer.tokens_per_microbatch = 1024` instead of 16,384. depo sorts "
    "sequences by length before it cuts the batch into "
    f"micro-batches, so that small ones hold less padding; the sum of the gradients is the same. "
    f"TRL's step is cut into {TRL_MICROBATCHES} in all rows, the "
    "fastest of 1, 2 and 4 here; all of them are padded to the longest response of the step.",
    "Where the difference comes from: depo prefills each prompt once per group, drops finished "
    "rows while it generates, and pads an update no further than "
    "a micro-batch needs. What is left is matrix products, which cost both sides the same per "
    "token: the larger the policy and the more of the step "
    "its update is, the closer the two are.",
)


def main() -> None:
    """Measure every case, print the rows, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, help="counted steps per row")
    parser.add_argument(
        "--cases", default="", help="only those whose name contains this; nothing is written then"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/cache"), help="where the policies are kept"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/results/trl_step.md"), help="where the page goes"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, overrides in CASES.items():
        if options.cases in name:
            rows.append(row(name, measure(overrides, options.steps, options.cache)))
            print(rows[-1], flush=True)
    if not options.cases:
        options.output.write_text(page(rows, options.steps), encoding="utf-8")


if __name__ == "__main__":
    main()
