"""The plain loop as the conformance suite drives it: a PromptSampler and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from depo import Draw, PromptSampler
from depo.state.files import StateFiles, read_state
from depo.testing import QueuedHarness


class PlainHarness(QueuedHarness[Draw]):
    def __init__(
        self, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> None:
        super().__init__()
        self.sampler = PromptSampler(texts, group_size, seed=seed)
        self.batch_size = batch_size
        self.version = 0

    def draw(self) -> list[tuple[str, Draw]]:
        return [
            (draw.prompt.text, draw)
            for draw in self.sampler.sample(self.batch_size, policy_version=self.version)
        ]

    def report(
        self, delivered: Sequence[tuple[Draw, tuple[float, ...]]], aborted: Sequence[Draw]
    ) -> None:
        self.sampler.release(aborted)
        self.sampler.observe(
            [draw for draw, _ in delivered],
            [rewards for _, rewards in delivered],
            policy_version=self.version,
        )
        self.version += 1

    def save(self, directory: Path) -> None:
        StateFiles({"version": self.version, "sampler": self.sampler.state_dict()}).write(directory)

    def restore(self, directory: Path) -> None:
        state = read_state(directory)
        self.version = state["version"]
        self.sampler.load_state_dict(state["sampler"])
        for draw in self.sampler.in_flight():
            self.reopen(draw.prompt.text, draw, age=self.version - draw.policy_version)
