"""Select the prompts of TRL's GRPOTrainer.

    trainer = DepoGRPOTrainer(model=..., reward_funcs=..., args=..., train_dataset=...)

Each generation batch is drawn after the rewards of the previous one are known. TRL's own sampler
sets only the size of the batch; its row indices are ignored. To use depo with a subclass of
GRPOTrainer, put the mixin first: `class Mine(DepoGRPOMixin, MyGRPOTrainer): ...`. Every override
calls `super()`.

Once per generation batch, the metrics of `LOGGED` are added to TRL's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depo.config import EstimatorConfig, SelectorConfig, SourceConfig
from depo.integrations.row_sampler import RowSampler
from depo.integrations.versions import require_tested
from depo.runs.step_metrics import selection_metrics
from depo.types.errors import ConfigError
from depo.types.protocols import DifficultyEstimator
from depo.types.records import Draw, Float32Array, Verdict, VerdictStatus

require_tested("trl")  # before the imports that need TRL, so that a missing TRL is named

import torch
from torch import Tensor
from trl import GRPOTrainer

from depo.integrations.ranks import require_equal, shared_estimator
from depo.integrations.trl_checks import (
    check_backfill,
    check_hooks,
    identifying_rows,
    reward_column,
)
from depo.integrations.trl_responses import (
    COMPLETION_IDS,
    COMPLETIONS,
    Generated,
    RolledOutGroup,
    gather_rollouts,
    join_rollouts,
    mean_logprobs,
)

check_hooks(GRPOTrainer)

DEFAULT_SELECTOR = SelectorConfig.from_preset("depo", backfill=False)
"""The preset without backfill, each round of which is one more generation call."""

DEFAULT_ESTIMATOR = EstimatorConfig()

STATE_DIRECTORY = "depo"
"""Directory of depo's state inside a checkpoint."""

LOGGED = (
    "rollout/rounds",
    "rollout/groups",
    "rollout/zero_variance_share",
    "rollout/unreplaced",
    "selection/reject_share",
    "selection/drawn_explore",
    "selection/drawn_fill",
    "selection/oldest_label_age",
    "calibration/auroc",
    "calibration/ece",
    "calibration/false_reject_rate",
    "calibration/unfiltered_informative_share",
    "estimator/loss",
    "estimator/overflow_share",
)
"""Metrics of each generation batch, logged as `depo/NAME`; see `depo.runs.metric_names`.

`rollout/...` includes groups that backfill replaced. `rollout/unreplaced` counts the zero-variance
groups that remain in the batch.
"""

if TYPE_CHECKING:
    _Trainer = Any
else:
    _Trainer = object


@dataclass(slots=True)
class _Batch:
    """A generation batch in progress.

    Attributes:
        size: Number of groups that are trained on.
        totals: The sampler's totals before the batch.
        draws: Draws of the latest round, in the order of all processes' responses.
        rows: Row index of each of these draws.
        inputs: This process's part of these rows, each once per response.
        logprobs_B: Mean token log-probability of each of these groups; None if TRL has none.
        verdicts: Verdicts of all rounds.
        rounds: Generation calls so far.
        rewards_NF: Rewards of the final batch; None until backfill has ended.
        unreplaced: Zero-variance groups in the final batch.
    """

    size: int
    totals: Mapping[str, float]
    draws: list[Draw] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    logprobs_B: Float32Array | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    rounds: int = 0
    rewards_NF: Tensor | None = None
    unreplaced: int = 0


class DepoGRPOMixin(_Trainer):  # type: ignore[misc]
    """Make depo select the prompts of a GRPOTrainer; list it before the trainer class.

    Pass a training set that can be indexed. Its column `prompt` holds text, or chat messages of
    text. TRL's groups have one size, so `probe_rollouts` is ignored and a probe is a whole group.
    Every process holds the sampler; only the main process holds the estimator.

    With `num_iterations` > 1 or `steps_per_generation` > `gradient_accumulation_steps`, a resume in
    the middle of a generation batch makes TRL generate again. depo then draws new prompts.

    Args:
        *args: Arguments of the trainer.
        selector: Settings of the selection, or the name of a preset. With `backfill`, further
            generations replace zero-variance groups by informative ones. It ends when none is left,
            or after `backfill_rounds` generations.
        estimator: Predicts pass rates from text: settings, an estimator, or None for history alone.
        informative_reward: Name, as TRL logs it, of the reward function whose variance makes a
            group informative; None: the weighted sum of all.
        allow_missing_state: Whether to start afresh, instead of raising, if the checkpoint has no
            state of depo.
        **kwargs: Keyword arguments of the trainer.

    Attributes:
        depo: The sampler over the rows of the training set.

    Raises:
        ConfigError: The training set cannot be indexed, has images or is smaller than a batch;
            `informative_reward` is unknown; or `backfill` is combined with environments or a
            rollout function, which depo cannot run again.
        DataError: A row has no prompt that depo can read.
        StateError: Processes have different training sets.
    """

    def __init__(
        self,
        *args: Any,
        selector: SelectorConfig | str = DEFAULT_SELECTOR,
        estimator: DifficultyEstimator | EstimatorConfig | None = DEFAULT_ESTIMATOR,
        informative_reward: str | None = None,
        allow_missing_state: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        preset = SelectorConfig.from_preset(selector) if isinstance(selector, str) else selector
        self._depo_selector = replace(preset, probe_rollouts="all")
        self._depo_replay = {
            name: getattr(estimator, name)
            for name in ("replay_steps", "replay_batch")
            if isinstance(estimator, EstimatorConfig)
        }
        self._depo_allow_missing_state = allow_missing_state
        self._depo_batch: _Batch | None = None
        self._depo_reward_column = reward_column(self, informative_reward)
        check_backfill(self, self._depo_selector)
        self.depo = self._depo_build(None if self._depo_selector.rule == "uniform" else estimator)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]
        size = len(inputs) * self.accelerator.num_processes // self.num_generations
        self._depo_batch = batch = _Batch(size, self.depo.sampler.totals())
        try:
            self._depo_draw(batch, size)
            output: dict[str, Any] = super()._generate_and_score_completions(batch.inputs)
        finally:
            self._depo_batch = None
            self.depo.sampler.release(batch.draws, reason="the generation batch failed")
        self._depo_learn(batch)
        return output

    def _generate(self, prompts: list[Any]) -> Generated:
        batch = self._depo_batch
        if batch is None:
            return super()._generate(prompts)  # type: ignore[no-any-return]
        generated = self._depo_generate(batch, prompts)
        return (
            self._depo_backfill(batch, prompts, generated)
            if self._depo_selector.backfill
            else generated
        )

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        batch = self._depo_batch
        if batch is not None and batch.rewards_NF is not None:
            return batch.rewards_NF
        rewards_NF: Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        if batch is not None:
            rewards_BG = self._depo_scalar(rewards_NF).reshape(-1, self.num_generations)
            batch.verdicts += self.depo.observe(
                batch.draws,
                rewards_BG,
                policy_version=self.state.global_step,
                logprobs=batch.logprobs_B,
            )
        return rewards_NF

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.depo.save(Path(output_dir) / STATE_DIRECTORY)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        directory = Path(checkpoint) / STATE_DIRECTORY
        if directory.is_dir() or not self._depo_allow_missing_state:
            self.depo.load(directory)

    def _depo_build(self, estimator: DifficultyEstimator | EstimatorConfig | None) -> RowSampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        rows = RowSampler(
            identifying_rows(self.train_dataset),
            SourceConfig(path="train_dataset", layout="trl"),
            group_size=self.num_generations,
            selector=self._depo_selector,
            estimator=shared_estimator(estimator, self.accelerator, tokenizer, seed),
            seed=seed,
        )
        needed = self.args.generation_batch_size // self.num_generations
        if len(rows.sampler.prompts) < needed:
            raise ConfigError(
                f"train_dataset: got {len(rows.sampler.prompts)} distinct prompts, expected at "
                f"least {needed}, those of one generation batch"
            )
        require_equal(
            "train_dataset", [prompt.id for prompt in rows.sampler.prompts], self.accelerator
        )
        return rows

    def _depo_draw(self, batch: _Batch, n: int) -> None:
        """Draw n groups and load this process's part of their rows."""
        batch.draws, batch.rows = self.depo.sample(n, policy_version=self.state.global_step)
        batch.rounds += 1
        require_equal(f"rows drawn at step {self.state.global_step}", batch.rows, self.accelerator)
        batch.inputs = self._depo_load(batch.rows)

    def _depo_generate(self, batch: _Batch, prompts: list[Any]) -> Generated:
        generated: Generated = super()._generate(prompts)
        batch.logprobs_B = mean_logprobs(generated, self.num_generations)
        return generated

    def _depo_load(self, rows: list[int]) -> list[dict[str, Any]]:
        """Return this process's part of these rows, each once per response."""
        local = self._depo_local([row for row in rows for _ in range(self.num_generations)])
        loaded = {row: self.train_dataset[row] for row in dict.fromkeys(local)}
        return [dict(loaded[row]) for row in local]

    def _depo_local(self, items: list[Any]) -> list[Any]:
        n = len(items) // self.accelerator.num_processes
        return items[self.accelerator.process_index * n : (self.accelerator.process_index + 1) * n]

    def _depo_scalar(self, rewards_NF: Tensor) -> Float32Array:
        """Return one reward per response, float32 [N]; NaN = unknown.

        numpy makes the sum equal on every device.
        """
        values_NF: Float32Array = rewards_NF.detach().float().cpu().numpy()
        if self._depo_reward_column is not None:
            return values_NF[:, self._depo_reward_column]
        rewards_N: Float32Array = np.nansum(
            values_NF * self.reward_weights.cpu().numpy(), axis=1, dtype=np.float32
        )
        rewards_N[np.isnan(values_NF).all(axis=1)] = np.nan
        return rewards_N

    def _depo_backfill(self, batch: _Batch, prompts: list[Any], generated: Generated) -> Generated:
        """Replace zero-variance groups by informative ones of further generations.

        TRL computes on its list of inputs, on `prompts` and on the returned tuple. All three are
        set to the final batch.
        """
        inputs = batch.inputs
        places = self._depo_judge(batch, prompts, generated)
        silent = [place for place, group in enumerate(places) if not group.informative]
        while silent and (wanted := self._depo_wanted(batch, len(silent))):
            self._depo_draw(batch, wanted)
            further = [row["prompt"] for row in batch.inputs]
            for group in self._depo_judge(batch, further, self._depo_generate(batch, further)):
                if group.informative and silent:
                    places[silent.pop(0)] = group
        batch.unreplaced = len(silent)
        batch.rewards_NF = torch.cat([group.rewards_GF for group in places])
        inputs[:] = self._depo_load([group.row for group in places])
        prompts[:] = [row["prompt"] for row in inputs]
        rollouts = self._depo_local([rollout for group in places for rollout in group.rollouts])
        joined, extras = join_rollouts(rollouts, generated)
        self._pending_extra_logs.update(extras)
        return joined

    def _depo_judge(
        self, batch: _Batch, prompts: list[Any], generated: Generated
    ) -> list[RolledOutGroup]:
        """Score and observe the responses to the latest draws."""
        rewards_NF = self._calculate_rewards(
            batch.inputs, prompts, generated[COMPLETIONS], generated[COMPLETION_IDS]
        )
        rollouts = gather_rollouts(generated, self._pending_extra_logs)
        self._pending_extra_logs.clear()
        verdicts = batch.verdicts[-len(batch.rows) :]
        parts = [
            slice(start, start + self.num_generations)
            for start in range(0, len(rollouts), self.num_generations)
        ]
        judged = zip(batch.rows, verdicts, parts, strict=True)
        return [
            RolledOutGroup(row, rollouts[part], rewards_NF[part], verdict.informative)
            for row, verdict, part in judged
        ]

    def _depo_wanted(self, batch: _Batch, silent: int) -> int:
        """Return the number of groups that the next round draws; 0: no further round.

        Every process gets the same number of responses.
        """
        selector, sampler = self._depo_selector, self.depo.sampler
        least = batch.size if selector.backfill_draws == "batch" else silent
        wanted = next(
            n
            for n in range(least, batch.size + 1)
            if n * self.num_generations % self.accelerator.num_processes == 0
        )
        scanned = sampler.totals()["sampler/scanned"] - batch.totals["sampler/scanned"]
        scanned_then = scanned + wanted * sampler.candidates_per_draw(self.state.global_step)
        return (
            wanted
            if batch.rounds < selector.backfill_rounds
            and scanned_then <= selector.scan_cap * batch.size
            else 0
        )

    def _depo_learn(self, batch: _Batch) -> None:
        """Update the estimator from the batch's labels and log the metrics."""
        estimator = self.depo.sampler.update_estimator(**self._depo_replay)
        labelled = [
            verdict for verdict in batch.verdicts if verdict.status is VerdictStatus.LABELLED
        ]
        metrics = selection_metrics(batch.totals, self.depo.sampler.metrics()) | estimator
        metrics |= {
            "rollout/rounds": float(batch.rounds),
            "rollout/groups": float(len(batch.verdicts)),
            "rollout/zero_variance_share": sum(not verdict.informative for verdict in labelled)
            / len(batch.verdicts),
            "rollout/unreplaced": float(batch.unreplaced),
        }
        for name in LOGGED:
            if name in metrics:
                self._metrics["train"][f"depo/{name}"].append(metrics[name])


class DepoGRPOTrainer(DepoGRPOMixin, GRPOTrainer):  # type: ignore[misc]
    """Train as GRPOTrainer does, on prompts that depo selects.

    Pass the arguments of GRPOTrainer and those of `DepoGRPOMixin`, which has the errors as well.
    """
