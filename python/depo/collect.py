"""Draws, rollouts, rewards and verdicts of one training step; repeated while the batch lacks informative groups, if that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from depo.config import TrainConfig
from depo.keyed import derive_key
from depo.metrics import Stopwatch
from depo.protocols import RewardFunction, RolloutEngine
from depo.records import Draw, Float32Array, JudgedGroup, Prompt, RolloutGroup
from depo.sampler import PromptSampler


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

    def collect(self, step: int) -> list[list[JudgedGroup]]:
        """Return every group that was rolled out at this step, one list per round of draws.

        Without backfill there is one round. With it, rounds follow until `prompts_per_step` groups are informative, `backfill_rounds` is reached,
        `scan_cap` candidates per place of the batch have been looked at, or the pool has no free prompt left.
        """
        rounds: list[list[JudgedGroup]] = []
        scanned_before = self.sampler.totals()["sampler/scanned"]
        while wanted := self._wanted(rounds, int(self.sampler.totals()["sampler/scanned"] - scanned_before), step):
            with self.stopwatch("time/select"):
                draws = self.sampler.sample(wanted, policy_version=step)
            if not draws:
                break
            rounds.append(self._roll_out(draws, step))
        return rounds

    def training_groups(self, rounds: list[list[JudgedGroup]]) -> list[JudgedGroup]:
        """Return what the policy is trained on: the first informative groups up to a batch; without backfill, all that were rolled out."""
        groups = [group for judged in rounds for group in judged if not group.is_probe]
        if not self.config.selection.backfill:
            return groups
        return list(islice((group for group in groups if group.verdict.informative), self.config.run.prompts_per_step))

    def _wanted(self, rounds: list[list[JudgedGroup]], scanned: int, step: int) -> int:
        """Return how many prompts the next round draws, so that even if it looks at as many candidates as it may, the step stays within the scan cap."""
        batch, selection = self.config.run.prompts_per_step, self.config.selection
        if not rounds:
            return batch
        if not selection.backfill or len(rounds) >= selection.backfill_rounds:
            return 0
        missing = batch - sum(group.verdict.informative for judged in rounds for group in judged if not group.is_probe)
        affordable = (selection.scan_cap * batch - scanned) // self.sampler.candidates_per_draw(step)
        return max(min(batch if selection.backfill_draws == "batch" else missing, affordable), 0) if missing > 0 else 0

    def _roll_out(self, draws: list[Draw], step: int) -> list[JudgedGroup]:
        prompts = [draw.prompt for draw in draws]
        with self.stopwatch("time/rollout"):
            rollouts = self._generate(draws)
        with self.stopwatch("time/reward"):
            rewards_BG = judge(self.reward, prompts, rollouts, self.config.rollout.group_size)
        with self.stopwatch("time/observe"):
            logprobs = [group.mean_token_logprob for group in rollouts]
            verdicts = self.sampler.observe(draws, rewards_BG, policy_version=step, logprobs=logprobs)
        return [
            JudgedGroup(draw=draw, rollouts=group, rewards_G=rewards_G, verdict=verdict)
            for draw, group, rewards_G, verdict in zip(draws, rollouts, rewards_BG, verdicts, strict=True)
        ]

    def _generate(self, draws: Sequence[Draw]) -> list[RolloutGroup]:
        """Return as many responses per draw as it asks for: full groups together, then probes."""
        rollouts: dict[int, RolloutGroup] = {}
        for size in sorted({draw.n_rollouts for draw in draws}, reverse=True):
            chosen = [draw for draw in draws if draw.n_rollouts == size]
            keys = [derive_key(self.config.run.seed, "rollout", draw.draw_id) for draw in chosen]
            groups = self.engine.generate([draw.prompt for draw in chosen], size, keys, temperature=self.config.rollout.temperature)
            rollouts |= {draw.draw_id: group for draw, group in zip(chosen, groups, strict=True)}
        return [rollouts[draw.draw_id] for draw in draws]


def judge(reward: RewardFunction, prompts: Sequence[Prompt], rollouts: Sequence[RolloutGroup], group_size: int) -> Float32Array:
    """Return the rewards of every response, float32 [B, group_size], NaN = unknown, or of a probe not generated."""
    responses = [response for group in rollouts for response in group.responses]
    repeated = [prompt for prompt, group in zip(prompts, rollouts, strict=True) for _ in group.responses]
    rewards_N = reward(repeated, responses, np.concatenate([group.finished for group in rollouts]))
    sizes_B = np.array([len(group.responses) for group in rollouts])
    rewards_BG = np.full((len(rollouts), group_size), np.nan, np.float32)
    rewards_BG[np.arange(group_size) < sizes_B[:, None]] = rewards_N
    return rewards_BG
