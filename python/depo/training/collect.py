"""Draws, rollouts, rewards and verdicts of one training step.

Repeated while the batch lacks informative groups, if that is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from depo.config import TrainConfig
from depo.rewards.judging import judge
from depo.runs.step_metrics import selection_metrics
from depo.sampler import PromptSampler
from depo.sampler.keyed import derive_key
from depo.training.batch import CollectedBatch
from depo.training.stopwatch import Stopwatch
from depo.types.protocols import RewardFunction, RolloutEngine
from depo.types.records import Draw, JudgedGroup, RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Fills a batch with groups.

    Attributes:
        config: The run's configuration.
        sampler: Chooses prompts and records their rewards.
        engine: Generates.
        reward: Judges.
        stopwatch: Adds up CPU seconds per part.
    """

    config: TrainConfig
    sampler: PromptSampler
    engine: RolloutEngine
    reward: RewardFunction
    stopwatch: Stopwatch

    def collect(self, policy_version: int) -> CollectedBatch:
        """Draw and roll out a training batch with the weights of this version.

        These the engine has.

        Without backfill there is one round. With it, rounds follow until `prompts_per_step` groups
        are informative, `backfill_rounds` is reached, `scan_cap` candidates per place of the batch
        have been looked at, or the pool has no free prompt left.

        With `distributed.overlap`, while the first round is generated the estimator learns from the
        labels since its last update, those of the batch before, and while any round is generated
        the candidates of the next draw are scored. So a batch's first draw is judged by what was
        known one batch ago: its policy version, its beliefs, and an estimator that has seen the
        labels up to two batches ago. Nothing depends on which of them is done first.
        """
        rounds: list[list[JudgedGroup]] = []
        estimator_metrics: dict[str, float] = {}
        before = self.sampler.totals() | self._reward_failures()
        scanned_before = int(before["sampler/scanned"])

        def work_ahead() -> None:
            if not rounds:
                estimator_metrics.update(self.update_estimator())
            if ahead := min(
                self.config.run.prompts_per_step, self._affordable(scanned_before, policy_version)
            ):
                with self.stopwatch("time/select"):
                    self.sampler.prepare(ahead, policy_version=policy_version)

        while wanted := self._wanted(rounds, self._affordable(scanned_before, policy_version)):
            with self.stopwatch("time/select"):
                draws = self.sampler.sample(wanted, policy_version=policy_version)
            if not draws:
                break
            rounds.append(
                self._roll_out(
                    draws, policy_version, work_ahead if self.config.distributed.overlap else None
                )
            )
        with self.stopwatch("time/observe"):
            after = self.sampler.metrics() | self._reward_failures()
        failures = {name: after[name] - before[name] for name in self._reward_failures()}
        return CollectedBatch(
            rounds=rounds,
            metrics={**selection_metrics(before, after), **failures, **estimator_metrics},
        )

    def update_estimator(self) -> dict[str, float]:
        """Train the estimator on the labels since the last call and on replayed ones.

        Also return its metrics.
        """
        estimator = self.config.estimator
        return self.sampler.update_estimator(
            replay_steps=estimator.replay_steps, replay_batch=estimator.replay_batch
        )

    def training_groups(self, rounds: list[list[JudgedGroup]]) -> list[JudgedGroup]:
        """Return what the policy is trained on: the first informative groups up to a batch.

        Without backfill, all that were rolled out.
        """
        groups = [group for judged in rounds for group in judged if not group.is_probe]
        if not self.config.selection.backfill:
            return groups
        return list(
            islice(
                (group for group in groups if group.verdict.informative),
                self.config.run.prompts_per_step,
            )
        )

    def _reward_failures(self) -> dict[str, float]:
        return {f"reward/{cause}": float(count) for cause, count in self.reward.counters().items()}

    def _affordable(self, scanned_before: int, policy_version: int) -> int:
        """Return for how many draws candidates may still be looked at for this batch."""
        scanned = int(self.sampler.totals()["sampler/scanned"]) - scanned_before
        left = self.config.selection.scan_cap * self.config.run.prompts_per_step - scanned
        return max(left // self.sampler.candidates_per_draw(policy_version), 0)

    def _wanted(self, rounds: list[list[JudgedGroup]], affordable: int) -> int:
        """Return how many prompts the next round draws, within the scan cap of the step.

        Even a round that looks at as many candidates as it may stays within it.
        """
        batch, selection = self.config.run.prompts_per_step, self.config.selection
        if not rounds:
            return batch
        if not selection.backfill or len(rounds) >= selection.backfill_rounds:
            return 0
        missing = batch - sum(
            group.verdict.informative for judged in rounds for group in judged if not group.is_probe
        )
        return (
            min(batch if selection.backfill_draws == "batch" else missing, affordable)
            if missing > 0
            else 0
        )

    def _roll_out(
        self, draws: list[Draw], policy_version: int, meanwhile: Callable[[], None] | None
    ) -> list[JudgedGroup]:
        prompts = [draw.prompt for draw in draws]
        with self.stopwatch("time/rollout"), ThreadPoolExecutor(1) as executor:
            if meanwhile:
                generated = executor.submit(self._generate, draws)
                meanwhile()
            rollouts = generated.result() if meanwhile else self._generate(draws)
        with self.stopwatch("time/reward"):
            rewards_BG = judge(self.reward, prompts, rollouts, self.config.rollout.group_size)
        with self.stopwatch("time/observe"):
            logprobs = [group.mean_token_logprob for group in rollouts]
            verdicts = self.sampler.observe(
                draws, rewards_BG, policy_version=policy_version, logprobs=logprobs
            )
        return [
            JudgedGroup(draw=draw, rollouts=group, rewards_G=rewards_G, verdict=verdict)
            for draw, group, rewards_G, verdict in zip(
                draws, rollouts, rewards_BG, verdicts, strict=True
            )
        ]

    def _generate(self, draws: Sequence[Draw]) -> list[RolloutGroup]:
        """Return as many responses per draw as it asks for: full groups together, then probes."""
        rollouts: dict[int, RolloutGroup] = {}
        for size in sorted({draw.n_rollouts for draw in draws}, reverse=True):
            chosen = [draw for draw in draws if draw.n_rollouts == size]
            keys = [derive_key(self.config.run.seed, "rollout", draw.draw_id) for draw in chosen]
            groups = self.engine.generate(
                [draw.prompt for draw in chosen],
                size,
                keys,
                temperature=self.config.rollout.temperature,
            )
            rollouts |= {draw.draw_id: group for draw, group in zip(chosen, groups, strict=True)}
        return [rollouts[draw.draw_id] for draw in draws]
