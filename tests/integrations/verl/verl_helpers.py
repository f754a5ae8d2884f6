"""verl 0.9.1 on a CPU.

Its own configuration, trainer, data loader, replay buffer, agent loop worker and TransferQueue.
Model workers alone are absent.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import transfer_queue as tq
from datasets import Dataset
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from depo import Draw, PromptSampler, Verdict, VerdictStatus

TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
Judge = Callable[[str, int, int], Awaitable[float]]
"""Prompt, session, global step -> reward; NaN is unknown, an exception a failed session."""


G = 4
TEXTS = [f"What is {number} + {number}?" for number in range(40)]


def solved(text: str, session: int) -> float:
    """Return a reward that makes the number in the text the prompt's pass rate.

    0, 1/4, 2/4, 3/4, 1, 0, ...
    """
    return float(session < int(text.split()[2]) % (G + 1))


def pass_rate(text: str) -> float:
    return sum(solved(text, session) for session in range(G)) / G


class Journal:
    """What a sampler handed out and was told, checked while it happens."""

    def __init__(self, sampler: PromptSampler) -> None:
        self.drawn: list[Draw] = []
        self.verdicts: list[Verdict] = []
        self._draw, self._observe = sampler.sample, sampler.observe
        self._sampler = sampler
        sampler.sample, sampler.observe = self.sample, self.observe  # type: ignore[method-assign]

    @property
    def texts(self) -> list[str]:
        return [draw.prompt.text for draw in self.drawn]

    def sample(self, n: int, *, policy_version: int) -> list[Draw]:
        busy = {draw.prompt.id for draw in self._sampler.in_flight()}
        draws = self._draw(n, policy_version=policy_version)
        assert not busy & {draw.prompt.id for draw in draws}, (
            "a prompt in flight was handed out again"
        )
        self.drawn += draws
        return draws

    def observe(self, draws: Any, rewards: Any, **others: Any) -> list[Verdict]:
        verdicts = self._observe(draws, rewards, **others)
        self.verdicts += verdicts
        return verdicts

    def check_labels(self) -> None:
        """Assert that each draw was labelled once, by what its own prompt earns."""
        text_of = {draw.draw_id: draw.prompt.text for draw in self.drawn}
        assert {verdict.status for verdict in self.verdicts} == {VerdictStatus.LABELLED}
        assert sorted(verdict.draw_id for verdict in self.verdicts) == sorted(text_of)
        assert all(
            verdict.pass_rate == pass_rate(text_of[verdict.draw_id]) for verdict in self.verdicts
        )


def write_rows(path: Path, texts: Iterable[str]) -> str:
    """Write prompts as verl's own preprocessing scripts do."""
    rows = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": text}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(len(text))},
            "extra_info": {"split": "train", "index": index},
        }
        for index, text in enumerate(texts)
    ]
    Dataset.from_list(rows).to_parquet(str(path))
    return str(path)


def write_model(directory: Path) -> str:
    """Write a tokenizer and a configuration; nothing here needs weights."""
    words = {
        word: index
        for index, word in enumerate(["<pad>", "<eos>", "<unk>", *map(chr, range(32, 127))])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(directory)
    LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(directory)
    return str(directory)


def verl_config(directory: Path, texts: Iterable[str], *overrides: str) -> DictConfig:
    """Return verl's configuration with depo in it, of a run in `directory`.

    Batches of 4 prompts, 4 rollouts each, by a seed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    asynchronous = any(
        override.startswith("trainer.v1.trainer_mode") and "async" in override
        for override in overrides
    )
    defaults = [
        f"data.train_files={write_rows(directory / 'train.parquet', texts)}",
        f"data.val_files={write_rows(directory / 'val.parquet', ['Is this validation?'] * 2)}",
        "data.train_batch_size=4",
        "data.dataloader_num_workers=0",
        "data.seed=0",
        "data.custom_cls.path=pkg://depo.integrations.verl",
        "data.custom_cls.name=DepoRLHFDataset",
        "trainer.v1.sampler.custom_sampler.path=pkg://depo.integrations.verl_buffer",
        "trainer.v1.sampler.custom_sampler.name=DepoReplayBuffer" + "Async" * asynchronous,
        f"actor_rollout_ref.model.path={write_model(directory / 'model')}",
        f"actor_rollout_ref.rollout.n={G}",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.agent.default_agent_loop=answers",
        "actor_rollout_ref.rollout.calculate_log_probs=True",
        "algorithm.adv_estimator=grpo",
        f"trainer.default_local_dir={directory / 'checkpoints'}",
        "trainer.logger=[file]",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", [*defaults, *overrides])


@register("answers")
class Answers(AgentLoopBase):
    """An agent loop that answers "42" and is judged by `judge`."""

    judge: Judge

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        text = row["raw_prompt"][0]["content"]
        reward = await type(self).judge(text, row["session_id"], int(row["global_steps"]))
        prompt_ids = self.tokenizer(text)["input_ids"]
        response_ids = self.tokenizer("42")["input_ids"]
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=response_ids,
            response_mask=[1] * len(response_ids),
            response_logprobs=[-0.5] * len(response_ids),
            reward_score=reward - self.config.get("length_penalty", 0.0) * row["session_id"],
            extra_fields={"reward_extra_info": {"acc": reward}},
            metrics={},
        )


class Engine:
    """Agent loop manager around verl's own worker.

    This runs in a thread of this process instead of an actor of its own.
    """

    running: ClassVar[list[Engine]] = []

    def __init__(self, config: DictConfig) -> None:
        self.running.append(self)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.worker = self.run(self._make(config))

    async def _make(self, config: DictConfig) -> Any:
        return AgentLoopWorkerTQ.__ray_metadata__.modified_class(config, llm_client=None)

    def generate_sequences(self, prompts: Any) -> None:
        self.run(self.worker.generate_sequences(prompts))

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the thread of the agent loops."""
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """End as a killed process does, in the middle of whatever is going on."""
        self.run(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def clear_queue() -> None:
    """Leave TransferQueue as a new process finds it: nobody writes to it, and it is empty."""
    while Engine.running:
        Engine.running.pop().close()
    for partition, items in (tq.kv_list() or {}).items():
        if items:
            tq.kv_clear(keys=list(items), partition_id=partition)


class NoWorkers:
    """Stands where verl keeps the handle of its GPU workers.

    Whatever is asked of them does nothing.
    """

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def make_trainer(config: DictConfig, judge: Judge) -> Any:
    """Return verl's own trainer of the configured mode, less its model workers.

    What would run on them leaves the batch as it is.
    """
    Answers.judge = staticmethod(judge)  # type: ignore[assignment]

    class Trainer(get_trainer_cls(config.trainer.v1.trainer_mode)):  # type: ignore[misc]
        def _setup(self) -> None:
            self._init_tokenizer()
            self._init_dataloader()
            self._init_dump_executor()
            self.use_critic = self.use_reference_policy = False
            self.actor_rollout_wg = self.checkpoint_manager = self.standalone_checkpoint_manager = (
                NoWorkers()
            )
            self.reward_loop_manager = NoWorkers()
            self.agent_loop_manager = Engine(config)
            self.replay_buffer.poll_interval = 0.01
            self._load_checkpoint()

        def _balance_batch(self, batch: Any, *_: Any, **__: Any) -> Any:
            return batch

        _compute_old_log_prob = _compute_advantage = _update_actor = _balance_batch

        def _compute_metrics(self, *_: Any, **__: Any) -> None:
            pass

    trainer = Trainer(config)
    trainer.init()
    return trainer


def step(trainer: Any, first: bool = False) -> dict[str, Any]:
    """Run one step as `fit` does, with what `fit` does before its first one.

    Also return its metrics.
    """
    trainer.global_steps += 1
    if first:
        trainer._reissue_inflight_prompts()
        trainer.on_train_begin()
    trainer.timing_raw = {}
    trainer.curr_step_profile = False
    metrics: dict[str, Any] = {}
    batch = trainer.step(metrics, trainer.timing_raw)
    tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
    return metrics


async def judged(text: str, session: int, step: int) -> float:
    return solved(text, session)


def fit(trainer: Any, log: Path) -> list[dict[str, Any]]:
    """Run verl's own loop to its end, and return the metrics that its own file logger wrote.

    One row per step.
    """
    os.environ["VERL_FILE_LOGGER_PATH"] = str(log)
    trainer.fit(trainer.agent_loop_manager)
    return [json.loads(line)["data"] for line in log.read_text().splitlines()]
