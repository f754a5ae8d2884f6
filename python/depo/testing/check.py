"""The runs that check an adapter.

One uninterrupted, one with another seed, one saved and restored in the middle.
"""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from depo.testing.harness import FEATURES, AdapterHarness, MakeHarness
from depo.testing.watch import LAWS, LONGEST_DELAY, Script, Watch, broken


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceReport:
    """What `check_adapter` has checked.

    Attributes:
        laws: The laws that were checked, all of them kept; without "resume" if groups were open at
            the save that the framework rolls out anew.
        groups: How many groups of the uninterrupted run had each feature.
        unsupported: Features that the framework does not have.
    """

    laws: tuple[str, ...]
    groups: Mapping[str, int]
    unsupported: tuple[str, ...]


def check_adapter(
    make: MakeHarness,
    *,
    n_prompts: int = 24,
    group_size: int = 4,
    batch_size: int = 4,
    steps: int = 16,
    seed: int = 0,
) -> ConformanceReport:
    """Check that an adapter keeps LAWS.

    Takes about 2.5 * steps steps of its framework and a few more for late groups; twice that where
    groups may be late but open ones do not outlive a save.

    Args:
        make: Makes a fresh adapter.
        n_prompts: Prompts of the pool; in flight are at most 4 batches.
        group_size: Rollouts of a group, G >= 2.
        batch_size: Groups of a step.
        steps: Steps of the uninterrupted run.
        seed: Seed of the adapter; seed + 1 is the other one.

    Returns:
        What was checked.

    Raises:
        AssertionError: A law is broken; the message names law, step and prompt.
        ValueError: The harness supports something that is not among FEATURES.
    """
    plan = _Plan(make, _texts(n_prompts), group_size, batch_size, steps, seed)
    whole = plan.start(seed)
    supports = whole.harness.supports
    whole.finish()
    groups = Counter(feature for group in whole.watch.groups.values() for feature in group.features)
    if plan.start(seed + 1).play(1) == whole.rolled_out[:1]:
        broken("other_seed", 0, f"seeds {seed} and {seed + 1} give the same first batch")
    if "late" in supports and "resumed" not in supports:
        plan.interrupt(whole).finish()
        whole = plan.start(seed, without="late")  # what a restored run can be compared with
        whole.finish()
    resumed = plan.interrupt(whole)
    # Groups that a framework draws ahead, open at every save and rolled out anew with other
    # weights, excuse it from the same draws, but from nothing else.
    comparable = "resumed" in supports or not resumed.watch.count_open()
    resumed.finish(whole.rolled_out if comparable else None)
    return ConformanceReport(
        laws=tuple(law for law in LAWS if law != "resume" or comparable),
        groups={
            feature: groups[feature]
            for feature in FEATURES
            if feature in supports and feature != "resumed"
        },
        unsupported=tuple(feature for feature in FEATURES if feature not in supports),
    )


@dataclass(slots=True)
class _Run:
    """A harness under watch, and what it has rolled out in each step."""

    harness: AdapterHarness
    watch: Watch
    features: frozenset[str]
    batch_size: int
    steps: int
    rolled_out: list[list[str]] = field(default_factory=list)

    def play(self, count: int) -> list[list[str]]:
        """Take some steps and return what all steps so far have rolled out."""
        for _ in range(count):
            version, still_open = self.watch.version, self.watch.count_open()
            texts = list(self.harness.step(self.watch.fate_of))
            first = self.watch.rolled_out(texts)
            if len(texts) + still_open < self.batch_size:
                broken(
                    "batch",
                    self.watch.step,
                    f"got {len(texts)} groups and {still_open} open ones, expected at least "
                    f"{self.batch_size}",
                )
            if version is not None and self.watch.version == version:
                broken("versions", self.watch.step, f"policy_version is still {version}")
            self.rolled_out.append(first)
            self.watch.step += 1
        return self.rolled_out

    def finish(self, expected: Sequence[Sequence[str]] | None = None) -> None:
        """Take the other steps, then some in which everything is delivered at once.

        Also check what must be true at the end.
        """
        self.play(self.steps - len(self.rolled_out))
        self.watch.draining = True
        self.play(LONGEST_DELAY + 1 if "late" in self.harness.supports else 1)
        if expected is not None:
            _compare("resume", self.rolled_out, expected)
        self.watch.finished(self.harness.sampler, drained_since=self.steps)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all runs have in common."""

    make: MakeHarness
    texts: tuple[str, ...]
    group_size: int
    batch_size: int
    steps: int
    seed: int

    def start(self, seed: int, without: str = "") -> _Run:
        """Return a fresh run with every feature that the harness supports but one."""
        harness = self._harness(seed)
        features = harness.supports - {without}
        watch = Watch(Script(self.texts, self.group_size, features))
        watch.attach(harness.sampler)
        return _Run(harness, watch, features, self.batch_size, self.steps)

    def interrupt(self, whole: _Run) -> _Run:
        """Return a run like `whole`, saved in the middle, with late groups open if there are any.

        Also restored into a fresh adapter.
        """
        first = _Run(
            self._harness(self.seed),
            Watch(whole.watch.script),
            whole.features,
            self.batch_size,
            self.steps,
        )
        first.watch.attach(first.harness.sampler)
        first.play(self.steps // 2)
        while (
            "late" in whole.features
            and not first.harness.sampler.in_flight()
            and len(first.rolled_out) < self.steps
        ):
            first.play(1)
        _compare("same_seed", first.rolled_out, whole.rolled_out[: len(first.rolled_out)])
        first.watch.interrupted(lossless="resumed" in whole.features)
        fresh = self._harness(self.seed)
        with tempfile.TemporaryDirectory() as directory:
            first.harness.save(Path(directory))
            fresh.restore(Path(directory))
        second = _Run(
            fresh,
            copy.deepcopy(first.watch),
            whole.features,
            self.batch_size,
            self.steps,
            first.rolled_out,
        )
        second.watch.attach(fresh.sampler)
        return second

    def _harness(self, seed: int) -> AdapterHarness:
        harness = self.make(
            self.texts, group_size=self.group_size, batch_size=self.batch_size, seed=seed
        )
        if unknown := harness.supports - set(FEATURES):
            raise ValueError(
                f"supports: got {sorted(unknown)}, expected names among {', '.join(FEATURES)}"
            )
        return harness


def _texts(count: int) -> tuple[str, ...]:
    return tuple(f"How much is {index} + {7 * index % 10}?" for index in range(count))


def _compare(law: str, got: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> None:
    for step, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        if list(ours) != list(theirs):
            differing = next((text for text in ours if text not in theirs), None)
            broken(law, step, f"got {list(ours)}, expected {list(theirs)}", differing)
