"""From a configuration to the parts of a run.

Policy, data, reward, engine, learner, estimator, sampler.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from depo.config import TrainConfig
from depo.data import check_seed_overlap, load_prompts, without_trained
from depo.estimator import BertDifficultyEstimator
from depo.rewards import check_golds, load_reward
from depo.rollout.local import LocalEngine
from depo.rollout.precision import computes_bfloat16
from depo.rollout.prompts import encode_prompts
from depo.rollout.requests import end_tokens, stop_tokens
from depo.rollout.vllm.engine import VllmEngine
from depo.sampler import PromptSampler
from depo.training.distributed.cluster import Cluster
from depo.training.distributed.estimator_actor import RayEstimator
from depo.training.distributed.learner_group import RayLearnerGroup
from depo.training.distributed.policy_copy import PolicyCopy
from depo.training.distributed.rollout_workers import RayRolloutEngine
from depo.training.distributed.sharded_learner import ShardedLearner
from depo.training.learner.policy_learner import PolicyLearner
from depo.training.stopwatch import Stopwatch
from depo.training.warm_start import warm_start_policy
from depo.types.errors import ConfigError
from depo.types.protocols import DifficultyEstimator, RewardFunction, RolloutEngine
from depo.types.records import Float32Array, Prompt, TargetBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a trainer drives."""

    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    learner: PolicyLearner | RayLearnerGroup
    engine: RolloutEngine
    reward: RewardFunction
    estimator: DifficultyEstimator | None
    sampler: PromptSampler
    eval_prompts: list[Prompt]
    stopwatch: Stopwatch
    cluster: Cluster | None

    def close(self) -> None:
        """End all other processes of the run; calling it twice is fine."""
        self.reward.close()
        if isinstance(self.engine, VllmEngine):
            self.engine.close()
        if self.cluster:
            self.cluster.close()


class TimedEstimator:
    """An estimator whose compute is booked apart from the sampler's own."""

    def __init__(self, estimator: DifficultyEstimator, stopwatch: Stopwatch) -> None:
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
    """Load everything that a run needs.

    Weights come from the checkpoint directory `resume_from` if one is given.

    Raises:
        ConfigError: No training source, settings that contradict each other, or a cluster that has
            too little.
        DataError: A data file cannot be read.
    """
    if not config.data.train:
        raise ConfigError("data.train: got no source, expected at least one [[data.train]] table")
    check_seed_overlap(config.data.train, config.data.eval)
    cluster = (
        Cluster(config.distributed, config.run.threads, config.has_estimator)
        if config.distributed.uses_ray
        else None
    )
    try:
        return _build(config, resume_from, cluster)
    except BaseException:
        if cluster:
            cluster.close()
        raise


def _build(config: TrainConfig, resume_from: Path | None, cluster: Cluster | None) -> Parts:
    torch.set_num_threads(config.run.threads)
    device = _device(config.run.device)
    config = _resolved(config, device)
    stopwatch = Stopwatch()
    needs_start = resume_from is None or config.loss.kl_weight > 0
    start = _start_policy(config) if needs_start else None
    current = resume_from / "policy" if resume_from else start
    assert current is not None
    tokenizer = AutoTokenizer.from_pretrained(current, local_files_only=True)
    policy = _load_policy(current, config, device)
    reference = _load_policy(start, config, device) if start and config.loss.kl_weight > 0 else None
    engine = _build_engine(config, policy, tokenizer, cluster)
    train_prompts, eval_prompts = _load_data(config, tokenizer, engine.max_prompt_tokens)
    estimator = _build_estimator(config, tokenizer, device, cluster)
    return Parts(
        policy=policy,
        tokenizer=tokenizer,
        learner=_build_learner(config, policy, reference, tokenizer, device, cluster),
        engine=engine,
        reward=load_reward(config.reward),
        estimator=estimator,
        sampler=PromptSampler(
            train_prompts,
            config.rollout.group_size,
            config.selection,
            TimedEstimator(estimator, stopwatch) if estimator else None,
            config.run.seed,
        ),
        eval_prompts=eval_prompts,
        stopwatch=stopwatch,
        cluster=cluster,
    )


def _start_policy(config: TrainConfig) -> Path:
    """Return the directory of the policy that training starts from."""
    if config.policy.is_tiny:
        return warm_start_policy(
            config.data.train, config.data.eval, config.warm_start, config.run.threads
        )
    directory = Path(config.policy.model)
    if not (directory / "config.json").is_file() or not any(directory.glob("tokenizer*")):
        raise ConfigError(
            f"policy.model: got {config.policy.model!r}, expected a directory with a Hugging Face "
            f"causal LM and its tokenizer"
        )
    return directory


def _load_policy(directory: Path, config: TrainConfig, device: torch.device) -> PreTrainedModel:
    policy: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, config.policy.dtype), local_files_only=True
    )
    policy.to(device)  # type: ignore[arg-type]
    return policy


def _load_data(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Load both sets.

    Leave out what the reward cannot verify, and held-out prompts that are trained on.

    Everything is tokenized once, so that a prompt that is too long stops the run before it starts.
    """
    loaded = []
    for name, sources in (("train", config.data.train), ("eval", config.data.eval)):
        prompts, dropped = check_golds(load_prompts(sources), config.reward)
        encode_prompts(prompts, tokenizer, max_prompt_tokens)
        logger.info(
            "data.%s: %d prompts, %d dropped because their ground truth does not verify against "
            "itself",
            name,
            len(prompts),
            len(dropped),
        )
        loaded.append(prompts)
    train, held_out = loaded
    unseen = without_trained(held_out, train)
    if len(unseen) < len(held_out):
        logger.warning(
            "data.eval: left out %d prompts that are also in data.train",
            len(held_out) - len(unseen),
        )
    return train, unseen


def _build_estimator(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    cluster: Cluster | None,
) -> BertDifficultyEstimator | RayEstimator | None:
    if not config.has_estimator:
        return None
    if cluster and config.distributed.overlap:
        return RayEstimator(cluster, partial(_remote_estimator, config, tokenizer))
    return BertDifficultyEstimator(config.estimator, tokenizer, seed=config.run.seed, device=device)


def _remote_estimator(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase
) -> BertDifficultyEstimator:
    torch.set_num_threads(config.run.threads)
    device = _actor_device(config.distributed.estimator_gpus)
    return BertDifficultyEstimator(config.estimator, tokenizer, seed=config.run.seed, device=device)


def _build_learner(
    config: TrainConfig,
    policy: PreTrainedModel,
    reference: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    cluster: Cluster | None,
) -> PolicyLearner | RayLearnerGroup:
    settings: dict[str, Any] = {
        "loss": config.loss,
        "optimizer": config.optimizer,
        "policy": config.policy,
        "max_new_tokens": config.rollout.max_new_tokens,
        "temperature": config.rollout.temperature,
        "pad_token_id": tokenizer.pad_token_id or 0,
        "max_logprob_mismatch": config.rollout.max_logprob_mismatch,
    }
    if cluster and (ranks := config.distributed.learner_actors):
        where = "cuda" if config.distributed.learner_gpus else "cpu"
        return RayLearnerGroup(
            cluster,
            ranks,
            policy,
            reference,
            partial(_learner_rank, config, settings),
            device=where,
        )
    return PolicyLearner(policy, reference_model=reference, device=device, **settings)


def _learner_rank(
    config: TrainConfig,
    settings: Mapping[str, Any],
    policy: PolicyCopy,
    reference: PolicyCopy | None,
) -> ShardedLearner:
    torch.set_num_threads(config.run.threads)
    device = _actor_device(config.distributed.learner_gpus)
    return ShardedLearner(
        policy.build(device),
        reference_model=reference.build(device) if reference else None,
        device=device,
        **settings,
    )


def _build_engine(
    config: TrainConfig,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    cluster: Cluster | None = None,
) -> RolloutEngine:
    if cluster and config.distributed.rollout_workers:
        return RayRolloutEngine(
            cluster,
            config.distributed.rollout_workers,
            policy,
            partial(_worker_engine, config, tokenizer),
        )
    options: dict[str, Any] = {
        name: getattr(config.rollout, name)
        for name in ("max_new_tokens", "sequences_per_batch", "max_prompt_tokens")
    }
    options["eos_token_ids"] = [
        *end_tokens(None, policy, tokenizer),
        *stop_tokens(config.rollout.stop, tokenizer),
    ]
    if config.rollout.engine == "vllm":
        return VllmEngine(policy, tokenizer, config.vllm, **options)
    return LocalEngine(policy, tokenizer, autocast=config.policy.autocast, **options)


def _worker_engine(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase, copy: PolicyCopy
) -> tuple[PreTrainedModel, RolloutEngine]:
    torch.set_num_threads(config.run.threads)
    policy = copy.build(_actor_device(config.distributed.rollout_gpus))
    return policy, _build_engine(config, policy, tokenizer)


def _resolved(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Return the configuration with its compute types.

    Also what goes by them, decided for all processes: by the learner's device, which may be this
    one's.
    """
    if config.distributed.learner_actors:
        device = torch.device("cuda" if config.distributed.learner_gpus else "cpu")
    mixed = computes_bfloat16(config.policy.autocast, device)
    learner = "bfloat16" if mixed else config.policy.dtype
    vllm = replace(config.vllm, dtype=learner) if config.vllm.dtype == "auto" else config.vllm
    engine = vllm.dtype if config.rollout.engine == "vllm" else learner
    loss = config.loss
    if loss.rollout_correction == "auto":
        differs = config.rollout.engine == "vllm" and engine == "bfloat16"
        loss = replace(loss, rollout_correction="truncate" if differs else "off")
    limit = config.rollout.max_logprob_mismatch
    if limit == "auto":
        limit = 0.1 if "bfloat16" in (learner, engine) else 1e-3
    rollout, policy = (
        replace(config.rollout, max_logprob_mismatch=limit),
        replace(config.policy, autocast="bfloat16" if mixed else "off"),
    )
    return replace(config, policy=policy, rollout=rollout, vllm=vllm, loss=loss)


def _actor_device(gpus: float) -> torch.device:
    """Return the device of an actor for which so many GPUs are reserved."""
    return _device("cuda" if gpus else "cpu")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"run.device: got {name!r}, expected cpu or auto: torch finds no CUDA device here"
        )
    return torch.device(name)
