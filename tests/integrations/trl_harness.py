"""The TRL adapter as the conformance suite drives it.

The real GRPOTrainer's training loop, stopped at the end of each step.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from depo import PromptSampler, SelectorConfig
from depo.testing import FateOf
from tests.integrations.trl_helpers import tiny_trainer

NEVER = 10_000


class Gate(TrainerCallback):
    """Lets `train()`, which runs in a thread of its own, take one step at a time."""

    def __init__(self) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Nothing to wait for: the batch of the step is generated after this."""
        self.go.acquire()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done.release()


class TrlHarness:
    """Responses are generated for real; the fate of their prompt replaces their reward."""

    supports = frozenset({"partial"})

    def __init__(
        self,
        texts: Sequence[str],
        *,
        group_size: int,
        batch_size: int,
        seed: int,
        selector: SelectorConfig | str | None = None,
    ) -> None:
        self._output = tempfile.TemporaryDirectory()
        self._group_size = group_size
        self._fate_of: FateOf
        self._rolled_out: list[str] = []
        self._failure: BaseException | None = None
        self._resume_from: Path | None = None
        self._gate = Gate()
        self._thread: threading.Thread | None = None
        self.trainer = tiny_trainer(
            Path(self._output.name),
            rows=Dataset.from_list([{"prompt": text} for text in texts]),
            reward=self._fates,
            depo={"selector": selector or SelectorConfig.from_preset("depo", backfill=False)},
            per_device_train_batch_size=batch_size * group_size,
            num_generations=group_size,
            max_completion_length=2,
            max_steps=NEVER,
            logging_strategy="no",
            seed=seed,
            callbacks=[self._gate],
        )

    @property
    def sampler(self) -> PromptSampler:
        sampler: PromptSampler = self.trainer.depo.sampler
        return sampler

    def step(self, fate_of: FateOf) -> list[str]:
        self._fate_of, self._rolled_out = fate_of, []
        if self._thread is None:
            self._thread = threading.Thread(target=self._train, daemon=True)
            self._thread.start()
        self._gate.go.release()
        self._gate.done.acquire()
        if self._failure:
            raise self._failure
        return self._rolled_out

    def save(self, directory: Path) -> None:
        self.trainer._save_checkpoint(self.trainer.model, None)
        shutil.copytree(
            Path(self._output.name) / f"checkpoint-{self.trainer.state.global_step}",
            directory,
            dirs_exist_ok=True,
        )

    def restore(self, directory: Path) -> None:
        self._resume_from = shutil.copytree(directory, Path(self._output.name) / "restored")

    def _train(self) -> None:
        try:
            self.trainer.train(resume_from_checkpoint=self._resume_from and str(self._resume_from))
        except BaseException as failure:
            self._failure = failure
            self._gate.done.release()

    def _fates(self, prompts: Sequence[str], **_: Any) -> list[float | None]:
        groups = prompts[:: self._group_size]
        self._rolled_out += groups
        rewards = [reward for text in groups for reward in self._fate_of(text).rewards]
        return [None if reward != reward else reward for reward in rewards]
