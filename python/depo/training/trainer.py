"""The training loop.

Sampler -> rollouts -> rewards -> advantages -> policy update -> estimator update.

`Trainer.step` is one training step as named values; `Trainer.run` is resume, loop, evaluate, save.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from depo.config import TrainConfig
from depo.evaluation.evaluate import evaluate, probe, probe_metrics
from depo.runs.interruption import interruptible
from depo.runs.run_log import RunLog
from depo.runs.step_metrics import rollout_metrics, sequences_saved
from depo.state.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from depo.training.batch import CollectedBatch
from depo.training.build import build_parts
from depo.training.collect import Collector
from depo.training.learner.shaping import AdvantageShaper, ShapedAdvantages
from depo.types.errors import StateError
from depo.types.records import JudgedGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    All steps done, stopped by Ctrl-C with a checkpoint, or out of prompts that could teach
    anything.
    """

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
    """Trains a policy as a configuration says.

    In a run directory that can be continued after any interruption.
    """

    def __init__(self, config: TrainConfig, run_directory: Path) -> None:
        """Build all parts, from the newest checkpoint of `run_directory` if there is one."""
        self.config, self.run_directory = config, run_directory
        newest = latest_checkpoint(run_directory / "checkpoints")
        self.shaper = AdvantageShaper(config)
        self.parts = build_parts(config, newest)
        self.collector = Collector(
            config=config,
            sampler=self.parts.sampler,
            engine=self.parts.engine,
            reward=self.parts.reward,
            stopwatch=self.parts.stopwatch,
        )
        self.totals = Totals()
        self.waiting: CollectedBatch | None = None
        try:
            self.steps_done = self._restore(newest) if newest else 0
            self.log = RunLog(
                run_directory, config, resume_step=self.steps_done if newest else None
            )
        except BaseException:
            self.parts.close()
            raise

    def step(self, step: int) -> dict[str, float]:
        """Run one training step and return its metrics.

        `step` is also the version of the policy that it trains.
        """
        batch = self.waiting or self.collector.collect(step)
        lag = self._policy_lag(batch, step)
        groups = self.collector.training_groups(batch.rounds)
        with self.parts.stopwatch("time/observe"):
            estimator_metrics = (
                {} if self.config.distributed.overlap else self.collector.update_estimator()
            )
        with self.parts.stopwatch("time/update"):
            shaped = self.shaper(groups)
            policy_metrics, self.waiting = self._update(groups, shaped, step, lag)
            self.parts.engine.load_weights(self.parts.learner.model, step + 1)
        self.log.journal(step + 1, batch.groups)
        metrics = {
            **rollout_metrics(batch.rounds, groups),
            **batch.metrics,
            **shaped.metrics,
            **policy_metrics,
            **estimator_metrics,
            "policy/lag": float(lag),
        }
        return metrics | self._add_totals(metrics)

    def run(self) -> RunResult:
        """Train to the last step, evaluating and saving on the way.

        Ctrl-C finishes the step, saves and returns.
        """
        result = self._ending([]) if self.steps_done else None
        with interruptible(self._announce_stop) as interrupted, closing(self.parts), self.log:
            if self.steps_done == 0:
                self._record({}, evaluating=self.config.run.eval_every != "off")
            while result is None:
                with self.parts.stopwatch("time/step"):
                    metrics = self.step(self.steps_done)
                self.steps_done += 1
                result = self._ending(interrupted)
                at_the_end = (
                    result is not None
                    and result.status != "stopped"
                    and self.config.run.eval_every != "off"
                )
                self._record(
                    metrics, evaluating=self._due(self.config.run.eval_every) or at_the_end
                )
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
        if self.waiting:
            state["waiting"] = self.waiting.state_dict()
        folders = {"policy": self._save_policy}
        return save_checkpoint(
            self.run_directory / "checkpoints",
            self.steps_done,
            state,
            folders,
            self.config.run.keep_checkpoints,
        )

    def _save_policy(self, directory: Path) -> None:
        self.parts.policy.save_pretrained(directory)
        self.parts.tokenizer.save_pretrained(directory)

    def _restore(self, path: Path) -> int:
        checkpoint = load_checkpoint(path)
        self.totals = Totals(**checkpoint.state["totals"])
        self.parts.sampler.load_state_dict(checkpoint.state["sampler"])
        self.parts.learner.load_state_dict(checkpoint.state["learner"])
        self.shaper.load_state_dict(
            checkpoint.state.get("shaper", {})
        )  # older checkpoints have none
        if self.parts.estimator:
            if "estimator" not in checkpoint.state:
                raise StateError(
                    f"{path}: got no estimator, which this configuration has; continue with "
                    f"estimator.enabled = false, or start another run"
                )
            self.parts.estimator.load_state_dict(checkpoint.state["estimator"])
        self.parts.engine.load_weights(self.parts.policy, checkpoint.step)
        if "waiting" in checkpoint.state and self.config.distributed.max_policy_lag:
            self.waiting = CollectedBatch.from_state(
                checkpoint.state["waiting"], self.parts.sampler.prompts
            )
        elif "waiting" in checkpoint.state:
            logger.warning(
                "%s: left out the rollouts that waited to be trained on: they are one version "
                "old, distributed.max_policy_lag is 0",
                path,
            )
        return checkpoint.step

    def _policy_lag(self, batch: CollectedBatch, step: int) -> int:
        """Return by how many versions rollouts are older than the policy that they are to train.

        Raises:
            RuntimeError: By more than the configuration allows.
        """
        lag, limit = batch.policy_lag(step), self.config.distributed.max_policy_lag
        if lag > limit:
            raise RuntimeError(
                f"step {step}: got rollouts of policy version {step - lag}, a lag of {lag}, "
                f"expected at most {limit} (distributed.max_policy_lag)"
            )
        return lag

    def _update(
        self, groups: list[JudgedGroup], shaped: ShapedAdvantages, step: int, lag: int
    ) -> tuple[dict[str, float], CollectedBatch | None]:
        """Train the policy.

        Where a lag is allowed, workers generate the next batch meanwhile, with the weights from
        before this update.
        """
        rollouts = [group.rollouts for group in groups]
        update = partial(
            self.parts.learner.update,
            rollouts,
            shaped.advantages_BG,
            step=step,
            policy_lag=lag,
            token_factors=shaped.token_factors,
        )
        if not self.config.distributed.max_policy_lag:
            return update(), None
        with ThreadPoolExecutor(1) as executor:
            updating = executor.submit(update)
            waiting = self.collector.collect(step)
            return updating.result(), waiting

    def _add_totals(self, metrics: dict[str, float]) -> dict[str, float]:
        self.totals.sequences += metrics["rollout/sequences"]
        self.totals.tokens += metrics["rollout/tokens"]
        self.totals.empty_steps = (
            0 if metrics["rollout/informative_share"] > 0 else self.totals.empty_steps + 1
        )
        totals = {
            "rollout/sequences_total": self.totals.sequences,
            "rollout/tokens_total": self.totals.tokens,
        }
        if self.config.selection.rule == "uniform" or not self.config.selection.measures_rejects:
            return (
                totals  # nothing is known of the rejected, so that a saving could only be guessed
            )
        self.totals.sequences_saved += sequences_saved(metrics, self.config.rollout.group_size)
        return {**totals, "selection/sequences_saved_total": self.totals.sequences_saved}

    def _record(self, metrics: dict[str, float], *, evaluating: bool) -> None:
        """Write the row of the present step, with held-out accuracy and probes if they are due."""
        if evaluating:
            with self.parts.stopwatch("time/evaluate"):
                metrics = metrics | evaluate(
                    self.parts.eval_prompts,
                    self.parts.engine,
                    self.parts.reward,
                    self.config,
                    self.steps_done,
                )
                probes = probe(
                    self.parts.sampler,
                    self.parts.engine,
                    self.parts.reward,
                    self.config,
                    self.steps_done,
                )
            self.log.probes(probes)
            metrics |= probe_metrics(probes)
        self.log.write(self.steps_done, metrics, self.parts.stopwatch.take())

    def _due(self, every: int | Literal["off"]) -> bool:
        return every != "off" and self.steps_done % every == 0

    def _ending(self, interrupted: list[int]) -> RunResult | None:
        run = self.config.run
        if self.steps_done >= run.steps:
            return RunResult("finished", f"{run.steps} steps done")
        if self.totals.empty_steps >= run.stop_after_empty_steps:
            reason = (
                f"no informative group in the last {self.totals.empty_steps} steps: this "
                f"pool has nothing to teach this policy now"
            )
            return RunResult("exhausted", f"stopped after {self.steps_done} steps: {reason}")
        if interrupted:
            return RunResult(
                "stopped",
                f"stopped after {self.steps_done} steps; continue with: depo-train --resume "
                f"{self.run_directory}",
            )
        return None

    def _announce_stop(self) -> None:
        print(
            f"finishing step {self.steps_done + 1}, then saving; once more to stop at once",
            flush=True,
        )
