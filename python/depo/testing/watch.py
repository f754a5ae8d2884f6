"""The laws of an adapter, and the watch over its sampler that sees them broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from depo.sampler import PromptSampler
from depo.testing.harness import Fate
from depo.types.records import Draw, Float32Array, Verdict, VerdictStatus

LAWS: Mapping[str, str] = {
    "pool": "the sampler holds the prompts that were given, with their texts",
    "batch": "a step rolls out at least batch_size groups, less those that are still out",
    "in_flight": "what is rolled out was drawn for it, and no prompt is rolled out twice at a time",
    "labels": "a delivered group gives one label, an aborted or wholly unknown one none",
    "rewards": "the sampler is told each group's own rewards, NaN where they are unknown",
    "versions": "policy_version rises with every step; a label's lies between its draw's and the "
    "newest",
    "closed": "no draw stays in flight for ever",
    "totals": "drawn = labelled + unknown + released + in flight",
    "same_seed": "the same seed gives the same draws",
    "other_seed": "another seed gives other draws",
    "resume": "saved in the middle and restored into a fresh adapter, the draws are those of the "
    "uninterrupted run",
}
"""Name -> law."""

REWARD_ROUNDING = 1e-5
LONGEST_DELAY = 3
"""Steps after its draw in which a late group of the script is delivered at the latest."""
DUPLICATES_AFTER = range(1, 12)
"""Steps after its first delivery in which a late duplicate comes again: in one of them its prompt
is likely to be in flight once more.
"""


def broken(law: str, step: int, what: str, text: str | None = None) -> NoReturn:
    """Raise the AssertionError that names law, step and, if it is about one, the prompt."""
    prompt = "" if text is None else f", prompt {text!r}"
    raise AssertionError(f"law {law!r} ({LAWS[law]}) is broken at step {step}{prompt}: {what}")


class Script:
    """Fates as a pure function of prompt and visit.

    Every second group is delivered at once and in full, the others have each feature by turns.

    Args:
        texts: The prompts.
        group_size: Rewards of a fate, G.
        features: What may happen.
    """

    def __init__(self, texts: Sequence[str], group_size: int, features: frozenset[str]) -> None:
        turns = (
            ("late",),
            ("partial",),
            ("duplicate",),
            ("aborted",),
            ("late", "partial"),
            ("late", "duplicate"),
            ("partial", "wholly"),
            ("late", "duplicate"),
        )
        kept: list[tuple[str, ...]] = [turn for turn in turns if set(turn) - {"wholly"} <= features]
        self._turns = [each for turn in kept or [()] for each in ((), turn)]
        self._index = {text: index for index, text in enumerate(texts)}
        self._group_size = group_size

    def __contains__(self, text: str) -> bool:
        return text in self._index

    def features(self, text: str, visit: int) -> tuple[str, ...]:
        """Return the features of a prompt's group, by how often it was drawn before."""
        return self._turns[(self._index[text] + 5 * visit) % len(self._turns)]

    def fate(self, text: str, visit: int, features: Sequence[str]) -> Fate:
        """Return the fate with these features of a prompt's group.

        By how often the prompt was drawn before.
        """
        index = self._index[text]
        # Each visit has rewards of its own, so that it shows when they reach another group.
        failure = (1 + index + len(self._index) * (visit % 4)) / (10 * len(self._index))
        successes = (3 * index + visit) % (self._group_size + 1)
        rewards = [1 - failure] * successes + [failure] * (self._group_size - successes)
        unknown = (
            range(self._group_size)
            if "wholly" in features
            else [index % self._group_size]
            if "partial" in features
            else []
        )
        for place in unknown:
            rewards[place] = np.nan
        delay = 1 + index % LONGEST_DELAY if "late" in features else 0
        again = (
            [delay + after for after in (DUPLICATES_AFTER if delay else [0])]
            if "duplicate" in features
            else []
        )
        return Fate(rewards=tuple(rewards), delays=() if "aborted" in features else (delay, *again))


@dataclass(slots=True)
class Group:
    """One draw, and what became of it.

    Attributes:
        text: The prompt.
        step: When it was drawn.
        version: The draw's policy_version.
        features: What the script has in store for it.
        fate: The same as rewards and delays.
        rolled_out: Whether a step said so.
        labelled: Whether the sampler took its rewards as a label.
        closed_at: When it was observed or released; None: in flight.
        restored: Whether it was open at a save and was not rolled out since.
        excused: Whether it was open at a save that it need not outlive.
    """

    text: str
    step: int
    version: int
    features: tuple[str, ...]
    fate: Fate
    rolled_out: bool = False
    labelled: bool = False
    closed_at: int | None = None
    restored: bool = False
    excused: bool = False


@dataclass(slots=True)
class Watch:
    """What the sampler was asked and told; raises AssertionError as soon as a law is broken.

    Attributes:
        script: The fates.
        groups: draw id -> group, in the order of the draws.
        step: The step that is under way, from 0.
        version: The newest policy_version of a draw.
        draining: Whether groups drawn from now on are delivered at once and in full.
    """

    script: Script
    groups: dict[int, Group] = field(default_factory=dict)
    step: int = 0
    version: int | None = None
    draining: bool = False

    def attach(self, sampler: PromptSampler) -> None:
        """Watch a sampler from now on.

        What is in flight there and not known yet counts as drawn now.
        """
        if texts := [prompt.text for prompt in sampler.prompts if prompt.text not in self.script]:
            broken("pool", self.step, "the sampler holds a prompt that was not given", texts[0])
        self._drawn([draw for draw in sampler.in_flight() if draw.draw_id not in self.groups])
        sample, observe, release = sampler.sample, sampler.observe, sampler.release

        def watched_sample(n: int, *, policy_version: int, **options: Any) -> list[Draw]:
            if policy_version < (self.version or 0):
                broken(
                    "versions",
                    self.step,
                    f"a draw at policy_version {policy_version} after one at {self.version}",
                )
            draws = sample(n, policy_version=policy_version, **options)
            self.version = policy_version
            self._drawn(draws)
            return draws

        def watched_observe(
            draws: Sequence[Draw | int], rewards: ArrayLike, *, policy_version: int, **options: Any
        ) -> list[Verdict]:
            verdicts = observe(draws, rewards, policy_version=policy_version, **options)
            for verdict, rewards_G in zip(verdicts, np.asarray(rewards, np.float32), strict=True):
                self._observed(verdict, np.sort(rewards_G), policy_version)
            return verdicts

        def watched_release(draws: Sequence[Draw | int], **options: Any) -> int:
            count = release(draws, **options)
            self._close([draw.draw_id if isinstance(draw, Draw) else int(draw) for draw in draws])
            return count

        for name, watched in (
            ("sample", watched_sample),
            ("observe", watched_observe),
            ("release", watched_release),
        ):
            setattr(sampler, name, watched)

    def fate_of(self, text: str) -> Fate:
        """Return the fate of the newest group of a prompt."""
        for group in reversed(self.groups.values()):
            if group.text == text:
                return group.fate
        broken("in_flight", self.step, "it was rolled out without having been drawn", text)

    def rolled_out(self, texts: Sequence[str]) -> list[str]:
        """Take note of what a step has rolled out.

        Also return those that were not rolled out before a restore.
        """
        first = []
        for text in texts:
            out = [
                group
                for group in self.groups.values()
                if group.text == text and group.closed_at in (None, self.step)
            ]
            group = next((group for group in out if group.restored or not group.rolled_out), None)
            if group is None:
                broken(
                    "in_flight",
                    self.step,
                    "it was rolled out, but not drawn since its last rollout, or closed before "
                    "this step",
                    text,
                )
            if not group.restored:
                first.append(text)
            group.rolled_out, group.restored = True, False
        return first

    def count_open(self) -> int:
        """Return how many draws were neither observed nor released."""
        return sum(group.closed_at is None for group in self.groups.values())

    def interrupted(self, *, lossless: bool) -> None:
        """Take note of a save and a restore.

        What is open may be rolled out again and, if groups do not outlive that, remain without a
        label.
        """
        for group in self.groups.values():
            if group.closed_at is None:
                group.restored, group.excused = True, not lossless

    def finished(self, sampler: PromptSampler, drained_since: int) -> None:
        """Check what must hold at the end for groups drawn before step `drained_since`."""
        in_flight = {draw.draw_id for draw in sampler.in_flight()}
        for draw_id, group in self.groups.items():
            if group.step >= drained_since:
                continue
            if draw_id in in_flight:
                broken(
                    "closed",
                    self.step,
                    f"its draw of step {group.step} is still in flight",
                    group.text,
                )
            known = bool(group.fate.delays) and not np.isnan(group.fate.rewards).all()
            if group.rolled_out and known and not group.labelled and not group.excused:
                broken(
                    "labels",
                    self.step,
                    f"its group of step {group.step} was delivered and has no label",
                    group.text,
                )
        totals = sampler.totals()
        drawn = sum(count for name, count in totals.items() if name.startswith("sampler/drawn_"))
        ended = {name: totals[f"sampler/{name}"] for name in ("labelled", "unknown", "released")}
        if not drawn == len(self.groups) == sum(ended.values()) + len(in_flight):
            broken(
                "totals",
                self.step,
                f"{len(self.groups)} draws were seen; the sampler says {drawn:.0f} drawn, "
                f"{ended}, {len(in_flight)} in flight",
            )

    def _drawn(self, draws: Sequence[Draw]) -> None:
        for draw in draws:
            text = draw.prompt.text
            if draw.draw_id in self.groups:
                broken(
                    "resume",
                    self.step,
                    f"draw {draw.draw_id} is handed out once more: the sampler has lost its state",
                    text,
                )
            visit = sum(group.text == text for group in self.groups.values())
            features = () if self.draining else self.script.features(text, visit)
            fate = self.script.fate(text, visit, features)
            self.groups[draw.draw_id] = Group(text, self.step, draw.policy_version, features, fate)

    def _observed(self, verdict: Verdict, rewards_G: Float32Array, version: int) -> None:
        if verdict.status is VerdictStatus.CLOSED:
            return
        if verdict.draw_id not in self.groups:
            broken(
                "labels",
                self.step,
                f"rewards for draw {verdict.draw_id}, which was never handed out",
            )
        group = self.groups[verdict.draw_id]
        self._close([verdict.draw_id])
        if not np.allclose(
            rewards_G, np.sort(group.fate.rewards), rtol=0, atol=REWARD_ROUNDING, equal_nan=True
        ):
            broken(
                "rewards",
                self.step,
                f"the sampler was told {rewards_G.tolist()}, expected "
                f"{np.sort(group.fate.rewards).tolist()} in any order",
                group.text,
            )
        if not group.fate.delays:
            broken(
                "labels",
                self.step,
                f"its group of step {group.step} was aborted, and was observed all the same",
                group.text,
            )
        if not group.version <= version <= (self.version or 0):
            broken(
                "versions",
                self.step,
                f"drawn at {group.version}, observed with policy_version {version}, the newest "
                f"being {self.version}",
                group.text,
            )
        group.labelled = verdict.status is VerdictStatus.LABELLED

    def _close(self, draw_ids: Sequence[int]) -> None:
        for draw_id in draw_ids:
            if draw_id in self.groups and self.groups[draw_id].closed_at is None:
                self.groups[draw_id].closed_at = self.step
