"""A rollout log, whatever wrote it.

This prompts had an outcome at which tick, and how many of its rollouts succeeded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depo.types.errors import DataError
from depo.types.records import BoolArray, Int64Array, Prompt

Float64Array = NDArray[np.float64]
LogKind = Literal["epochs", "steps"]


class Record(NamedTuple):
    """One recorded group.

    Attributes:
        clock: Visit (epochs) or training step (steps) [>= 0].
        prompt: Position in the log's prompts.
        successes: Rollouts that succeeded, 0..rollouts.
        rollouts: Rollouts whose outcome is known, 1..group_size.
        weight: 1 / admission of the policy that recorded it [>= 1].
    """

    clock: int
    prompt: int
    successes: int
    rollouts: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tick:
    """What is recorded at one moment; arrays are [A], one entry per prompt.

    Attributes:
        index: Number of the tick, from 0.
        clock: Visit or training step: the policy version of the replay.
        first_record: Row of the log that the first entry is.
        prompts: int64, distinct positions in the log's prompts.
        successes: int64, rollouts that succeeded.
        rollouts: int64, rollouts whose outcome is known.
        informative: bool, 0 < successes < rollouts.
    """

    index: int
    clock: int
    first_record: int
    prompts: Int64Array
    successes: Int64Array
    rollouts: Int64Array
    informative: BoolArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutLog:
    """Records in the order of their clock; at each tick a prompt has at most one. Columns are [R].

    Attributes:
        layout: Name of the layout that it was read from.
        kind: epochs: every prompt has a record at every tick. steps: each tick has what the
            recording run rolled out.
        prompts: The prompts; an empty text is unknown.
        group_size: Rollouts of a full group, G >= 2.
        clocks: int64 [K], ascending.
        bounds: int64 [K + 1], records of tick t are bounds[t] .. bounds[t + 1] - 1.
        prompt_positions: int64.
        successes: int64.
        rollouts: int64.
        weights: float64, 1 / admission of the recording policy.
        covers_pool: False if the recording policy never rolled out what it rejected: weights cannot
            make up for that.
        notes: What was left out, in sentences.
    """

    layout: str
    kind: LogKind
    prompts: tuple[Prompt, ...]
    group_size: int
    clocks: Int64Array
    bounds: Int64Array
    prompt_positions: Int64Array
    successes: Int64Array
    rollouts: Int64Array
    weights: Float64Array
    covers_pool: bool = True
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        layout: str,
        kind: LogKind,
        prompts: Sequence[Prompt],
        group_size: int,
        records: Sequence[Record],
        *,
        covers_pool: bool = True,
        notes: Sequence[str] = (),
    ) -> RolloutLog:
        """Return the log of some records, in any order.

        Raises:
            DataError: No record, a group size below 2, or a prompt twice at a tick.
        """
        if not records or group_size < 2:
            raise DataError(
                f"{layout} log: got {len(records)} groups of {group_size} rollouts, expected at "
                f"least one group of at least 2"
            )
        columns = np.array([record[:4] for record in records], np.int64)
        order = np.lexsort((columns[:, 1], columns[:, 0]))
        clock, prompt, successes, rollouts = columns[order].T.copy()
        if (repeated := (np.diff(clock) == 0) & (np.diff(prompt) == 0)).any():
            row = int(np.flatnonzero(repeated)[0])
            raise DataError(
                f"{layout} log: got prompt {prompts[prompt[row]].id!r} twice at {kind[:-1]} "
                f"{clock[row]}, expected it at most once"
            )
        clocks, starts = np.unique(clock, return_index=True)
        return cls(
            layout=layout,
            kind=kind,
            prompts=tuple(prompts),
            group_size=group_size,
            clocks=clocks,
            bounds=np.append(starts, len(clock)),
            prompt_positions=prompt,
            successes=successes,
            rollouts=rollouts,
            weights=np.array([record.weight for record in records])[order],
            covers_pool=covers_pool,
            notes=tuple(notes),
        )

    @property
    def n_ticks(self) -> int:
        """Number of ticks, K."""
        return len(self.clocks)

    @property
    def has_text(self) -> bool:
        """Whether the text of every prompt is known."""
        return all(prompt.text for prompt in self.prompts)

    @property
    def tick_of_record(self) -> Int64Array:
        """Index of each record's tick, int64 [R]."""
        return np.repeat(np.arange(self.n_ticks), np.diff(self.bounds))

    @property
    def informative(self) -> BoolArray:
        """Whether each record's group has both a success and a failure, bool [R]."""
        return _mixed(self.successes, self.rollouts)

    @property
    def effective_groups(self) -> float:
        """How many groups drawn with equal chances tell as much as the weighted records.

        (Kish's effective sample size).
        """
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())

    def tick(self, index: int) -> Tick:
        """Return one tick, 0 <= index < n_ticks."""
        rows = slice(self.bounds[index], self.bounds[index + 1])
        successes, rollouts = self.successes[rows], self.rollouts[rows]
        return Tick(
            index=index,
            clock=int(self.clocks[index]),
            first_record=int(self.bounds[index]),
            prompts=self.prompt_positions[rows],
            successes=successes,
            rollouts=rollouts,
            informative=_mixed(successes, rollouts),
        )

    def first(self, n_ticks: int) -> RolloutLog:
        """Return the log of the first ticks alone, of all if there are no more [n_ticks >= 1]."""
        records = slice(self.bounds[min(n_ticks, self.n_ticks)])
        return replace(
            self,
            clocks=self.clocks[:n_ticks],
            bounds=self.bounds[: n_ticks + 1],
            prompt_positions=self.prompt_positions[records],
            successes=self.successes[records],
            rollouts=self.rollouts[records],
            weights=self.weights[records],
        )

    def fingerprint(self) -> str:
        """Return a hash of everything that a replay depends on, texts included."""
        digest = hashlib.sha256(
            repr(
                (self.kind, self.group_size, [(prompt.id, prompt.text) for prompt in self.prompts])
            ).encode(errors="surrogatepass")
        )
        for column in (
            self.clocks,
            self.bounds,
            self.prompt_positions,
            self.successes,
            self.rollouts,
            self.weights,
        ):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def _mixed(successes: Int64Array, rollouts: Int64Array) -> BoolArray:
    return (successes > 0) & (successes < rollouts)


class GroupCollector:
    """Gathers the rollouts of a step log into groups: one per prompt and step."""

    def __init__(self) -> None:
        self._prompts: dict[str, Prompt] = {}
        self._outcomes: dict[tuple[int, str], list[bool]] = {}
        self._weights: dict[tuple[int, str], float] = {}

    def add(
        self, clock: int, prompt: Prompt, outcomes: Sequence[bool], weight: float = 1.0
    ) -> None:
        """Add rollouts of a prompt at a step.

        The weight of a group's first rollouts is the group's.
        """
        group = (clock, prompt.id)
        self._prompts.setdefault(prompt.id, prompt)
        self._outcomes.setdefault(group, []).extend(outcomes)
        self._weights.setdefault(group, weight)

    def build(
        self,
        layout: str,
        *,
        group_size: int | None = None,
        covers_pool: bool = True,
        notes: Sequence[str] = (),
    ) -> RolloutLog:
        """Return the log.

        Of groups larger than G the first G rollouts count, groups with fewer than 2 are left out.

        Args:
            layout: Name of the layout.
            group_size: G; None: the commonest group's size.
            covers_pool: See `RolloutLog`.
            notes: What was left out before.

        Raises:
            DataError: Groups have one rollout only, or there are none.
        """
        sizes = Counter(map(len, self._outcomes.values()))
        group_size = group_size or max(sizes, key=lambda size: (sizes[size], size), default=0)
        seen = {prompt for (_, prompt), outcomes in self._outcomes.items() if len(outcomes) >= 2}
        prompts = [prompt for prompt in self._prompts.values() if prompt.id in seen]
        position = {prompt.id: index for index, prompt in enumerate(prompts)}
        records = [*self._records(position, group_size)]
        dropped, cut = (
            len(self._outcomes) - len(records),
            sum(count for size, count in sizes.items() if size > group_size),
        )
        left_out = (
            [f"{dropped} groups with fewer than 2 known rollouts are left out"] if dropped else []
        )
        left_out += (
            [f"{cut} groups of more than {group_size} rollouts count with their first {group_size}"]
            if cut
            else []
        )
        return RolloutLog.of(
            layout,
            "steps",
            prompts,
            group_size,
            records,
            covers_pool=covers_pool,
            notes=[*notes, *left_out],
        )

    def _records(self, position: dict[str, int], group_size: int) -> Iterator[Record]:
        for (clock, prompt), outcomes in self._outcomes.items():
            if len(outcomes) >= 2:
                kept = outcomes[:group_size]
                yield Record(
                    clock, position[prompt], sum(kept), len(kept), self._weights[clock, prompt]
                )
