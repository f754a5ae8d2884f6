"""From a configuration to the parts of a run: policy, data, reward, engine, learner, estimator, sampler."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from depo.config import TrainConfig
from depo.data import check_seed_overlap, load_prompts
from depo.errors import ConfigError
from depo.estimator import BertDifficultyEstimator
from depo.learner import PolicyLearner
from depo.metrics import Stopwatch
from depo.protocols import RewardFunction
from depo.records import Float32Array, Prompt, TargetBatch
from depo.rewards import check_golds, load_reward
from depo.rollout.local import LocalEngine
from depo.rollout.prompts import encode_prompts
from depo.sampler import PromptSampler
from depo.warm_start import warm_start_policy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a trainer drives."""

    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    learner: PolicyLearner
    engine: LocalEngine
    reward: RewardFunction
    estimator: BertDifficultyEstimator | None
    sampler: PromptSampler
    eval_prompts: list[Prompt]
    stopwatch: Stopwatch


class TimedEstimator:
    """An estimator whose compute is booked apart from the sampler's own."""

    def __init__(self, estimator: BertDifficultyEstimator, stopwatch: Stopwatch) -> None:
        """Wrap `estimator`; CPU seconds go to `time/predict` and `time/estimator_update`."""
        self._estimator, self._stopwatch = estimator, stopwatch

    @property
    def version(self) -> int:
        """Number of updates so far."""
        return self._estimator.version

    def predict(self, texts: Sequence[str]) -> Float32Array:
        """Return the predicted pass rate of each text."""
        with self._stopwatch("time/predict"):
            return self._estimator.predict(texts)

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        """Take one optimizer step per batch."""
        with self._stopwatch("time/estimator_update"):
            return self._estimator.update(batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the estimator's state."""
        return self._estimator.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the estimator's state."""
        self._estimator.load_state_dict(state)


def build_parts(config: TrainConfig, resume_from: Path | None) -> Parts:
    """Load everything that a run needs; weights come from the checkpoint directory `resume_from` if one is given.

    Raises:
        ConfigError: No training source, or settings that contradict each other.
        DataError: A data file cannot be read.
    """
    if not config.data.train:
        raise ConfigError("data.train: got no source, expected at least one [[data.train]] table")
    check_seed_overlap(config.data.train, config.data.eval)
    torch.set_num_threads(config.run.threads)
    device = _device(config.run.device)
    stopwatch = Stopwatch()
    needs_start = resume_from is None or config.loss.kl_weight > 0
    start = _start_policy(config) if needs_start else None
    current = resume_from / "policy" if resume_from else start
    assert current is not None
    tokenizer = AutoTokenizer.from_pretrained(current, local_files_only=True)
    policy = _load_policy(current, config, device)
    reference = _load_policy(start, config, device) if start and config.loss.kl_weight > 0 else None
    engine = _build_engine(config, policy, tokenizer)
    train_prompts, eval_prompts = _load_data(config, tokenizer, engine.max_prompt_tokens)
    estimator = _build_estimator(config, tokenizer, device)
    return Parts(
        policy=policy,
        tokenizer=tokenizer,
        learner=_build_learner(config, policy, reference, tokenizer, device),
        engine=engine,
        reward=load_reward(config.reward),
        estimator=estimator,
        sampler=PromptSampler(
            train_prompts, config.rollout.group_size, config.selection, TimedEstimator(estimator, stopwatch) if estimator else None, config.run.seed
        ),
        eval_prompts=eval_prompts,
        stopwatch=stopwatch,
    )


def _start_policy(config: TrainConfig) -> Path:
    """Return the directory of the policy that training starts from."""
    if not config.policy.model:
        return warm_start_policy(config.data.train, config.data.eval, config.warm_start, config.run.threads)
    directory = Path(config.policy.model)
    if not (directory / "config.json").is_file() or not any(directory.glob("tokenizer*")):
        raise ConfigError(f"policy.model: got {config.policy.model!r}, expected a directory with a Hugging Face causal LM and its tokenizer")
    return directory


def _load_policy(directory: Path, config: TrainConfig, device: torch.device) -> PreTrainedModel:
    policy: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, config.policy.dtype), local_files_only=True)
    policy.to(device)  # type: ignore[arg-type]
    return policy


def _load_data(config: TrainConfig, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int) -> tuple[list[Prompt], list[Prompt]]:
    """Load both sets; leave out what the reward cannot verify, and held-out prompts that are trained on.

    Everything is tokenized once, so that a prompt that is too long stops the run before it starts.
    """
    loaded = []
    for name, sources in (("train", config.data.train), ("eval", config.data.eval)):
        prompts, dropped = check_golds(load_prompts(sources), config.reward)
        encode_prompts(prompts, tokenizer, max_prompt_tokens)
        logger.info("data.%s: %d prompts, %d dropped because their ground truth does not verify against itself", name, len(prompts), len(dropped))
        loaded.append(prompts)
    train, held_out = loaded
    trained_on = {(prompt.text, str(prompt.answer)) for prompt in train}
    unseen = [prompt for prompt in held_out if (prompt.text, str(prompt.answer)) not in trained_on]
    if len(unseen) < len(held_out):
        logger.warning("data.eval: left out %d prompts that are also in data.train", len(held_out) - len(unseen))
    return train, unseen


def _build_estimator(config: TrainConfig, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> BertDifficultyEstimator | None:
    if config.selection.policy == "uniform" or not config.estimator.enabled:
        return None
    return BertDifficultyEstimator(config.estimator, tokenizer, seed=config.run.seed, device=device)


def _build_learner(
    config: TrainConfig, policy: PreTrainedModel, reference: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> PolicyLearner:
    return PolicyLearner(
        policy,
        loss=config.loss,
        optimizer=config.optimizer,
        policy=config.policy,
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.rollout.temperature,
        pad_token_id=tokenizer.pad_token_id or 0,
        reference_model=reference,
        device=device,
    )


def _build_engine(config: TrainConfig, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LocalEngine:
    return LocalEngine(
        policy,
        tokenizer,
        max_new_tokens=config.rollout.max_new_tokens,
        sequences_per_batch=config.rollout.sequences_per_batch,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        autocast=config.policy.autocast,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"run.device: got {name!r}, expected cpu or auto: torch finds no CUDA device here")
    return torch.device(name)
