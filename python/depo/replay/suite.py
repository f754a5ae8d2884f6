"""Every selector, budget and seed over one log; interrupted at any tick, it goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from depo.config.selector import SelectorConfig
from depo.replay.log import RolloutLog
from depo.replay.measures import (
    calibration,
    ece_noise,
    informative_share_by_tick,
    measure,
    reliability,
)
from depo.replay.picks import Picks
from depo.replay.replay import Replay
from depo.replay.selectors import TextModel, build_selector, reads_text
from depo.state.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from depo.types.errors import StateError

Result = Mapping[str, Any]
"""One replay's `measure`s with selector, budget, seed, warm, cpu_seconds, cpu_per_pick, reliability
and informative_share_by_tick.
"""

Pooled = Mapping[str, Any]
"""The `calibration` of all seeds of a selector and budget together, with selector, budget, seeds,
ece_noise, ece_probed_noise and reliability.
"""


class Job(NamedTuple):
    """One replay to be made."""

    selector: str
    budget: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all replays of a suite share.

    Attributes:
        configs: Selector -> its settings.
        warm: Ticks that are not scored [>= 0].
        batch: Prompts drawn at once [>= 1].
        encoder: Names what reads the texts; empty: nothing does.
        text_models: Seed -> a fresh text model for one replay; None: history alone.
    """

    configs: Mapping[str, SelectorConfig]
    warm: int
    batch: int
    encoder: str = ""
    text_models: Callable[[int], TextModel] | None = None


class Suite:
    """Runs replays in order and keeps what is done, in memory and, with a directory, on disk.

    A checkpoint per replay.

    Args:
        log: The log.
        terms: What all replays share.
        directory: Where progress is kept; None: nowhere.
    """

    def __init__(self, log: RolloutLog, terms: Terms, directory: Path | None = None) -> None:
        self.log, self.terms = log, terms
        self._directory = directory
        self._done: dict[Job, Result] = {}
        self._picks: dict[Job, Picks] = {}
        self._identity = {
            "log": log.fingerprint(),
            "warm": terms.warm,
            "batch": terms.batch,
            "encoder": terms.encoder,
        }

    def run(
        self,
        jobs: Sequence[Job],
        *,
        on_tick: Callable[[int], None],
        interrupted: Callable[[], bool],
    ) -> list[Result] | None:
        """Return the results of the jobs, in order; None if interrupted before the last tick.

        Args:
            jobs: Replays to be made; those that are done already are not made again.
            on_tick: Is told, after each tick, how many ticks of all jobs are done.
            interrupted: Asked before each tick; if so, progress is saved and `run` returns.

        Raises:
            StateError: The directory holds one of the jobs on other terms or of another log;
                nothing was run.
        """
        begun = self._restore(jobs)
        for number, job in enumerate(jobs):
            if job in self._done:
                continue
            replay = self._replay(job)
            if job in begun:
                replay.load_state_dict(begun[job])
            while not replay.done:
                if interrupted():
                    self._save(job, replay, {"replay": replay.state_dict()})
                    return None
                replay.step()
                on_tick(number * self.log.n_ticks + replay.ticks_done)
            self._done[job], self._picks[job] = self._result(job, replay), replay.picks
            self._save(job, replay, {"result": self._done[job], "picks": replay.picks.state_dict()})
        return [self._done[job] for job in jobs]

    def pooled(self, jobs: Iterable[Job]) -> list[Pooled]:
        """Return the calibration of finished jobs, all seeds of a rule and budget together.

        In order of appearance.
        """
        groups: dict[tuple[str, float], list[Job]] = {}
        for job in jobs:
            groups.setdefault((job.selector, job.budget), []).append(job)
        return [self._pooled(same) for same in groups.values()]

    def _pooled(self, jobs: Sequence[Job]) -> Pooled:
        picks, warm = Picks.join([self._picks[job] for job in jobs]), self.terms.warm
        return {
            "selector": jobs[0].selector,
            "budget": jobs[0].budget,
            "seeds": [job.seed for job in jobs],
            **calibration(self.log, picks, warm),
            **{f"{name}_noise": value for name, value in ece_noise(self.log, picks, warm).items()},
            "reliability": _curve(self.log, picks, warm),
        }

    def _replay(self, job: Job) -> Replay:
        config = self.terms.configs[job.selector]
        reading = self.terms.text_models is not None and reads_text(job.selector, config)
        text_model = (
            self.terms.text_models(job.seed) if self.terms.text_models and reading else None
        )
        selector = build_selector(
            job.selector,
            self.log,
            config,
            seed=job.seed,
            batch=self.terms.batch,
            text_model=text_model,
        )
        return Replay(self.log, selector, job.budget)

    def _result(self, job: Job, replay: Replay) -> Result:
        warm, picks = self.terms.warm, replay.picks
        return {
            **job._asdict(),
            **measure(self.log, picks, warm),
            "cpu_seconds": replay.cpu_seconds,
            "cpu_per_pick": replay.cpu_seconds / len(picks.records),
            "warm": warm,
            "reliability": _curve(self.log, picks, warm),
            "informative_share_by_tick": informative_share_by_tick(self.log, picks),
        }

    def _save(self, job: Job, replay: Replay, content: Mapping[str, Any]) -> None:
        if self._directory:
            save_checkpoint(
                self._directory / _name(job),
                replay.ticks_done,
                {"identity": self._identity_of(job), **content},
                {},
                keep=1,
            )

    def _restore(self, jobs: Iterable[Job]) -> dict[Job, Mapping[str, Any]]:
        """Take over which jobs are done, and return the states of those that were interrupted."""
        begun: dict[Job, Mapping[str, Any]] = {}
        for job in jobs:
            newest = latest_checkpoint(self._directory / _name(job)) if self._directory else None
            if newest is None or job in self._done:
                continue
            state = load_checkpoint(newest).state
            if differing := [
                name
                for name, value in self._identity_of(job).items()
                if state["identity"][name] != value
            ]:
                raise StateError(
                    f"{newest.parent}: holds a replay with another {', '.join(differing)}: choose "
                    f"another directory or delete it"
                )
            if "result" in state:
                self._done[job], self._picks[job] = (
                    state["result"],
                    Picks.from_state(state["picks"]),
                )
            else:
                begun[job] = state["replay"]
        return begun

    def _identity_of(self, job: Job) -> dict[str, Any]:
        settings = json.loads(
            json.dumps(asdict(self.terms.configs[job.selector]))
        )  # as they come back from disk: tuples as lists
        return {**self._identity, "selection": settings}


def _name(job: Job) -> str:
    return f"{job.selector}-budget{job.budget}-seed{job.seed}"


def _curve(log: RolloutLog, picks: Picks, warm: int) -> dict[str, list[float]]:
    return {
        name: values.tolist() for name, values in reliability(log, picks, warm)._asdict().items()
    }
