"""Many threads around one sampler.

Nobody but who asks the estimator waits for it, each draw counts once, and a state is that of one
moment.
"""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import Any

import pytest

from depo import Draw, PromptSampler, SelectorConfig
from depo.types.records import Float32Array, VerdictStatus
from tests.sampler.sampler_helpers import G, LengthEstimator, answer, make, pool

PATIENCE = 60.0  # seconds before a call counts as blocked for good


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """Let Python change threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class GatedEstimator(LengthEstimator):
    """Says when it is asked, and answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_answer = Event(), Event()
        self.may_answer.set()

    def predict(self, texts: Sequence[str]) -> Float32Array:
        self.asked.set()
        assert self.may_answer.wait(PATIENCE)
        return super().predict(texts)


class SlowEstimator(LengthEstimator):
    """Takes its time, and is not safe to be asked twice at once."""

    busy = False

    def predict(self, texts: Sequence[str]) -> Float32Array:
        assert not self.busy, "asked by two threads at once"
        self.busy = True
        time.sleep(1e-3)
        self.busy = False
        return super().predict(texts)


def counted(draws: Sequence[Draw], sampler: PromptSampler) -> int:
    verdicts = sampler.observe(draws, answer(draws), policy_version=0)
    return sum(verdict.status is VerdictStatus.LABELLED for verdict in verdicts)


def check_state(state: dict[str, Any]) -> None:
    """What a state says of labels is said by all its parts, and it continues."""
    loaded = make(warmup_steps=0, size=200)
    loaded.load_state_dict(state)
    totals = loaded.totals()
    assert state["calibration"]["total"] == totals["sampler/labelled"]
    drawn = sum(total for name, total in totals.items() if name.startswith("sampler/drawn_"))
    assert drawn == totals["sampler/labelled"] + totals["sampler/released"] + len(
        loaded.in_flight()
    )
    assert len(loaded.sample(4, policy_version=0)) == 4


def test_nobody_waits_for_the_estimator_but_who_asks_it() -> None:
    estimator = GatedEstimator()
    sampler = PromptSampler(
        pool(200), G, SelectorConfig.from_preset("depo", warmup_steps=0), estimator, seed=3
    )
    draws = sampler.sample(8, policy_version=0)
    estimator.asked.clear()
    estimator.may_answer.clear()
    calls: list[Callable[[], object]] = [
        lambda: counted(draws[:6], sampler),
        lambda: sampler.release(draws[6:]),
        sampler.metrics,
        sampler.in_flight,
        lambda: sampler.candidates_per_draw(0),
        sampler.state_dict,
    ]
    with ThreadPoolExecutor(2) as threads:
        batch = threads.submit(sampler.sample, 4, policy_version=0)
        try:
            assert estimator.asked.wait(PATIENCE)
            labelled, released, metrics, in_flight, _, state = [
                threads.submit(call).result(PATIENCE) for call in calls
            ]
            assert not batch.done()
        finally:
            estimator.may_answer.set()
        assert (labelled, released, in_flight) == (6, 2, [])
        assert isinstance(metrics, dict) and metrics["sampler/labelled"] == 6
        assert len(batch.result(PATIENCE)) == 4
    assert isinstance(state, dict)
    check_state(state)


def test_each_draw_counts_once_whoever_observes_releases_and_saves() -> None:
    sampler = PromptSampler(
        pool(200), G, SelectorConfig.from_preset("depo", warmup_steps=0), SlowEstimator(), seed=3
    )
    add = sampler._calibration.add
    # Whoever could look between a label and its calibration gets the time for it.
    sampler._calibration.add = lambda *columns: (time.sleep(3e-3), add(*columns))[1]  # type: ignore[method-assign]
    batches, producers = 30, 4
    # Every batch goes to two producers: both observe all of it but a draw, which one of them
    # releases.
    handed_out: queue.SimpleQueue[tuple[list[Draw], bool] | None] = queue.SimpleQueue()
    states: list[dict[str, Any]] = []

    def draw(version: int) -> int:
        drawn = 0
        for _ in range(batches // 2):
            draws = sampler.sample(4, policy_version=version)
            drawn += len(draws)
            handed_out.put((draws, True))
            handed_out.put((draws, False))
        return drawn

    def produce() -> int:
        answered = 0
        while (work := handed_out.get()) is not None:
            draws, releases = work
            answered += counted(draws[1:], sampler)
            answered += sampler.release(draws[:1]) if releases else 0
            sampler.metrics()
        return answered

    def learn_and_save() -> None:
        for _ in range(batches):
            sampler.update_estimator()
            states.append(sampler.state_dict())

    with ThreadPoolExecutor(producers + 3) as threads:
        answered = [threads.submit(produce) for _ in range(producers)]
        drawn = [threads.submit(draw, 0) for _ in range(2)]
        saved = threads.submit(learn_and_save)
        wait([*drawn, saved], PATIENCE)
        for _ in answered:
            handed_out.put(None)
    saved.result()
    assert (
        sum(count.result() for count in answered)
        == sum(count.result() for count in drawn)
        == batches * 4
    )
    assert sampler.in_flight() == []
    assert sampler.totals()["sampler/labelled"] == batches * 3
    for state in (*states, sampler.state_dict()):
        check_state(state)
