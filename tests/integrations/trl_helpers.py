"""Tiny policies, rewards and trainers for the tests of the TRL adapter.

Run as a script, a training run in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig

from depo.config import EstimatorConfig, SelectorConfig
from depo.integrations.trl import DepoGRPOMixin, DepoGRPOTrainer
from depo.state.files import StateFiles
from depo.types.errors import StateError
from tests.training.learner.reference_losses import VOCABULARY, tiny_policy

GROUP_SIZE, GROUPS = 4, 4
TINY_ESTIMATOR = EstimatorConfig(
    hidden_size=16, layers=1, heads=2, feed_forward=16, trunk_sizes=(8, 8), replay_batch=8
)
EAGER = SelectorConfig.from_preset("depo", backfill=False, warmup_steps=1, candidates_per_draw=2)
"""Selects from the second step on."""

BACKFILL = SelectorConfig.from_preset(
    "depo", warmup_steps=1, candidates_per_draw=2, backfill_rounds=4
)

QUIET: Mapping[str, Any] = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "disable_tqdm": True,
    "logging_steps": 1,
}
KINDS = ("right", "wrong", "mixed", "mixed")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """'w5' is token 5; token 0 pads, token 1 ends a response."""
    words = Tokenizer(
        models.WordLevel(
            {"<pad>": 0, "<eos>": 1} | {f"w{token}": token for token in range(2, VOCABULARY)},
            unk_token="<eos>",
        )
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def tiny_rows(count: int = 48) -> list[dict[str, str]]:
    """Distinct prompts of 2 to 6 tokens; groups are all right, all wrong or mixed by turns."""
    lengths = [2 + index % 5 for index in range(count)]
    words = [
        [f"w{2 + (index // 8) % 8}", f"w{2 + index % 8}", *["w11"] * (length - 2)]
        for index, length in enumerate(lengths)
    ]
    return [
        {"prompt": " ".join(each), "solution": KINDS[index % 4]} for index, each in enumerate(words)
    ]


def kind_reward(completions: Sequence[str], solution: Sequence[str], **_: Any) -> list[float]:
    """1 for a prompt of kind right, 0 for wrong, else a checksum of the response."""
    return [
        {"right": 1.0, "wrong": 0.0}.get(kind, float(sum(map(ord, text)) % 2))
        for text, kind in zip(completions, solution, strict=True)
    ]


def tiny_trainer(
    directory: Path,
    *,
    model: Any = None,
    rows: Any = None,
    reward: Any = kind_reward,
    trainer_class: type = DepoGRPOTrainer,
    depo: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """Return a trainer of a random policy.

    `depo` are the adapter's own arguments, `settings` those of GRPOConfig or else of the trainer.
    """
    defaults: dict[str, Any] = {
        "output_dir": str(directory),
        "per_device_train_batch_size": GROUP_SIZE * GROUPS,
        "num_generations": GROUP_SIZE,
        "max_completion_length": 4,
        "max_steps": 4,
        "save_strategy": "no",
        "learning_rate": 1e-3,
        **QUIET,
    }
    known = set(GRPOConfig.__dataclass_fields__)
    own = (
        {"estimator": None, "selector": EAGER, **(depo or {})}
        if issubclass(trainer_class, DepoGRPOMixin)
        else {}
    )
    return trainer_class(
        model=model or tiny_policy(),
        reward_funcs=reward,
        args=GRPOConfig(
            **(defaults | {name: value for name, value in settings.items() if name in known})
        ),
        train_dataset=Dataset.from_list(tiny_rows()) if rows is None else rows,
        **{
            "processing_class": word_tokenizer(),
            **{name: value for name, value in settings.items() if name not in known},
        },
        **own,
    )


KIND_OF = {row["prompt"]: row["solution"] for row in tiny_rows()}


class RecordingTrainer(DepoGRPOTrainer):  # type: ignore[misc]
    """Keeps what is generated and what TRL trains on.

    `rollouts`, of each generation this process's prompts; `batches`, of each batch its outputs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rollouts: list[list[str]] = []
        self.batches: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if self.model.training:
            self.rollouts.append([self.processing_class.decode(ids) for ids in prompt_ids])
        return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self.batches.append(output)
        return output

    def texts(self, batch: Mapping[str, torch.Tensor], part: str) -> list[str]:
        """Return the prompts or completions of a batch."""
        pairs = zip(batch[f"{part}_ids"], batch[f"{part}_mask"], strict=True)
        return self.processing_class.batch_decode(
            [ids[mask.bool()] for ids, mask in pairs], skip_special_tokens=True
        )


def train_logs(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def watch(trainer: Any, *, logprobs: bool = False) -> list[tuple[str, Any]]:
    """Return a list that will hold the sampler's events.

    ("draw", draws), if wanted ("logprobs", [B]), ("label", (draws, rewards, verdicts, version)).
    """
    events: list[tuple[str, Any]] = []
    sampler = trainer.depo.sampler
    sample, observe = sampler.sample, sampler.observe

    def watched_sample(n: int, **keywords: Any) -> Any:
        draws = sample(n, **keywords)
        events.append(("draw", draws))
        return draws

    def watched_observe(draws: Any, rewards: Any, *, policy_version: int, **keywords: Any) -> Any:
        verdicts = observe(draws, rewards, policy_version=policy_version, **keywords)
        if logprobs:
            events.append(("logprobs", keywords["logprobs"]))
        events.append(("label", (draws, np.array(rewards), verdicts, policy_version)))
        return verdicts

    sampler.sample, sampler.observe = watched_sample, watched_observe
    return events


class KillItself(TrainerCallback):
    """Ends the process after a step as the kernel would; None: never."""

    def __init__(self, after: int | None) -> None:
        self.after = after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def digest(state: Mapping[str, Any]) -> str:
    """Return a checksum of a state."""
    with tempfile.TemporaryDirectory() as directory:
        StateFiles(state).write(Path(directory))
        return hashlib.sha256(
            b"".join(path.read_bytes() for path in sorted(Path(directory).iterdir()))
        ).hexdigest()


def report(trainer: RecordingTrainer) -> dict[str, Any]:
    """Return what a run did, as JSON can hold it."""
    estimator = trainer.depo.sampler.estimator
    return {
        "rollouts": trainer.rollouts,
        "prompts": [trainer.texts(batch, "prompt") for batch in trainer.batches],
        "completions": [trainer.texts(batch, "completion") for batch in trainer.batches],
        "advantages": [batch["advantages"].tolist() for batch in trainer.batches],
        "num_items": [
            (int(batch["num_items_in_batch"]), int(batch["completion_mask"].sum()))
            for batch in trainer.batches
        ],
        "in_flight": len(trainer.depo.sampler.in_flight()),
        "sampler": digest(trainer.depo.sampler.state_dict()),
        "estimator_version": estimator.version if estimator else 0,
        "estimator_state": digest(estimator.state_dict())
        if estimator and estimator.state_dict()
        else "",
    }


def main(directory: Path) -> None:
    """Carry out `runs.json` of a directory, a list of runs one after the other.

    Also write `NAME.RANK.json` for each.
    """
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    for run in json.loads((directory / "runs.json").read_text()):
        depo = {
            "selector": SelectorConfig.from_preset(**run["selector"]),
            "estimator": TINY_ESTIMATOR,
        }
        rows = Dataset.from_list(tiny_rows(48 - rank)) if run.get("rows_differ") else None
        try:
            trainer = tiny_trainer(
                directory / run["output"],
                trainer_class=RecordingTrainer,
                rows=rows,
                depo=depo,
                **run["settings"],
            )
            trainer.add_callback(KillItself(run.get("kill_after")))
            trainer.train(resume_from_checkpoint=run.get("resume"))
            told = report(trainer)
        except StateError as error:
            told = {"error": str(error)}
        (directory / f"{run['name']}.{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
