"""Who picks: every preset of the sampler, and two references that know more than a selector can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from depo.config.presets import SELECTOR_PRESETS
from depo.config.selector import SelectorConfig
from depo.replay.log import RolloutLog, Tick
from depo.replay.picks import Float64Array, Picks
from depo.sampler import PromptSampler
from depo.sampler.core import rule_traits
from depo.sampler.keyed import derive_key, uniforms
from depo.types.errors import ConfigError
from depo.types.protocols import DifficultyEstimator
from depo.types.records import Draw, DrawKind, Float32Array, Int64Array

REFERENCES: Mapping[str, str] = {
    "oracle": "knows the outcomes of this tick",
    "hindsight": "is shown every past outcome, whatever it picked, and takes the most probably "
    "informative prompts by depo's belief",
}
"""Rows that bound what a selector can reach."""

_PROBES = (DrawKind.EXPLORE, DrawKind.REPROBE)


class TextModel(NamedTuple):
    """An estimator and how it is trained on the outcomes of each batch.

    Attributes:
        estimator: Predicts pass rates from text.
        replay_steps: Optimizer steps on remembered outcomes after the one on fresh outcomes.
        replay_batch: Outcomes of such a step.
    """

    estimator: DifficultyEstimator
    replay_steps: int
    replay_batch: int


class Selector(Protocol):
    """Picks prompts of a tick and is shown the outcomes of what it picked."""

    def play(self, tick: Tick, n: int) -> Picks:
        """Pick prompts of a tick for the rollouts of n groups, 1 <= n <= A."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a bit-exact continuation needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class SamplerSelector:
    """`depo.PromptSampler` as a trainer drives it.

    It sees the outcomes of one batch before it draws the next.

    Args:
        log: What is replayed.
        config: Selection settings.
        seed: Seed of the sampler's draws.
        batch: Prompts drawn at once [>= 1].
        text_model: Reads the prompts' texts, and is trained after each batch on what was shown;
            None: history alone.
    """

    def __init__(
        self,
        log: RolloutLog,
        config: SelectorConfig,
        *,
        seed: int,
        batch: int,
        text_model: TextModel | None = None,
    ) -> None:
        self.sampler = PromptSampler(
            log.prompts, log.group_size, config, text_model.estimator if text_model else None, seed
        )
        self._text_model = text_model
        self._position = {prompt.id: position for position, prompt in enumerate(log.prompts)}
        self._batch = batch

    def play(self, tick: Tick, n: int) -> Picks:
        """Pick prompts of a tick in batches worth `batch` groups.

        What cheap probes cost goes off the places of their batch, see `PromptSampler.sample`.
        """
        parts, waiting = [], np.ones(len(tick.prompts), bool)
        while n > 0 and waiting.any():
            worth = min(self._batch, n)
            draws = self.sampler.sample(
                worth, policy_version=tick.clock, among=tick.prompts[waiting]
            )
            rows = np.searchsorted(
                tick.prompts, np.array([self._position[draw.prompt.id] for draw in draws], np.int64)
            )
            n_rollouts_B = np.array([draw.n_rollouts for draw in draws], np.int64)
            self.sampler.observe(
                draws, self._shown(tick, rows, n_rollouts_B), policy_version=tick.clock
            )
            if self._text_model:
                self.sampler.update_estimator(
                    replay_steps=self._text_model.replay_steps,
                    replay_batch=self._text_model.replay_batch,
                )
            parts.append(_picks(tick, rows, draws, n_rollouts_B))
            waiting[rows] = False
            n -= worth
        return Picks.join(parts)

    def _shown(self, tick: Tick, rows: Int64Array, n_rollouts_B: Int64Array) -> Float32Array:
        rewards_BG = recorded_rewards(tick, rows, self.sampler.group_size)
        if (n_rollouts_B == self.sampler.group_size).all():
            return rewards_BG
        lots_AG = _lots(self.sampler.seed, "replay/probe", tick, self.sampler.group_size)
        return subsample(rewards_BG, n_rollouts_B, lots_AG[rows])

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the sampler and, if there is one, of the estimator."""
        estimator = (
            {"estimator": self._text_model.estimator.state_dict()} if self._text_model else {}
        )
        return {"sampler": self.sampler.state_dict(), **estimator}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.sampler.load_state_dict(state["sampler"])
        if self._text_model:
            self._text_model.estimator.load_state_dict(state["estimator"])


class Hindsight:
    """Pick the most probably informative prompts by the belief of an informed sampler.

    That sampler is shown every outcome.

    Args:
        everything: Drives the sampler through all prompts of each tick.
    """

    def __init__(self, everything: SamplerSelector) -> None:
        self._everything = everything

    def play(self, tick: Tick, n: int) -> Picks:
        """Pick by belief; equals are ordered by lot. Then show the whole tick."""
        sampler = self._everything.sampler
        _, p_informative, _ = sampler.beliefs(tick.prompts, policy_version=tick.clock)
        rows = np.lexsort((_lots(sampler.seed, "replay/hindsight", tick)[:, 0], -p_informative))[:n]
        self._everything.play(tick, len(tick.prompts))
        return _reference_picks(tick, rows, p_informative[rows], sampler.group_size)

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state."""
        return self._everything.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._everything.load_state_dict(state)


class Oracle:
    """Picks informative groups first, by lot; no selector can do better.

    Args:
        group_size: The log's.
        seed: Seed of the lots.
    """

    def __init__(self, group_size: int, seed: int) -> None:
        self._group_size, self._seed = group_size, seed

    def play(self, tick: Tick, n: int) -> Picks:
        """Pick with knowledge of this tick's outcomes."""
        rows = np.lexsort((_lots(self._seed, "replay/oracle", tick)[:, 0], ~tick.informative))[:n]
        return _reference_picks(tick, rows, np.full(n, np.nan), self._group_size)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: it has no memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept nothing."""


def replay_config(preset: str, depo: SelectorConfig) -> SelectorConfig:
    """Return the settings of a preset for a replay, without warm-up.

    Warm-up counts training steps; the clock of a replay is the tick.

    Args:
        preset: Name of a preset, or of a reference.
        depo: Settings of preset `depo` and of the belief of `hindsight`.

    Raises:
        ConfigError: Unknown name.
    """
    if preset == "depo":
        return depo
    if preset in REFERENCES:
        return replace(depo, explore_share=0.0, max_age="off", warmup_steps=0)
    if preset not in SELECTOR_PRESETS:
        raise ConfigError(
            f"--selectors: got {preset!r}, expected some of "
            f"{', '.join([*SELECTOR_PRESETS, *REFERENCES])}"
        )
    return SelectorConfig.from_preset(preset, warmup_steps=0)


def reads_text(preset: str, config: SelectorConfig) -> bool:
    """Return whether an estimator makes a difference to what is picked."""
    return preset != "oracle" and rule_traits(config.rule).reads_text


def build_selector(
    preset: str,
    log: RolloutLog,
    config: SelectorConfig,
    *,
    seed: int,
    batch: int = 64,
    text_model: TextModel | None = None,
) -> Selector:
    """Return the selector of a preset's or a reference's name.

    See `SamplerSelector` for the arguments.
    """
    if preset == "oracle":
        return Oracle(log.group_size, seed)
    driven = SamplerSelector(log, config, seed=seed, batch=batch, text_model=text_model)
    return Hindsight(driven) if preset == "hindsight" else driven


def recorded_rewards(tick: Tick, rows: Int64Array, group_size: int) -> Float32Array:
    """Return the recorded outcomes of some rows of a tick as rewards float32 [B, G].

    Successes first, unknown ones NaN.
    """
    rollout = np.arange(group_size)
    rewards_BG = (rollout < tick.successes[rows, None]).astype(np.float32)
    rewards_BG[rollout >= tick.rollouts[rows, None]] = np.nan
    return rewards_BG


def subsample(
    rewards_BG: Float32Array, n_rollouts_B: Int64Array, lots_BG: Float64Array
) -> Float32Array:
    """Return the rewards of `n_rollouts` known rollouts of each group, the rest as NaN.

    Those with the lowest random numbers; all where there are no more.

    With lots drawn evenly the successes among them are hypergeometric: a probe looks at some of the
    rollouts that the group would have had.
    """
    rank_BG = np.where(np.isnan(rewards_BG), np.inf, lots_BG).argsort(axis=1).argsort(axis=1)
    return np.where(rank_BG < n_rollouts_B[:, None], rewards_BG, np.float32(np.nan))


def _picks(tick: Tick, rows: Int64Array, draws: Sequence[Draw], n_rollouts_B: Int64Array) -> Picks:
    return Picks(
        records=tick.first_record + rows,
        p_informative=np.array([draw.p_informative for draw in draws], np.float64),
        probed=np.array([draw.kind in _PROBES for draw in draws], bool),
        n_rollouts=n_rollouts_B,
    )


def _reference_picks(
    tick: Tick, rows: Int64Array, p_informative: Float64Array | Float32Array, group_size: int
) -> Picks:
    return Picks(
        records=tick.first_record + rows,
        p_informative=p_informative.astype(np.float64),
        probed=np.zeros(len(rows), bool),
        n_rollouts=np.full(len(rows), group_size),
    )


def _lots(seed: int, purpose: str, tick: Tick, count: int = 1) -> Float64Array:
    """Return `count` random numbers for each prompt of a tick, float64 [A, count].

    They do not depend on the selector.
    """
    lots = uniforms([derive_key(seed, purpose, tick.index)], 0, len(tick.prompts) * count)
    return lots.reshape(len(tick.prompts), count)
