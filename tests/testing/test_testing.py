"""The conformance suite.

A correct adapter passes, and every broken one is caught under the name of the law that it breaks.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from depo import Draw, PromptSampler
from depo.testing import FEATURES, LAWS, FateOf, check_adapter
from tests.testing.plain_harness import PlainHarness

Delivered = Sequence[tuple[Draw, tuple[float, ...]]]


def test_the_plain_loop_passes_with_every_feature() -> None:
    report = check_adapter(PlainHarness)
    assert (report.laws, report.unsupported) == (tuple(LAWS), ())
    assert set(report.groups) == set(FEATURES) - {"resumed"} and min(report.groups.values()) >= 3


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_plain_loop_passes_with_other_seeds_and_sizes(seed: int) -> None:
    check_adapter(
        PlainHarness,
        seed=seed,
        n_prompts=30 + 4 * seed,
        group_size=1 + seed,
        batch_size=2 + seed // 2,
        steps=20,
    )


class ForgetsWhatIsOpen(PlainHarness):
    """After a restore, groups that were open are released."""

    def restore(self, directory: Path) -> None:
        super().restore(directory)
        self._reopened = []
        self.sampler.release(self.sampler.in_flight())


class RollsOutAgainWhatIsOpen(PlainHarness):
    """After a restore, groups that were open are rolled out first."""

    def __init__(
        self, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> None:
        super().__init__(texts, group_size=group_size, batch_size=batch_size, seed=seed)
        self.again: list[Draw] = []

    def restore(self, directory: Path) -> None:
        super().restore(directory)
        self._reopened, self.again = [], self.sampler.in_flight()

    def draw(self) -> list[tuple[str, Draw]]:
        again, self.again = self.again, []
        return [*((draw.prompt.text, draw) for draw in again), *super().draw()]


@pytest.mark.parametrize("harness", [ForgetsWhatIsOpen, RollsOutAgainWhatIsOpen])
def test_open_groups_need_not_outlive_a_save(
    harness: type[PlainHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        check_adapter(harness)
    monkeypatch.setattr(harness, "supports", frozenset(FEATURES) - {"resumed"})
    assert check_adapter(harness).unsupported == ("resumed",)


class DrawsAhead(RollsOutAgainWhatIsOpen):
    """Draws the next batch before it rolls out this one, so that groups are open at every save."""

    supports = frozenset({"late", "partial", "aborted"})

    def draw(self) -> list[tuple[str, Draw]]:
        now = (
            super().draw() if not self.again else [(draw.prompt.text, draw) for draw in self.again]
        )
        self.again = self.sampler.sample(self.batch_size, policy_version=self.version)
        return now


def test_a_report_says_where_a_resumed_run_cannot_be_compared() -> None:
    assert set(check_adapter(DrawsAhead, n_prompts=40).laws) == set(LAWS) - {"resume"}


@pytest.mark.parametrize(
    "supports", [(), ("partial",), ("late", "aborted"), ("duplicate", "resumed")]
)
def test_only_what_the_framework_supports_happens(
    supports: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForgetsWhatIsOpen, "supports", frozenset(supports))
    report = check_adapter(ForgetsWhatIsOpen)
    assert set(report.groups) == set(supports) - {"resumed"}
    assert set(report.unsupported) == set(FEATURES) - set(supports)


def test_unknown_features_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainHarness, "supports", frozenset(["teleported"]))
    with pytest.raises(
        ValueError, match=r"supports: got \['teleported'\], expected names among late, partial"
    ):
        check_adapter(PlainHarness)


class OtherTexts(PlainHarness):
    def __init__(
        self, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> None:
        super().__init__(
            [text.upper() for text in texts],
            group_size=group_size,
            batch_size=batch_size,
            seed=seed,
        )


class IgnoresTheSeed(PlainHarness):
    def __init__(
        self, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> None:
        super().__init__(texts, group_size=group_size, batch_size=batch_size, seed=0)


class SeedsByChance(PlainHarness):
    def __init__(
        self, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> None:
        super().__init__(
            texts, group_size=group_size, batch_size=batch_size, seed=secrets.randbits(32)
        )


class FillsHalfOfTheBatch(PlainHarness):
    def draw(self) -> list[tuple[str, Draw]]:
        return [
            (draw.prompt.text, draw)
            for draw in self.sampler.sample(self.batch_size // 2, policy_version=self.version)
        ]


class RollsOutTwice(PlainHarness):
    def step(self, fate_of: FateOf) -> list[str]:
        texts = super().step(fate_of)
        return [*texts, texts[0]]


class RollsOutItsOwnChoice(PlainHarness):
    def step(self, fate_of: FateOf) -> list[str]:
        chosen = {draw.prompt.text for draw in self.sampler.in_flight()}
        texts = super().step(fate_of)
        others = [
            prompt.text for prompt in self.sampler.prompts if prompt.text not in chosen | set(texts)
        ]
        return [*texts[1:], others[0]]


class DropsOneLabel(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        self.sampler.release([draw for draw, _ in delivered[:1]])
        super().report(delivered[1:], aborted)


class DropsLateOnes(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        super().report(
            [(draw, rewards) for draw, rewards in delivered if draw.policy_version == self.version],
            aborted,
        )


class ObservesTheAborted(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        zeros = (0.0,) * self.sampler.group_size
        super().report([*delivered, *((draw, zeros) for draw in aborted)], [])


class ForgetsTheAborted(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        super().report(delivered, [])


class SwapsTwoGroups(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        draws, rewards = [draw for draw, _ in delivered], [rewards for _, rewards in delivered]
        super().report(
            list(zip(draws, [*rewards[1:2], *rewards[:1], *rewards[2:]], strict=True)), aborted
        )


class TakesUnknownForWrong(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        super().report(
            [(draw, tuple(np.nan_to_num(rewards).tolist())) for draw, rewards in delivered], aborted
        )


class DropsWhatIsPartlyUnknown(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        kept = [
            (draw, rewards if not np.isnan(rewards).any() else (np.nan,) * len(rewards))
            for draw, rewards in delivered
        ]
        super().report(kept, aborted)


class KnowsGroupsByTheirText(PlainHarness):
    """A second delivery reaches the newest draw of the prompt."""

    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        newest = {draw.prompt.text: draw for draw in self.sampler.in_flight()}
        super().report(
            [(newest.get(draw.prompt.text, draw), rewards) for draw, rewards in delivered], aborted
        )


class TakesDuplicatesForNew(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        super().report(delivered, aborted)
        for draw, rewards in delivered:
            if draw.policy_version < self.version - 1:
                position = self.sampler.prompts.index(draw.prompt)
                again = self.sampler.sample(1, policy_version=self.version - 1, among=[position])
                self.sampler.observe(again, [rewards] * len(again), policy_version=self.version - 1)


class StoppedClock(PlainHarness):
    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        super().report(delivered, aborted)
        self.version = 0


class LabelsOfNow(PlainHarness):
    """Labels under version 0, whatever their draw's."""

    def report(self, delivered: Delivered, aborted: Sequence[Draw]) -> None:
        for draw, rewards in delivered:
            self.sampler.observe([draw], [rewards], policy_version=0)
        super().report([], aborted)


class LosesItsClock(PlainHarness):
    def restore(self, directory: Path) -> None:
        super().restore(directory)
        self.version = 0


class LosesItsState(PlainHarness):
    def restore(self, directory: Path) -> None:
        version, sampler = self.version, self.sampler
        super().restore(directory)
        self._reopened = []
        sampler.load_state_dict(
            PromptSampler(sampler.prompts, sampler.group_size, seed=sampler.seed).state_dict()
        )
        assert self.version > version


class StartsTheDataAnew(PlainHarness):
    """Draws from some prompts alone after a restore, as with a data loader that starts anew."""

    restored = False

    def restore(self, directory: Path) -> None:
        super().restore(directory)
        self.restored = True

    def draw(self) -> list[tuple[str, Draw]]:
        if not self.restored:
            return super().draw()
        first = range(len(self.sampler.prompts) * 2 // 3)
        return [
            (draw.prompt.text, draw)
            for draw in self.sampler.sample(
                self.batch_size, policy_version=self.version, among=first
            )
        ]


class RestoresBeforeTheLastStep(PlainHarness):
    """Saves what was before the last step, as a checkpoint written too early does."""

    def draw(self) -> list[tuple[str, Draw]]:
        self.before = {"version": self.version, "sampler": self.sampler.state_dict()}
        return super().draw()

    def save(self, directory: Path) -> None:
        self.version, state = self.before["version"], self.before["sampler"]
        self.sampler.load_state_dict(state)
        super().save(directory)


class DrawsInSecret(PlainHarness):
    def draw(self) -> list[tuple[str, Draw]]:
        secret = PromptSampler.sample(self.sampler, 1, policy_version=self.version)
        PromptSampler.release(self.sampler, secret)
        return super().draw()


MUTANTS: dict[Callable[..., PlainHarness], str] = {
    OtherTexts: "pool",
    FillsHalfOfTheBatch: "batch",
    RollsOutTwice: "in_flight",
    RollsOutItsOwnChoice: "in_flight",
    DropsOneLabel: "labels",
    ObservesTheAborted: "rewards",
    SwapsTwoGroups: "rewards",
    TakesUnknownForWrong: "rewards",
    DropsWhatIsPartlyUnknown: "rewards",
    KnowsGroupsByTheirText: "rewards",
    TakesDuplicatesForNew: "rewards",
    StoppedClock: "versions",
    LabelsOfNow: "versions",
    LosesItsClock: "versions",
    DropsLateOnes: "closed",
    ForgetsTheAborted: "closed",
    DrawsInSecret: "totals",
    SeedsByChance: "same_seed",
    IgnoresTheSeed: "other_seed",
    LosesItsState: "resume",
    StartsTheDataAnew: "resume",
    RestoresBeforeTheLastStep: "resume",
}


@pytest.mark.parametrize(
    ("mutant", "law"), MUTANTS.items(), ids=lambda value: getattr(value, "__name__", value)
)
def test_a_broken_adapter_is_caught_by_the_law_it_breaks(
    mutant: type[PlainHarness], law: str
) -> None:
    with pytest.raises(AssertionError, match=rf"^law '{law}' .* is broken at step \d+"):
        check_adapter(mutant)


def test_every_law_can_be_broken() -> None:
    assert set(MUTANTS.values()) == set(LAWS)
