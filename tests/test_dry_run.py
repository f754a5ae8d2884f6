"""A dry run says what is wrong and what a run needs; what it computes is held against real tensors, measured peaks and a real checkpoint."""

from __future__ import annotations

import json
import multiprocessing.process
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from depo.cli import train_main
from depo.config import EstimatorConfig, OptimizerConfig, PolicyConfig, RolloutConfig, TrainConfig, load_config
from depo.dry_run.command import dry_run
from depo.dry_run.memory import MemoryModel
from depo.dry_run.shapes import EstimatorShape, Lengths, PolicyShape
from depo.estimator import BertDifficultyEstimator
from depo.learner import PolicyLearner
from depo.records import Prompt, RolloutGroup, TargetBatch
from depo.rollout.decoding import DecodingRows
from depo.trainer import Trainer
from learner_helpers import make_learner
from rollout_helpers import build_engine, build_model, word_tokenizer
from tiny import checksum_overrides, tiny_config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
QWEN = {"model_type": "qwen2", "num_hidden_layers": 28, "max_position_embeddings": 32768}
QWEN_SMALL = Qwen2Config(
    **QWEN, hidden_size=1536, intermediate_size=8960, num_attention_heads=12, num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True
)
QWEN_LARGE = Qwen2Config(
    **QWEN, hidden_size=3584, intermediate_size=18944, num_attention_heads=28, num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False
)
VOCABULARY, PROMPT, RESPONSE, GROUPS, GROUP_SIZE = 1500, 16, 48, 4, 4


def model_of(config: TrainConfig, seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, vocab_size=VOCABULARY, max_position_embeddings=512, tie_word_embeddings=True))
    return model.to(getattr(torch, config.policy.dtype))


def memory_of(config: TrainConfig, model: PreTrainedModel) -> MemoryModel:
    lengths = Lengths(shortest_prompt=PROMPT, longest_prompt=PROMPT, response=RESPONSE)
    return MemoryModel(config=config, policy=PolicyShape.of(model.config), lengths=lengths)


def make_config(dtype: str = "float32", autocast: str = "off", gradient_checkpointing: bool = False) -> TrainConfig:
    return TrainConfig(
        policy=PolicyConfig(dtype=dtype, autocast=autocast, gradient_checkpointing=gradient_checkpointing),
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
    learner.update(groups, draws.standard_normal((GROUPS, GROUP_SIZE)).astype(np.float32), step=step)


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes of tensors that are alive at a time, beyond those that were before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        work()
    events = sorted((event.start_ns(), event.nbytes()) for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]")
    return int(np.cumsum([size for _, size in events]).max())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_valid(path: Path) -> None:
    assert load_config(path).run.name == path.stem


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.startswith("qwen")], ids=lambda path: path.stem)
def test_the_published_settings(path: Path) -> None:
    config = load_config(path)
    assert (config.run.steps, config.run.prompts_per_step, config.rollout.group_size, config.optimizer.minibatches) == (1000, 128, 8, 2)
    assert (config.rollout.max_prompt_tokens, config.rollout.max_new_tokens, config.loss.overlong_buffer) == (2048, 10240, 4096)
    assert (config.loss.clip_low, config.loss.clip_high, config.loss.dual_clip, config.loss.aggregation) == (0.2, 0.28, 10.0, "token_mean")
    assert (config.loss.kl_weight, config.optimizer.learning_rate, config.optimizer.weight_decay, config.rollout.temperature) == (0.0, 1e-6, 0.1, 1.0)
    assert (config.selection.policy, config.selection.window, config.selection.warmup_steps) == ("window", (0.15, 0.85), 100)
    assert (config.estimator.learning_rate, config.estimator.ranking_weight, config.estimator.max_length) == (2e-4, 3.0, 512)


@pytest.mark.parametrize(("config", "parameters"), [(QWEN_SMALL, 1_543_714_304), (QWEN_LARGE, 7_615_616_512)])
def test_published_models_have_the_published_number_of_parameters(config: Qwen2Config, parameters: int) -> None:
    assert PolicyShape.of(config).parameters == parameters


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_moments_keys_and_values_are_exact(dtype: str) -> None:
    config = make_config(dtype)
    model = model_of(config)
    memory = memory_of(config, model)
    learner = make_learner(model, policy=config.policy, tokens_per_microbatch=512)
    update_once(learner, 0)
    moments = [state[name] for state in learner.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    process = next(memory.processes())
    assert process.held["policy's weights"] == sum(parameter.nbytes for parameter in model.parameters())
    assert process.held["AdamW's moments"] == sum(moment.nbytes for moment in moments)

    rows = GROUPS * GROUP_SIZE
    with torch.inference_mode():
        decoding = DecodingRows(model, [np.arange(PROMPT)], np.zeros(rows, np.int64), RESPONSE)
    buffers = [buffer for layer in decoding._cache.layers for buffer in (layer._key_buffer, layer._value_buffer)]
    assert rows * memory.kv_per_sequence(on_gpu=False) == sum(buffer.nbytes for buffer in buffers)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize(("dtype", "autocast"), [("float32", "off"), ("float32", "bfloat16"), ("bfloat16", "off")])
def test_the_peak_of_an_update_is_within_a_tenth(dtype: str, autocast: str, gradient_checkpointing: bool) -> None:
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
    limits = {"max_new_tokens": RESPONSE, "sequences_per_batch": GROUPS * GROUP_SIZE, "max_prompt_tokens": PROMPT, "eos_token_ids": [VOCABULARY - 1]}
    engine = build_engine(model, word_tokenizer(), autocast=autocast, **limits)
    prompts = [Prompt(text=" ".join(["w2"] * length)) for length in (PROMPT, PROMPT - 3, PROMPT - 1, PROMPT)]
    measured = peak_bytes(lambda: engine.generate(prompts, GROUP_SIZE, [1, 2, 3, 4], temperature=1.0))
    assert memory_of(config, model).rollout(on_gpu=False) == pytest.approx(measured, rel=0.1)


def test_what_is_not_in_one_process_is_in_another() -> None:
    path = next(path for path in CONFIGS if path.stem.startswith("qwen2.5-7b"))
    config = load_config(path)
    lengths = Lengths(shortest_prompt=50, longest_prompt=2048, response=10240)
    memory = MemoryModel(config=config, policy=PolicyShape.of(QWEN_LARGE), lengths=lengths, gpu_bytes=80 * 10**9)
    here, worker, rank = memory.processes()
    assert here.held == {"policy's weights": 4 * 7_615_616_512} and not here.on_gpu and not here.phases
    vllm = sum(size for name, size in worker.held.items() if name.startswith("vLLM"))
    assert (worker.count, worker.on_gpu, vllm) == (4, True, 40 * 10**9)
    assert (rank.count, rank.on_gpu, sum(rank.held.values())) == (4, True, 3 * 7_615_616_512)
    assert here.host == here.peak + here.transit and worker.host == worker.transit == rank.transit == 8 * 7_615_616_512


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_estimator_is_exact_and_its_update_within_a_fifth(scale: float) -> None:
    texts, length = 48, 64
    settings = EstimatorConfig(layers=3, hidden_size=64, feed_forward=128, encoder_lr_scale=scale, max_length=length, replay_batch=texts)
    shape = EstimatorShape.of(settings, len(word_tokenizer()), longest_prompt=2 * length)
    estimator = BertDifficultyEstimator(settings, word_tokenizer(), seed=0)
    numbers = np.linspace(0, 1, texts, dtype=np.float32)
    batch = TargetBatch(texts=[" ".join(["w3"] * 100)] * texts, reward_targets=numbers, logprob_targets=numbers, counts=np.full(texts, 4), weights=numbers + 1)
    estimator.update([batch])
    state = estimator.state_dict()
    assert shape.parameters == sum(tensor.numel() for tensor in state["model"].values())
    assert 2 * shape.trained == sum(moments[name].numel() for moments in state["optimizer"].values() for name in ("exp_avg", "exp_avg_sq"))
    if scale:
        measured = peak_bytes(lambda: estimator.update([batch]))
        assert 4 * shape.trained + texts * shape.activations == pytest.approx(measured, rel=0.2)


def test_the_size_of_a_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "--run.steps=1", "--run.eval_every=0", f"--run.directory={tmp_path}", *checksum_overrides(tmp_path))
    trainer = Trainer(config, tmp_path / "run")
    trainer.run()
    estimator = EstimatorShape.of(config.estimator, len(trainer.parts.tokenizer), config.rollout.max_prompt_tokens)
    memory = MemoryModel(
        config=config,
        policy=PolicyShape.of(trainer.parts.policy.config),
        lengths=Lengths(shortest_prompt=1, longest_prompt=20, response=8),
        estimator=estimator,
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000001"
    tensors = sum(tensor_bytes(path) for path in (checkpoint / "tensors.safetensors", checkpoint / "policy" / "model.safetensors"))
    assert memory.checkpoint == pytest.approx(tensors, rel=0.01)  # each moment has a counter of 4 bytes besides


def tensor_bytes(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118, not a mapping


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with prompts, a policy without weights, and a ban on other processes."""
    monkeypatch.chdir(tmp_path)
    build_model("llama").config.save_pretrained(tmp_path / "policy")  # of Qwen2, transformers would not load this tokenizer as it is
    word_tokenizer().save_pretrained(tmp_path / "policy")
    rows = [{"prompt": " ".join(["w5"] * length), "answer": str(length)} for length in range(1, 31)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dry run starts no process")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    return tmp_path


SETTINGS = """
data.train = [{ path = "words.jsonl" }]
policy.model = "policy"
rollout.max_new_tokens = 8
rollout.group_size = 4
run.prompts_per_step = 4
run.device = "cpu"
"""


def config_of(directory: Path, *overrides: str) -> TrainConfig:
    (directory / "run.toml").write_text(SETTINGS)
    return load_config(directory / "run.toml", overrides)


def test_without_problems_it_says_what_a_run_needs_and_touches_nothing(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({}, directory / "policy" / "model.safetensors")  # never read
    config_of(directory)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        train_main(["run.toml", "--dry-run"])
    assert ended.value.code == 0
    report = capsys.readouterr().out
    assert "train words.jsonl: 30 prompts; 15, 29, 30" in report
    assert "16 to 256 responses, at most 2,048 tokens" in report
    assert "4 in the first 5 steps, then 24 or more, at most 160" in report
    assert "sequences of at most 38 tokens" in report
    assert report.endswith("no problems found\n")
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_all_problems_are_listed(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(
        directory,
        '--data.train=[{path = "words.jsonl"}, {path = "absent.jsonl"}]',
        "--rollout.max_prompt_tokens=28",
        "--distributed.rollout_workers=2",
        "--distributed.rollout_gpus=64",
        "--estimator.model=no/encoder",
        "--reward.function=absent_module:reward",
        "--selection.source_floors={elsewhere = 0.5}",
        "--loss.mask=absent_module:mask",
    )
    assert dry_run(config) == 1
    problems = capsys.readouterr().out.partition(" problems:\n")[2].splitlines()
    for part in (
        "it lacks *.safetensors. Download it there: hf download ORGANISATION/policy --local-dir policy",
        "absent.jsonl: file not found",
        "train words.jsonl: 2 prompts have more than 28 tokens",
        "asks for 128 GPUs, this machine has",
        "estimator.model: got 'no/encoder'",
        "reward.function",
        "source_floors: got ['elsewhere']",
        "loss.mask",
    ):
        assert sum(part in problem for problem in problems) == 1, part
    assert len(problems) == 8


def test_a_missing_policy_and_a_silent_cluster(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("--policy.model=models/absent", "--distributed.rollout_workers=1", "--distributed.address=127.0.0.1:1")
    assert dry_run(config_of(directory, *overrides)) == 1
    report = capsys.readouterr().out
    assert "policy.model: got 'models/absent'" in report and "it lacks config.json, tokenizer*, *.safetensors" in report
    assert "distributed.address: got '127.0.0.1:1', expected a Ray cluster that runs: " in report
    assert "train words.jsonl: 30 prompts\n" in report


def test_a_policy_too_short_for_its_responses(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(config_of(directory, "--rollout.max_new_tokens=64")) == 1
    assert "max_new_tokens: got 64, expected less than the model's 64 positions" in capsys.readouterr().out
