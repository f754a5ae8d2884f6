"""Run an adapter in three ways and compare: uninterrupted, with another seed, and resumed."""

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
        laws: The laws that were checked and kept. "resume" is missing if the framework rolls out
            again the groups that were in flight at the save.
        groups: Number of groups of the uninterrupted run with each feature.
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

    This takes about 2.5 * steps steps of the framework, and a few more for late groups. It takes
    twice as many if groups may be late and those in flight are lost at a save.

    Args:
        make: Makes a fresh harness: an AdapterHarness class, or a function that returns one.
        n_prompts: Number of prompts; at most 4 batches are in flight.
        group_size: Rollouts per group, G >= 2.
        batch_size: Groups per step.
        steps: Steps of the uninterrupted run.
        seed: Seed of the adapter; the run with another seed has seed + 1.

    Returns:
        What was checked.

    Raises:
        AssertionError: A law is broken; the message names law, step and prompt.
        ValueError: The harness supports a feature that is not among FEATURES.
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
        whole = plan.start(seed, without="late")  # a restored run can be compared with this one
        whole.finish()
    resumed = plan.interrupt(whole)
    # A framework that draws ahead rolls out these groups again with other weights. Its draws may
    # then differ; all other laws still hold.
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
    """A watched harness and the texts that it rolled out in each step."""

    harness: AdapterHarness
    watch: Watch
    features: frozenset[str]
    batch_size: int
    steps: int
    rolled_out: list[list[str]] = field(default_factory=list)

    def play(self, count: int) -> list[list[str]]:
        """Take `count` steps; return the texts rolled out in each step so far."""
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
        """Take the remaining steps and check the laws of a finished run.

        Some steps follow in which all groups are delivered at once and in full.
        """
        self.play(self.steps - len(self.rolled_out))
        self.watch.draining = True
        self.play(LONGEST_DELAY + 1 if "late" in self.harness.supports else 1)
        if expected is not None:
            _compare("resume", self.rolled_out, expected)
        self.watch.finished(self.harness.sampler, drained_since=self.steps)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Settings that all runs share."""

    make: MakeHarness
    texts: tuple[str, ...]
    group_size: int
    batch_size: int
    steps: int
    seed: int

    def start(self, seed: int, without: str = "") -> _Run:
        """Return a fresh run with the harness's features, except `without`."""
        harness = self._harness(seed)
        features = harness.supports - {without}
        watch = Watch(Script(self.texts, self.group_size, features))
        watch.attach(harness.sampler)
        return _Run(harness, watch, features, self.batch_size, self.steps)

    def interrupt(self, whole: _Run) -> _Run:
        """Repeat half of `whole`, save, and return the run restored into a fresh adapter.

        If the framework has late groups, some are in flight at the save.
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
