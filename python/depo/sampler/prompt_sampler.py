"""PromptSampler: which prompts are worth a rollout now.

The embeddable face of the Rust core and, if given, of a difficulty estimator.

    draws = sampler.sample(n, policy_version=v)                       # prompts, chosen
    verdicts = sampler.observe(draws, rewards_BG, policy_version=v)   # what their rollouts said
    sampler.update_estimator()                                        # learn from it

The clock is `policy_version`: an integer that never falls and rises by one with every training
step, also with one that updated nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from depo.config.selector import SelectorConfig
from depo.sampler.calibration import CalibrationWindow
from depo.sampler.core import DRAW_KINDS, build_core, draws_of, pool_of, texts_of
from depo.sampler.saving import load_sampler, save_sampler
from depo.sampler.verdicts import calibration_columns, verdicts_of
from depo.sampler.warnings import SamplerWarnings
from depo.types.errors import StateError
from depo.types.protocols import DifficultyEstimator
from depo.types.records import (
    BoolArray,
    Draw,
    DrawKind,
    Float32Array,
    Int64Array,
    Prompt,
    TargetBatch,
    Verdict,
)

STATE_VERSION = 1

LOGPROB_ROUNDING = 1e-3  # tolerance for mean log-probabilities slightly above 0 (rounding)
REJECTED_BEFORE_CLAIMS = 30
"""Rejected prompts that must have been drawn before metrics say anything about the rejected."""

logger = logging.getLogger(__name__)


class PromptSampler:
    """Select prompts for rollouts, learn from their rewards, and save at any moment.

    Any number of threads may call. `sample`, `prepare`, `beliefs`, `update_estimator` and
    `load_state_dict` wait for one another, because they use the estimator. No other call waits for
    it; labels that arrive while `sample` predicts count at once. `state_dict` is an atomic
    snapshot; a batch in progress is saved as pending candidates.

    The same seed and the same calls in the same order give the same draws on every platform. Calls
    are ordered by when they take effect.

    Args:
        prompts: The pool, as `Prompt` records or plain strings, or a `PromptTable`, which is kept
            as it is; ids must be distinct.
        group_size: Rollouts per prompt, G >= 2.
        config: Selection settings; default `SelectorConfig.from_preset("depo")`.
        estimator: Predicts pass rates from text; None: history alone.
        seed: Seed of every draw.

    Raises:
        ValueError: No prompts, two prompts with the same id, group_size below 2, or a floor for a
            source that does not exist.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt | str],
        group_size: int = 8,
        config: SelectorConfig | None = None,
        estimator: DifficultyEstimator | None = None,
        seed: int = 0,
    ) -> None:
        self.prompts = pool_of(prompts)
        self.group_size = group_size
        self.config = config or SelectorConfig.from_preset("depo")
        self.estimator = estimator
        self.seed = seed
        self._core = build_core(self.prompts, group_size, self.config, seed)
        self._calibration = CalibrationWindow()
        self._warnings = SamplerWarnings(self.config)
        # Both are reentrant, because an estimator or a signal handler may call. A thread that needs
        # both takes `_scoring` first. `_scoring` is held while the estimator works and from the
        # first proposal of a batch to its draws; `_labelling` while core and calibration change.
        self._scoring, self._labelling = threading.RLock(), threading.RLock()

    def sample(
        self, n: int, *, policy_version: int, among: Sequence[int] | Int64Array | None = None
    ) -> list[Draw]:
        """Return prompts to roll out now, worth n groups, and mark them in flight.

        A probe costs `n_rollouts` / group size of a group.

        Never raises for lack of good prompts: when too few pass, the nearest rejected ones fill up;
        when the pool has fewer than n free prompts, fewer come back. Both are counted in `metrics`
        and warned of once.

        Args:
            n: Number of groups wanted [>= 1].
            policy_version: Current version; see the module's first paragraph.
            among: Distinct positions in the pool. Only these prompts are candidates; every one not
                in flight is scored. None: candidates come in epoch order.

        Raises:
            ValueError: A position is twice in `among`, or `prepare` has begun a batch without
                `among`.
            IndexError: A position in `among` is out of range.
        """
        with self._scoring:
            rejected_before = self.totals()["sampler/rejected"]
            named = None if among is None else np.asarray(among)
            self._score(n, policy_version, named)
            taken = self._core.take(n, policy_version)
            drawn_from = (
                f"the pool of {len(self.prompts)}" if named is None else f"`among` of {named.size}"
            )
            self._warnings.shortage(
                n,
                taken["kinds"].size,
                int((taken["kinds"] == DRAW_KINDS.index(DrawKind.FILL)).sum()),
                drawn_from,
            )
            self._warnings.idle_window(
                policy_version, self.totals()["sampler/rejected"] > rejected_before
            )
            return draws_of(self.prompts, taken, np.full(taken["prompts"].size, policy_version))

    def prepare(self, n: int, *, policy_version: int) -> None:
        """Score the candidates for the next `sample(n)` ahead of time.

        That call must not pass `among`. Total work is unchanged.
        """
        self._score(n, policy_version, None)

    def candidates_per_draw(self, policy_version: int) -> int:
        """Return how many candidates `sample`.

        Without `among` may look at for each prompt wanted, at this version.
        """
        return self._core.candidates_per_draw(policy_version)

    def observe(
        self,
        draws: Sequence[Draw | int],
        rewards: ArrayLike,
        *,
        policy_version: int,
        logprobs: ArrayLike | None = None,
    ) -> list[Verdict]:
        """Record the rewards of some draws, in any order, at any later time; each draw counts once.

        Args:
            draws: B draws or draw ids. Unknown, already observed and released ids are ignored; the
                verdict's status says which.
            rewards: [B, G] of any finite scale; NaN = unknown (verifier failure, aborted rollout).
                A group that is partly known counts as far as it is known.
            policy_version: Version of the weights that generated the rollouts; older than the
                newest label of the prompt is fine.
            logprobs: [B] mean token log-probability of each group
                (`RolloutGroup.mean_token_logprob`), the distillation target; NaN = unknown.

        Returns:
            One verdict per draw, in order.

        Raises:
            ValueError: Wrong shape or infinite reward; nothing has been recorded then.
        """
        draw_ids = _draw_ids(draws)
        if not draw_ids.size:
            return []
        rewards_BG = np.asarray(rewards, dtype=np.float32)
        logprobs_B = (
            np.full(len(draw_ids), np.nan, np.float32)
            if logprobs is None
            else np.asarray(logprobs, dtype=np.float32)
        )
        if logprobs_B.size and np.nanmax(logprobs_B, initial=-np.inf) > LOGPROB_ROUNDING:
            raise ValueError(
                f"logprobs: got {np.nanmax(logprobs_B)}, expected log-probabilities, at most 0"
            )
        targets_B = np.exp(np.minimum(logprobs_B, 0.0))
        with self._labelling:
            seen = self._core.observe(draw_ids, rewards_BG, targets_B, policy_version)
            self._calibration.add(*calibration_columns(seen, self.config, self.group_size))
        return verdicts_of(draw_ids, seen)

    def release(self, draws: Sequence[Draw | int], *, reason: str = "aborted") -> int:
        """Free the prompts of draws that will never be observed; returns how many were in flight.

        `reason` goes to the log.
        """
        released = self._core.release(_draw_ids(draws))
        if released:
            logger.info("released %d draws without a label: %s", released, reason)
        return released

    def update_estimator(
        self, *, replay_steps: int = 2, replay_batch: int = 48
    ) -> dict[str, float]:
        """Train the estimator on the labels since the last call, then on replayed ones.

        Args:
            replay_steps: Optimizer steps on replayed targets after the one on fresh targets.
            replay_batch: Targets of a replay step.

        Returns:
            The estimator's metrics; empty without an estimator or without new labels.
        """
        with self._scoring:
            fresh = self._core.fresh_targets()
            if self.estimator is None or fresh["prompts"].size == 0:
                return {}
            replayed = [self._core.replay_targets(replay_batch) for _ in range(replay_steps)]
            return self.estimator.update(
                [self._target_batch(targets) for targets in (fresh, *replayed)]
            )

    def metrics(self) -> dict[str, float]:
        """Return `totals`, what was fitted.

        (`belief/...`) and, weighted by 1/admission, calibration over the newest observations
        (`calibration/...`).

        What concerns the rejected (false_reject_rate, lost_share, unfiltered_informative_share) is
        NaN before enough of them were drawn, and for a policy that does not explore all it rejects;
        calibration is then that of the admitted.
        """
        with self._labelling:
            rejects = self.config.rule != "uniform"
            unknown = rejects and (
                not self.config.measures_rejects
                or self._calibration.rejected < REJECTED_BEFORE_CLAIMS
            )
            calibration = self._calibration.metrics(of_admitted=unknown)
            belief = {
                f"belief/{name}": value for name, value in self._core.belief_parameters().items()
            }
            return {**self.totals(), **belief, **calibration}

    def totals(self) -> dict[str, float]:
        """Return totals since the start.

        (`sampler/...`), scanned, rejected, drawn by kind, labelled, released and more, and
        `sampler/oldest_label_age`.
        """
        return {f"sampler/{name}": float(value) for name, value in self._core.counters().items()}

    def in_flight(self) -> list[Draw]:
        """Return the draws that were neither observed nor released."""
        opened = self._core.in_flight()
        return draws_of(self.prompts, opened, opened["policy_versions"])

    def beliefs(
        self, prompts: Sequence[int] | Int64Array, *, policy_version: int
    ) -> tuple[Float32Array, Float32Array, BoolArray]:
        """Return what is believed of some prompts now, changing nothing.

        The measure of a selector that costs no rollout.

        Args:
            prompts: C positions in the pool.
            policy_version: Current version.

        Returns:
            predicted reward float32 [C] (NaN without estimator), P(informative) float32 [C], and
            whether the policy alone would admit it, bool [C].
        """
        indices = np.asarray(prompts, dtype=np.int64)
        predicted_C = self._predict(indices)
        believed = self._core.beliefs(indices, predicted_C, policy_version)
        return (
            predicted_C,
            believed["p_informative"],
            self._core.wanted(indices, predicted_C, policy_version),
        )

    def save(self, directory: Path | str) -> Path:
        """Save sampler and estimator in a directory, atomically.

        A crash at any moment leaves the save before or the new one, whole. One process at a time
        may write to a directory. Needs safetensors (`depo-rl[embed]`).

        Returns:
            The directory inside `directory` that holds the files, with a checksum of each.

        Raises:
            OSError: The files could not be written; the save before is still there.
            StateError: The estimator's state holds something that cannot be saved as it is.
        """
        with self._scoring:  # sampler and estimator at the same moment
            return save_sampler(self, Path(directory))

    def load(self, directory: Path | str, *, strict: bool = True) -> dict[str, int]:
        """Restore what `save` wrote: sampler and estimator, or neither.

        Args:
            directory: The directory that was given to `save`.
            strict: See `load_state_dict`.

        Returns:
            Numbers of prompts `matched`, `missing` and `added`; see `load_state_dict`.

        Raises:
            StateError: No complete save, a damaged file, or a state that does not fit this sampler.
        """
        with self._scoring:
            return load_sampler(self, Path(directory), strict)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a bit-exact continuation needs, open draws included.

        The estimator saves itself.
        """
        with self._labelling:
            return {
                "version": STATE_VERSION,
                "core": self._core.state_dict(),
                "calibration": self._calibration.state_dict(),
            }

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> dict[str, int]:
        """Restore what `state_dict` returned.

        Args:
            state: The state.
            strict: The pool must be the same. Otherwise what is known of each prompt is carried
                over by id, in any order and to any other pool.

        Returns:
            Numbers of prompts `matched`, `missing` (in the state alone) and `added` (in this pool
            alone).

        Raises:
            StateError: Another version, group size or seed, or (strict) another pool; nothing has
                changed then.
        """
        if state.get("version") != STATE_VERSION:
            raise StateError(
                f"sampler state: got version {state.get('version')!r}, expected {STATE_VERSION}"
            )
        if missing := {"core", "calibration"} - set(state):
            raise StateError(
                f"sampler state: got entries {sorted(state)}, expected also {sorted(missing)}"
            )
        calibration = CalibrationWindow()
        calibration.load_state_dict(state["calibration"])
        with self._scoring, self._labelling:
            carried = self._core.load_state_dict(state["core"], strict=strict)
            self._calibration = calibration
        return carried

    def _score(self, n: int, policy_version: int, among: Int64Array | None) -> None:
        begun = False
        with self._scoring:
            try:
                while (candidates := self._core.propose(n, policy_version, among)).size:
                    begun = True
                    self._core.offer(candidates, self._predict(candidates), policy_version)
            except BaseException as error:
                # `propose` raises these two before it changes anything.
                if begun or not isinstance(error, (ValueError, IndexError)):
                    self._core.take(0, policy_version)  # ends the batch; its candidates come next
                raise

    def _predict(self, indices: Int64Array) -> Float32Array:
        if self.estimator is None:
            return np.full(indices.size, np.nan, np.float32)
        with self._scoring:
            return self.estimator.predict(texts_of(self.prompts, indices))

    def _target_batch(self, targets: Mapping[str, Any]) -> TargetBatch:
        return TargetBatch(
            texts=texts_of(self.prompts, targets["prompts"]),
            reward_targets=targets["reward_targets"],
            logprob_targets=targets["logprob_targets"],
            counts=targets["counts"],
            weights=targets["weights"] * targets["counts"] / self.group_size,
        )


def _draw_ids(draws: Sequence[Draw | int]) -> Int64Array:
    return np.array(
        [draw.draw_id if isinstance(draw, Draw) else draw for draw in draws], dtype=np.int64
    )
