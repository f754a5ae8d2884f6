"""The interface that an adapter's author implements.

A harness runs the framework's loop with scripted outcomes in place of rollouts and rewards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from depo.sampler import PromptSampler

FEATURES = ("late", "partial", "duplicate", "aborted", "resumed")
"""What a framework may do with a group.

late: deliver it in a later step. partial: deliver it without some or all rewards. duplicate:
deliver it twice. aborted: never deliver it. resumed: deliver it after a restore, although it was in
flight at the save.
"""

Handle = TypeVar("Handle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """The scripted outcome of one group of rollouts.

    Attributes:
        rewards: G rewards in (0, 1); NaN = unknown.
        delays: Steps until each delivery: (0,) in the same step; (2,) late; (0, 2) twice; ()
            aborted, never delivered.
    """

    rewards: tuple[float, ...]
    delays: tuple[int, ...] = (0,)


FateOf = Callable[[str], Fate]
"""Prompt text -> outcome of its group.

Call it in the step that rolls out the group, any number of times.
"""


class AdapterHarness(Protocol):
    """An adapter inside its framework's real loop."""

    @property
    def sampler(self) -> PromptSampler:
        """The adapter's sampler.

        `check_adapter` replaces `sample`, `observe` and `release` on the object by watched ones.
        """

    @property
    def supports(self) -> frozenset[str]:
        """Names among FEATURES that the framework has; no others are scripted.

        A synchronous trainer has "partial" alone.
        """

    def step(self, fate_of: FateOf, /) -> Sequence[str]:
        """Take one training step; return the texts of the prompts it rolled out, in order."""

    def save(self, directory: Path, /) -> None:
        """Save between two steps, as the framework does."""

    def restore(self, directory: Path, /) -> None:
        """Restore what `save` wrote, before the first step, as the framework does."""


class MakeHarness(Protocol):
    """Makes a harness; a class whose constructor takes these arguments is valid."""

    def __call__(
        self, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> AdapterHarness:
        """Return a fresh adapter that rolls out batch_size groups of group_size per step.

        Its prompts have these texts, and any ground truths. A reward of 0.5 or more counts as a
        success, as by default.
        """


class QueuedHarness(ABC, Generic[Handle]):
    """Base of harnesses for frameworks that draw and report in separate calls.

    It keeps groups until they are due, and delivers due groups in the order of their texts, old and
    new ones mixed. Subclasses set `sampler`, may narrow `supports`, and add `save` and `restore`.
    `Handle` is the framework's identifier of a group.
    """

    sampler: PromptSampler
    supports: frozenset[str] = frozenset(FEATURES)

    def __init__(self) -> None:
        self._now = 0
        self._queue: list[tuple[int, str, Handle, tuple[float, ...]]] = []
        self._reopened: list[tuple[str, Handle, int]] = []

    @abstractmethod
    def draw(self) -> Sequence[tuple[str, Handle]]:
        """Return prompt text and handle of each group to roll out in this step."""

    @abstractmethod
    def report(
        self, delivered: Sequence[tuple[Handle, tuple[float, ...]]], aborted: Sequence[Handle], /
    ) -> None:
        """Report to the adapter as the framework does, then end the step.

        Args:
            delivered: Handle and G rewards of each group that was delivered.
            aborted: Handles of the groups that were aborted.
        """

    def reopen(self, text: str, handle: Handle, age: int) -> None:
        """Report a group that was in flight at the save; needed for the feature "resumed".

        `restore` calls this for each such group, drawn `age` steps before the next step.
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
