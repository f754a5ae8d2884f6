"""The laws of an adapter, and a watch that detects a broken law in the sampler's calls."""

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
    "batch": "a step rolls out at least batch_size groups, less those in flight",
    "in_flight": "every rollout has a draw of its own, and no prompt is in flight twice at a time",
    "labels": "a delivered group gives one label, an aborted or wholly unknown one none",
    "rewards": "the sampler gets each group's own rewards, NaN where they are unknown",
    "versions": "policy_version rises with every step; a label's lies between its draw's and the "
    "newest",
    "closed": "no draw stays in flight forever",
    "totals": "drawn = labelled + unknown + released + in flight",
    "same_seed": "the same seed gives the same draws",
    "other_seed": "another seed gives other draws",
    "resume": "a run that is saved and restored into a fresh adapter has the draws of the "
    "uninterrupted run",
}
"""Name -> law."""

REWARD_ROUNDING = 1e-5
LONGEST_DELAY = 3
"""Steps after its draw by which a late group is delivered."""
DUPLICATES_AFTER = range(1, 12)
"""Steps after its first delivery in which a late group is delivered again.

In one of them, its prompt is likely to be in flight again.
"""


def broken(law: str, step: int, what: str, text: str | None = None) -> NoReturn:
    """Raise the AssertionError that names law, step and, if it is about one, the prompt."""
    prompt = "" if text is None else f", prompt {text!r}"
    raise AssertionError(f"law {law!r} ({LAWS[law]}) is broken at step {step}{prompt}: {what}")


class Script:
    """Compute the outcome of a group from its prompt and the number of earlier draws.

    Every second group is delivered at once and in full. The others have each feature in turn.

    Args:
        texts: Texts of the prompts.
        group_size: Rewards per group, G.
        features: Names among FEATURES that may occur.
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
        """Return the features of a prompt's group; `visit` counts its earlier draws."""
        return self._turns[(self._index[text] + 5 * visit) % len(self._turns)]

    def fate(self, text: str, visit: int, features: Sequence[str]) -> Fate:
        """Return the outcome of a prompt's group; `visit` counts its earlier draws."""
        index = self._index[text]
        # Each visit has its own rewards, so that rewards given to another group are detected.
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
    """One draw and its state.

    Attributes:
        text: The prompt's text.
        step: Step of the draw.
        version: The draw's policy_version.
        features: Features that the script gives it.
        fate: Its rewards and delays.
        rolled_out: Whether a step has reported it as rolled out.
        labelled: Whether the sampler took its rewards as a label.
        closed_at: Step in which it was observed or released; None: in flight.
        restored: Whether it was in flight at a save and not rolled out since.
        excused: Whether it was in flight at a save and may end without a label.
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
    """Record the sampler's calls; raise an AssertionError as soon as a law is broken.

    Attributes:
        script: Computes the outcomes.
        groups: Draw id -> group, in the order of the draws.
        step: The current step, from 0.
        version: The newest policy_version of a draw.
        draining: Whether new groups are delivered at once and in full.
    """

    script: Script
    groups: dict[int, Group] = field(default_factory=dict)
    step: int = 0
    version: int | None = None
    draining: bool = False

    def attach(self, sampler: PromptSampler) -> None:
        """Watch a sampler; draws in flight that are not recorded yet count as drawn now."""
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
        """Return the outcome of the newest group of a prompt."""
        for group in reversed(self.groups.values()):
            if group.text == text:
                return group.fate
        broken("in_flight", self.step, "it was rolled out without having been drawn", text)

    def rolled_out(self, texts: Sequence[str]) -> list[str]:
        """Record the texts that a step rolled out.

        Returns:
            Those that were not in flight at a restore.
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
        """Return the number of draws that are neither observed nor released."""
        return sum(group.closed_at is None for group in self.groups.values())

    def interrupted(self, *, lossless: bool) -> None:
        """Record a save and a restore.

        Groups in flight may be rolled out again. Unless `lossless`, they may end without a label.
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
                f"{len(self.groups)} draws were seen; the sampler counts {drawn:.0f} drawn, "
                f"{ended}, {len(in_flight)} in flight",
            )

    def _drawn(self, draws: Sequence[Draw]) -> None:
        for draw in draws:
            text = draw.prompt.text
            if draw.draw_id in self.groups:
                broken(
                    "resume",
                    self.step,
                    f"draw {draw.draw_id} was returned twice: the sampler has lost its state",
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
                "labels", self.step, f"rewards for draw {verdict.draw_id}, which was never returned"
            )
        group = self.groups[verdict.draw_id]
        self._close([verdict.draw_id])
        if not np.allclose(
            rewards_G, np.sort(group.fate.rewards), rtol=0, atol=REWARD_ROUNDING, equal_nan=True
        ):
            broken(
                "rewards",
                self.step,
                f"the sampler got {rewards_G.tolist()}, expected "
                f"{np.sort(group.fate.rewards).tolist()} in any order",
                group.text,
            )
        if not group.fate.delays:
            broken(
                "labels",
                self.step,
                f"its group of step {group.step} was aborted, but was observed",
                group.text,
            )
        if not group.version <= version <= (self.version or 0):
            broken(
                "versions",
                self.step,
                f"drawn at {group.version}, observed with policy_version {version}, but the "
                f"newest version is {self.version}",
                group.text,
            )
        group.labelled = verdict.status is VerdictStatus.LABELLED

    def _close(self, draw_ids: Sequence[int]) -> None:
        for draw_id in draw_ids:
            if draw_id in self.groups and self.groups[draw_id].closed_at is None:
                self.groups[draw_id].closed_at = self.step
