"""The training loop: sampler -> rollouts -> rewards -> advantages -> policy update -> estimator update.

`Trainer.step` is one training step as named values; `Trainer.run` is resume, loop, evaluate, save.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from depo.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from depo.collect import Collector
from depo.config import TrainConfig
from depo.errors import StateError
from depo.evaluate import evaluate, probe, probe_metrics
from depo.parts import build_parts
from depo.run_log import RunLog
from depo.shaping import AdvantageShaper
from depo.step_metrics import rollout_metrics, selection_metrics, sequences_saved


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: all steps done, stopped by Ctrl-C with a checkpoint, or out of prompts that could teach anything."""

    status: Literal["finished", "stopped", "exhausted"]
    message: str


@dataclass(slots=True)
class Totals:
    """Sums over a run; part of its checkpoint."""

    sequences: float = 0.0
    tokens: float = 0.0
    sequences_saved: float = 0.0
    empty_steps: int = field(default=0)
    """Steps in a row without one informative group."""


class Trainer:
    """Trains a policy as a configuration says, in a run directory that can be continued after any interruption."""

    def __init__(self, config: TrainConfig, run_directory: Path) -> None:
        """Build all parts, from the newest checkpoint of `run_directory` if there is one."""
        self.config, self.run_directory = config, run_directory
        newest = latest_checkpoint(run_directory / "checkpoints")
        self.shaper = AdvantageShaper(config)
        self.parts = build_parts(config, newest)
        self.collector = Collector(
            config=config, sampler=self.parts.sampler, engine=self.parts.engine, reward=self.parts.reward, stopwatch=self.parts.stopwatch
        )
        self.totals = Totals()
        self.steps_done = self._restore(newest) if newest else 0
        self.log = RunLog(run_directory, config, resume_step=self.steps_done if newest else None)

    def step(self, step: int) -> dict[str, float]:
        """Run one training step and return its metrics; `step` is also the policy version that generates."""
        sampler, learner, engine, stopwatch = self.parts.sampler, self.parts.learner, self.parts.engine, self.parts.stopwatch
        before = sampler.totals() | self._reward_failures()
        rounds = self.collector.collect(step)
        groups = self.collector.training_groups(rounds)
        with stopwatch("time/update"):
            shaped = self.shaper(groups)
            rollouts = [group.rollouts for group in groups]
            policy_metrics = learner.update(rollouts, shaped.advantages_BG, step=step, token_factors=shaped.token_factors)
            engine.load_weights(learner.model, step + 1)
        with stopwatch("time/observe"):
            estimator_metrics = self._update_estimator()
            after = sampler.metrics() | self._reward_failures()
        self.log.journal(step + 1, [group for judged in rounds for group in judged])
        metrics = {
            **rollout_metrics(rounds, groups),
            **selection_metrics(before, after),
            **{name: after[name] - before[name] for name in self._reward_failures()},
            **shaped.metrics,
            **policy_metrics,
            **estimator_metrics,
        }
        return metrics | self._add_totals(metrics)

    def run(self) -> RunResult:
        """Train to the last step, evaluating and saving on the way; Ctrl-C finishes the step, saves and returns."""
        result = self._ending([]) if self.steps_done else None
        with self._interruptible() as interrupted, closing(self.parts.reward), self.log:
            if self.steps_done == 0:
                self._record({}, evaluating=self.config.run.eval_every > 0)
            while result is None:
                with self.parts.stopwatch("time/step"):
                    metrics = self.step(self.steps_done)
                self.steps_done += 1
                result = self._ending(interrupted)
                at_the_end = result is not None and result.status != "stopped" and self.config.run.eval_every > 0
                self._record(metrics, evaluating=self._due(self.config.run.eval_every) or at_the_end)
                if result or self._due(self.config.run.save_every):
                    self.save()
        return result

    def save(self) -> Path:
        """Write a checkpoint of the steps done so far."""
        state: dict[str, Any] = {
            "totals": {name: getattr(self.totals, name) for name in Totals.__slots__},
            "sampler": self.parts.sampler.state_dict(),
            "learner": self.parts.learner.state_dict(),
            "shaper": self.shaper.state_dict(),
        }
        if self.parts.estimator:
            state["estimator"] = self.parts.estimator.state_dict()
        folders = {"policy": self._save_policy}
        return save_checkpoint(self.run_directory / "checkpoints", self.steps_done, state, folders, self.config.run.keep_checkpoints)

    def _save_policy(self, directory: Path) -> None:
        self.parts.policy.save_pretrained(directory)
        self.parts.tokenizer.save_pretrained(directory)

    def _restore(self, path: Path) -> int:
        checkpoint = load_checkpoint(path)
        self.totals = Totals(**checkpoint.state["totals"])
        self.parts.sampler.load_state_dict(checkpoint.state["sampler"])
        self.parts.learner.load_state_dict(checkpoint.state["learner"])
        self.shaper.load_state_dict(checkpoint.state.get("shaper", {}))  # older checkpoints have none
        if self.parts.estimator:
            if "estimator" not in checkpoint.state:
                raise StateError(f"{path}: got no estimator, which this configuration has; continue with estimator.enabled = false, or start another run")
            self.parts.estimator.load_state_dict(checkpoint.state["estimator"])
        self.parts.engine.load_weights(self.parts.policy, checkpoint.step)
        return checkpoint.step

    def _reward_failures(self) -> dict[str, float]:
        return {f"reward/{cause}": float(count) for cause, count in self.parts.reward.counters().items()}

    def _update_estimator(self) -> dict[str, float]:
        estimator = self.config.estimator
        return self.parts.sampler.update_estimator(replay_steps=estimator.replay_steps, replay_batch=estimator.replay_batch)

    def _add_totals(self, metrics: dict[str, float]) -> dict[str, float]:
        self.totals.sequences += metrics["rollout/sequences"]
        self.totals.tokens += metrics["rollout/tokens"]
        self.totals.empty_steps = 0 if metrics["rollout/informative_share"] > 0 else self.totals.empty_steps + 1
        totals = {"rollout/sequences_total": self.totals.sequences, "rollout/tokens_total": self.totals.tokens}
        if self.config.selection.policy == "uniform" or not self.config.selection.measures_rejects:
            return totals  # nothing is known of the rejected, so that a saving could only be guessed
        self.totals.sequences_saved += sequences_saved(metrics, self.config.rollout.group_size)
        return {**totals, "selection/sequences_saved_total": self.totals.sequences_saved}

    def _record(self, metrics: dict[str, float], *, evaluating: bool) -> None:
        """Write the row of the present step, with held-out accuracy and probes if they are due."""
        if evaluating:
            with self.parts.stopwatch("time/evaluate"):
                metrics = metrics | evaluate(self.parts.eval_prompts, self.parts.engine, self.parts.reward, self.config, self.steps_done)
                probes = probe(self.parts.sampler, self.parts.engine, self.parts.reward, self.config, self.steps_done)
            self.log.probes(probes)
            metrics |= probe_metrics(probes)
        self.log.write(self.steps_done, metrics, self.parts.stopwatch.take())

    def _due(self, every: int) -> bool:
        return every > 0 and self.steps_done % every == 0

    def _ending(self, interrupted: list[int]) -> RunResult | None:
        run = self.config.run
        if self.steps_done >= run.steps:
            return RunResult("finished", f"{run.steps} steps done")
        if self.totals.empty_steps >= run.stop_after_empty_steps:
            reason = f"no informative group in the last {self.totals.empty_steps} steps: this pool has nothing to teach this policy now"
            return RunResult("exhausted", f"stopped after {self.steps_done} steps: {reason}")
        if interrupted:
            return RunResult("stopped", f"stopped after {self.steps_done} steps; continue with: depo-train --resume {self.run_directory}")
        return None

    @contextmanager
    def _interruptible(self) -> Iterator[list[int]]:
        """Collect the first SIGINT or SIGTERM instead of dying of it; a second one acts as always."""
        received: list[int] = []
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def remember(number: int, _frame: FrameType | None) -> None:
            received.append(number)
            print(f"finishing step {self.steps_done + 1}, then saving; once more to stop at once", flush=True)
            for each, handler in previous.items():
                signal.signal(each, handler)

        for number in previous:
            signal.signal(number, remember)
        try:
            yield received
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
