"""verl's own trainers under depo's conformance suite."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from omegaconf import DictConfig
from verl.trainer.ppo.v1 import trainer_base

from depo import Draw
from depo.testing import Fate, FateOf
from tests.integrations.verl.verl_helpers import (
    Answers,
    Engine,
    clear_queue,
    make_trainer,
    step,
    verl_config,
)


class SyncHarness:
    """A trainer of the mode `sync`, which waits for every group.

    Late ones and duplicates cannot happen, and nothing is open at a save.
    """

    mode: ClassVar[str] = "sync"
    supports: ClassVar[frozenset[str]] = frozenset({"partial", "aborted"})
    acting: ClassVar[SyncHarness | None] = None
    """Whose prompts are in TransferQueue, of which there is one per process."""

    def __init__(
        self, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> None:
        overrides = (
            f"trainer.v1.trainer_mode={self.mode}",
            "trainer.v1.colocate_async.num_warmup_batches=1",
            f"actor_rollout_ref.rollout.n={group_size}",
            f"data.train_batch_size={batch_size}",
            f"+data.depo.seed={seed}",
        )
        self._directory = tempfile.TemporaryDirectory()
        self._trainer = make_trainer(
            verl_config(Path(self._directory.name), texts, *overrides), self.judge
        )
        self._rows = self._trainer.train_dataset.rows
        self.sampler = self._rows.sampler
        self._fates: dict[str, tuple[Fate, int]] = {}
        self._rolled_out: list[str] = []
        self._now = 0
        self.waiting: dict[str, asyncio.Event] = {}

    def step(self, fate_of: FateOf) -> list[str]:
        first = SyncHarness.acting is not self or not self._now
        if SyncHarness.acting is not self:
            self._act()
        self._fate_of, self._rolled_out = fate_of, []
        self._now = self._trainer.global_steps + 1
        self._trainer.agent_loop_manager.deliver()
        step(self._trainer, first=first)
        return self._rolled_out

    def save(self, directory: Path) -> None:
        self._trainer.config.trainer.default_local_dir = str(directory)
        self._trainer._save_checkpoint()

    def restore(self, directory: Path) -> None:
        self._act()
        self._trainer.config.trainer.default_local_dir = str(directory)
        self._trainer._load_checkpoint()
        self._trainer.train_dataloader_it = iter(
            self._trainer.train_dataloader
        )  # restores the data set; verl does it at the first row

    def dispatched(self, text: str) -> None:
        """Take note of a group that verl rolls out now."""
        fate = self._fate_of(text)
        [drawn] = [
            draw.policy_version for draw in self.sampler.in_flight() if draw.prompt.text == text
        ]
        self._fates[text] = fate, drawn + min(fate.delays, default=0)
        self._rolled_out.append(text)

    def due(self) -> list[str]:
        return [text for text in self.waiting if self._fates[text][1] <= self._now]

    async def judge(self, text: str, session: int, _: int) -> float:
        fate, due = self._fates[text]
        if not fate.delays:
            raise RuntimeError("aborted")
        if due > self._now:
            await self.waiting.setdefault(text, asyncio.Event()).wait()
        return fate.rewards[session]

    def _act(self) -> None:
        clear_queue()
        SyncHarness.acting = self
        Answers.judge = staticmethod(self.judge)  # type: ignore[assignment]
        self._trainer.agent_loop_manager = SettlingEngine(self._trainer.config, self)
        # verl names groups by random ids, and breaks ties by them. Here they are named by their
        # draws, so that two runs can be compared.
        names: deque[str] = deque()
        draw = self._rows.sample
        self._rows.sample = lambda n, **at: _named(draw(n, **at), names)
        trainer_base.uuid = SimpleNamespace(uuid4=names.popleft)
        select = self._trainer.replay_buffer._select_prompt_uids
        self._trainer.replay_buffer._select_prompt_uids = lambda partition, uids, n: select(
            partition, sorted(uids), n
        )


class SettlingEngine(Engine):
    """Returns when all groups that are due have ended.

    So that no run depends on the speed of threads.
    """

    def __init__(self, config: DictConfig, harness: SyncHarness) -> None:
        super().__init__(config)
        self._harness = harness

    def generate_sequences(self, prompts: Any) -> None:
        for messages in list(prompts["raw_prompt"]):
            self._harness.dispatched(messages[0]["content"])
        super().generate_sequences(prompts)
        self.run(self._settle())

    def deliver(self) -> None:
        """Let the late groups end that are due."""
        self.run(self._deliver())

    async def _deliver(self) -> None:
        for text in self._harness.due():
            self._harness.waiting.pop(text).set()
        await self._settle()

    async def _settle(self) -> None:
        while sum(not task.done() for task in self.worker.background_tasks) > len(
            self._harness.waiting
        ):
            await asyncio.sleep(0.002)


def _named(drawn: tuple[list[Draw], list[int]], names: deque[str]) -> tuple[list[Draw], list[int]]:
    names.extend(f"{draw.draw_id:08d}" for draw in drawn[0])
    return drawn


class AsyncHarness(SyncHarness):
    """A trainer of the mode `colocate_async` with one batch ahead.

    What is open at a save is finished after the restore, and yet not "resumed": verl generates it
    anew with the restored weights, so that its label is of another version.
    """

    mode = "colocate_async"
    supports = frozenset({"late", "partial", "aborted"})
