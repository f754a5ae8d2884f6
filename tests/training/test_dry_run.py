"""What a dry run computes is held against real tensors, measured peaks and a real checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from depo.config import (
    EstimatorConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    TrainConfig,
    load_config,
)
from depo.estimator import BertDifficultyEstimator
from depo.rollout.decoding import DecodingRows
from depo.training.dry_run.memory import MemoryModel
from depo.training.dry_run.shapes import EstimatorShape, Lengths, PolicyShape
from depo.training.learner.policy_learner import PolicyLearner
from depo.training.trainer import Trainer
from depo.types.errors import ConfigError
from depo.types.records import Prompt, RolloutGroup, TargetBatch
from tests.rollout.rollout_helpers import build_engine, word_tokenizer
from tests.training.learner.learner_helpers import make_learner
from tests.training.tiny import checksum_overrides, tiny_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
QWEN = {"model_type": "qwen2", "num_hidden_layers": 28, "max_position_embeddings": 32768}
QWEN_SMALL = Qwen2Config(
    **QWEN,
    hidden_size=1536,
    intermediate_size=8960,
    num_attention_heads=12,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)
QWEN_LARGE = Qwen2Config(
    **QWEN,
    hidden_size=3584,
    intermediate_size=18944,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
    tie_word_embeddings=False,
)
VOCABULARY, PROMPT, RESPONSE, GROUPS, GROUP_SIZE = 1500, 16, 48, 4, 4


def model_of(config: TrainConfig, seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
    }
    model = Qwen2ForCausalLM(
        Qwen2Config(
            **sizes, vocab_size=VOCABULARY, max_position_embeddings=512, tie_word_embeddings=True
        )
    )
    return model.to(getattr(torch, config.policy.dtype))


def memory_of(config: TrainConfig, model: PreTrainedModel) -> MemoryModel:
    lengths = Lengths(shortest_prompt=PROMPT, longest_prompt=PROMPT, response=RESPONSE)
    return MemoryModel(config=config, policy=PolicyShape.of(model.config), lengths=lengths)


def make_config(
    dtype: str = "float32", autocast: str = "off", gradient_checkpointing: bool = False
) -> TrainConfig:
    return TrainConfig(
        policy=PolicyConfig(
            dtype=dtype, autocast=autocast, gradient_checkpointing=gradient_checkpointing
        ),
        optimizer=OptimizerConfig(tokens_per_microbatch=512),
        rollout=RolloutConfig(max_new_tokens=RESPONSE, sequences_per_batch=GROUPS * GROUP_SIZE),
    )


def update_once(learner: PolicyLearner, step: int) -> None:
    draws = np.random.default_rng(step)
    groups = [
        RolloutGroup(
            prompt_ids=draws.integers(2, VOCABULARY, PROMPT),
            response_ids=tuple(draws.integers(2, VOCABULARY, RESPONSE) for _ in range(GROUP_SIZE)),
            rollout_logprobs=tuple(np.full(RESPONSE, -5.0, np.float32) for _ in range(GROUP_SIZE)),
            finished=np.zeros(GROUP_SIZE, bool),
            responses=("",) * GROUP_SIZE,
            policy_version=0,
        )
        for _ in range(GROUPS)
    ]
    learner.update(
        groups, draws.standard_normal((GROUPS, GROUP_SIZE)).astype(np.float32), step=step
    )


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes of tensors that are alive at a time, beyond those that were before."""
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as recorded:
        work()
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    return int(np.cumsum([size for _, size in events]).max())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_valid(path: Path) -> None:
    assert load_config(path).run.name == path.stem


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.stem.startswith("qwen")], ids=lambda path: path.stem
)
def test_the_published_settings(path: Path) -> None:
    config = load_config(path)
    assert (
        config.run.steps,
        config.run.prompts_per_step,
        config.rollout.group_size,
        config.optimizer.minibatches,
    ) == (1000, 128, 8, 2)
    assert (
        config.rollout.max_prompt_tokens,
        config.rollout.max_new_tokens,
        config.loss.overlong_buffer,
    ) == (2048, 10240, 4096)
    assert (
        config.loss.clip_low,
        config.loss.clip_high,
        config.loss.dual_clip,
        config.loss.aggregation,
    ) == (0.2, 0.28, 10.0, "token_mean")
    assert (
        config.loss.kl_weight,
        config.optimizer.learning_rate,
        config.optimizer.weight_decay,
        config.rollout.temperature,
    ) == (0.0, 1e-6, 0.1, 1.0)
    assert (config.selection.rule, config.selection.window, config.selection.warmup_steps) == (
        "window",
        (0.15, 0.85),
        100,
    )
    assert (
        config.estimator.learning_rate,
        config.estimator.ranking_weight,
        config.estimator.max_length,
    ) == (2e-4, 3.0, 512)


@pytest.mark.parametrize(
    ("config", "parameters"), [(QWEN_SMALL, 1_543_714_304), (QWEN_LARGE, 7_615_616_512)]
)
def test_published_models_have_the_published_number_of_parameters(
    config: Qwen2Config, parameters: int
) -> None:
    assert PolicyShape.of(config).parameters == parameters


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_moments_keys_and_values_are_exact(dtype: str) -> None:
    config = make_config(dtype)
    model = model_of(config)
    memory = memory_of(config, model)
    learner = make_learner(model, policy=config.policy, tokens_per_microbatch=512)
    update_once(learner, 0)
    moments = [
        state[name]
        for state in learner.optimizer.state.values()
        for name in ("exp_avg", "exp_avg_sq")
    ]
    process = next(memory.processes())
    assert process.held["policy's weights"] == sum(
        parameter.nbytes for parameter in model.parameters()
    )
    assert process.held["AdamW's moments"] == sum(moment.nbytes for moment in moments)

    rows = GROUPS * GROUP_SIZE
    with torch.inference_mode():
        decoding = DecodingRows(model, [np.arange(PROMPT)], np.zeros(rows, np.int64), RESPONSE)
    buffers = [
        buffer
        for layer in decoding._cache.layers
        for buffer in (layer._key_buffer, layer._value_buffer)
    ]
    assert rows * memory.kv_per_sequence == sum(buffer.nbytes for buffer in buffers)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize(
    ("dtype", "autocast"), [("float32", "off"), ("float32", "bfloat16"), ("bfloat16", "off")]
)
def test_the_peak_of_an_update_is_within_a_tenth(
    dtype: str, autocast: str, gradient_checkpointing: bool
) -> None:
    config = make_config(dtype, autocast, gradient_checkpointing)
    model = model_of(config)
    learner = make_learner(model, policy=config.policy, tokens_per_microbatch=512)
    update_once(learner, 0)  # makes the moments, which stay
    measured = peak_bytes(lambda: update_once(learner, 1))
    assert memory_of(config, model).update(1, on_gpu=False) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("autocast", ["off", "bfloat16"])
def test_the_peak_of_a_rollout_is_within_a_tenth(autocast: str) -> None:
    config = make_config(autocast=autocast)
    model = model_of(config)
    limits = {
        "max_new_tokens": RESPONSE,
        "sequences_per_batch": GROUPS * GROUP_SIZE,
        "max_prompt_tokens": PROMPT,
        "eos_token_ids": [VOCABULARY - 1],
    }
    engine = build_engine(model, word_tokenizer(), autocast=autocast, **limits)
    prompts = [
        Prompt(text=" ".join(["w2"] * length))
        for length in (PROMPT, PROMPT - 3, PROMPT - 1, PROMPT)
    ]
    measured = peak_bytes(
        lambda: engine.generate(prompts, GROUP_SIZE, [1, 2, 3, 4], temperature=1.0)
    )
    assert memory_of(config, model).rollout() == pytest.approx(measured, rel=0.1)


def test_what_is_not_in_one_process_is_in_another() -> None:
    path = next(path for path in CONFIGS if path.stem.startswith("qwen2.5-7b"))
    config = load_config(path)
    lengths = Lengths(shortest_prompt=50, longest_prompt=2048, response=10240)
    memory = MemoryModel(
        config=config, policy=PolicyShape.of(QWEN_LARGE), lengths=lengths, gpu_bytes=80 * 10**9
    )
    here, worker, rank = memory.processes()
    assert (
        here.held == {"policy's weights": 4 * 7_615_616_512} and not here.on_gpu and not here.phases
    )
    vllm = sum(size for name, size in worker.held.items() if name.startswith("vLLM"))
    assert (worker.count, worker.on_gpu, vllm) == (4, True, 40 * 10**9)
    assert (rank.count, rank.on_gpu, sum(rank.held.values())) == (4, True, 3 * 7_615_616_512)
    assert (
        here.host == here.peak + here.transit
        and worker.host == worker.transit == rank.transit == 8 * 7_615_616_512
    )


def test_a_model_over_several_gpus_needs_its_part_on_each() -> None:
    path = next(path for path in CONFIGS if path.stem.startswith("qwen2.5-7b"))
    with pytest.raises(
        ConfigError,
        match=r"^distributed.rollout_gpus: got 1.0, expected at least vllm.tensor_parallel = 2",
    ):
        load_config(path, ("--vllm.tensor_parallel=2",))
    lengths = Lengths(shortest_prompt=50, longest_prompt=2048, response=10240)

    def worker(*overrides: str) -> dict[str, int]:
        config = load_config(path, ("--vllm.kv_cache_mib=4096", *overrides))
        return dict(
            [
                *MemoryModel(
                    config=config,
                    policy=PolicyShape.of(QWEN_LARGE),
                    lengths=lengths,
                    gpu_bytes=80 * 10**9,
                ).processes()
            ][1].held
        )

    whole, split = worker(), worker("--vllm.tensor_parallel=2", "--distributed.rollout_gpus=2")
    assert 2 * split["vLLM's weights / 2"] == whole["vLLM's weights"]
    assert (
        split["vLLM's keys and values, or more"]
        == whole["vLLM's keys and values, or more"]
        == 4 << 30
    )
    assert (
        worker("--vllm.tensor_parallel=2", "--distributed.rollout_gpus=0")[
            "vLLM's keys and values, or more"
        ]
        == 8 << 30
    )


def test_all_processes_compute_in_the_type_of_the_learners_device() -> None:
    settings = (
        "--distributed.rollout_workers=1",
        "--distributed.learner_ranks=2",
        "--distributed.learner_gpus=1",
        "--rollout.engine=vllm",
    )
    config = load_config(CONFIGS[0], ("--policy.autocast=auto", *settings))
    held = {
        process.name: process.held for process in memory_of(config, model_of(config)).processes()
    }
    assert (
        2 * held["rollout worker"]["vLLM's weights"] == held["rollout worker"]["policy's weights"]
    )  # bfloat16, though the worker is on a CPU


@pytest.mark.parametrize(("scale", "at_once"), [(0.0, 48), (1.0, 48), (1.0, 12)])
def test_the_estimator_is_exact_and_its_update_within_a_fifth(scale: float, at_once: int) -> None:
    texts, length = 48, 64
    sizes = {"layers": 3, "hidden_size": 64, "feed_forward": 128}
    settings = EstimatorConfig(
        **sizes,
        encoder_lr_scale=scale,
        max_length=length,
        replay_batch=texts,
        tokens_per_pass=length * at_once,
    )
    shape = EstimatorShape.of(settings, len(word_tokenizer()), longest_prompt=2 * length)
    estimator = BertDifficultyEstimator(settings, word_tokenizer(), seed=0)
    numbers = np.linspace(0, 1, texts, dtype=np.float32)
    batch = TargetBatch(
        texts=[" ".join(["w3"] * 100)] * texts,
        reward_targets=numbers,
        logprob_targets=numbers,
        counts=np.full(texts, 4),
        weights=numbers + 1,
    )
    estimator.update([batch])
    state = estimator.state_dict()
    assert shape.parameters == sum(tensor.numel() for tensor in state["model"].values())
    assert 2 * shape.trained == sum(
        moments[name].numel()
        for moments in state["optimizer"].values()
        for name in ("exp_avg", "exp_avg_sq")
    )
    if scale:
        measured = peak_bytes(lambda: estimator.update([batch]))
        assert shape.texts_per_pass == at_once
        assert 4 * shape.trained + at_once * shape.activations == pytest.approx(measured, rel=0.2)


def test_the_size_of_a_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        "--run.steps=1",
        "--run.eval_every=off",
        f"--run.directory={tmp_path}",
        *checksum_overrides(tmp_path),
    )
    trainer = Trainer(config, tmp_path / "run")
    trainer.run()
    estimator = EstimatorShape.of(
        config.estimator, len(trainer.parts.tokenizer), config.rollout.max_prompt_tokens
    )
    memory = MemoryModel(
        config=config,
        policy=PolicyShape.of(trainer.parts.policy.config),
        lengths=Lengths(shortest_prompt=1, longest_prompt=20, response=8),
        estimator=estimator,
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000001"
    tensors = sum(
        tensor_bytes(path)
        for path in (
            checkpoint / "tensors.safetensors",
            checkpoint / "policy" / "model.safetensors",
        )
    )
    assert memory.checkpoint == pytest.approx(
        tensors, rel=0.01
    )  # each moment has a counter of 4 bytes besides


def tensor_bytes(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
