"""What an adapter's author writes.

A harness that puts fates in the place of rollouts and rewards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from depo.sampler import PromptSampler

FEATURES = ("late", "partial", "duplicate", "aborted", "resumed")
"""What a framework may do with a group: deliver it steps later; without some or all of its rewards;
twice; never; or, although it was open at a save,
after the restore as if nothing had happened."""

Handle = TypeVar("Handle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of one group of rollouts.

    Attributes:
        rewards: G rewards in (0, 1), NaN = unknown.
        delays: For each delivery, after how many steps it comes: (0,) in the same step; (2,) late;
            (0, 2) twice; () never, aborted.
    """

    rewards: tuple[float, ...]
    delays: tuple[int, ...] = (0,)


FateOf = Callable[[str], Fate]
"""Prompt text -> what becomes of its group.

To be asked in the step in which the group is rolled out, as often as is convenient.
"""


class AdapterHarness(Protocol):
    """An adapter inside its framework's real loop."""

    @property
    def sampler(self) -> PromptSampler:
        """The adapter's sampler.

        Its methods `sample`, `observe` and `release` are replaced on the object by ones that are
        watched.
        """

    @property
    def supports(self) -> frozenset[str]:
        """Which FEATURES the framework has; no others happen.

        A synchronous trainer has "partial" alone.
        """

    def step(self, fate_of: FateOf, /) -> Sequence[str]:
        """Take one training step and return the texts of the prompts that were rolled out in it.

        In order.
        """

    def save(self, directory: Path, /) -> None:
        """Save between two steps, the way the framework saves."""

    def restore(self, directory: Path, /) -> None:
        """Restore what `save` wrote, before the first step, the way the framework resumes."""


class MakeHarness(Protocol):
    """Makes a harness; a class whose constructor takes these arguments is one."""

    def __call__(
        self, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> AdapterHarness:
        """Return a fresh adapter over prompts with these texts (ground truths are free).

        This rolls out batch_size groups of group_size in a step.

        A reward of 0.5 or more counts as a success, as is the default.
        """


class QueuedHarness(ABC, Generic[Handle]):
    """Base of harnesses for frameworks where drawing and reporting are separate calls.

    Keeps groups until they are due.

    What is due is handed over in the order of the texts, old and new ones mixed. Subclasses set
    `sampler`, may narrow `supports`, and add `save` and `restore`. `Handle` is what the framework
    knows a group by.
    """

    sampler: PromptSampler
    supports: frozenset[str] = frozenset(FEATURES)

    def __init__(self) -> None:
        self._now = 0
        self._queue: list[tuple[int, str, Handle, tuple[float, ...]]] = []
        self._reopened: list[tuple[str, Handle, int]] = []

    @abstractmethod
    def draw(self) -> Sequence[tuple[str, Handle]]:
        """Return the groups to roll out in this step: prompt text and handle."""

    @abstractmethod
    def report(
        self, delivered: Sequence[tuple[Handle, tuple[float, ...]]], aborted: Sequence[Handle], /
    ) -> None:
        """Tell the adapter what came back, handles with their G rewards, and what was aborted.

        As the framework would; then end the step.
        """

    def reopen(self, text: str, handle: Handle, age: int) -> None:
        """Tell the suite about a group that was open at the save.

        `restore` calls this for each such group, drawn `age` steps before the next step. It gives
        the feature "resumed".
        """
        self._reopened.append((text, handle, age))

    def step(self, fate_of: FateOf, /) -> list[str]:
        """Draw, roll out, report what is due."""
        for text, handle, age in self._reopened:
            self._roll_out(text, handle, fate_of(text), age)
        self._reopened = []
        groups = [(text, handle, fate_of(text)) for text, handle in self.draw()]
        for text, handle, fate in groups:
            self._roll_out(text, handle, fate, age=0)
        due = sorted(
            (entry for entry in self._queue if entry[0] <= self._now), key=lambda entry: entry[1]
        )
        self._queue = [entry for entry in self._queue if entry[0] > self._now]
        self.report(
            [(handle, rewards) for _, _, handle, rewards in due],
            [handle for _, handle, fate in groups if not fate.delays],
        )
        self._now += 1
        return [text for text, _, _ in groups]

    def _roll_out(self, text: str, handle: Handle, fate: Fate, age: int) -> None:
        self._queue += [
            (self._now - age + delay, text, handle, fate.rewards) for delay in fate.delays
        ]
