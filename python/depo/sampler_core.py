"""The Rust core that a pool and a configuration make, and the texts of its prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo import _core
from depo.config.selector import SelectorConfig
from depo.errors import ConfigError
from depo.prompt_table import PoolIndex, PromptTable
from depo.records import Int64Array, Prompt

CORE_SETTINGS = (
    "policy", "policy_options", "warmup_steps", "window", "candidates_per_draw", "candidates_from", "min_age", "explore_share", "explore_by", "max_age",
    "probe_rollouts", "reprobe_share", "scan_cap", "use_history", "belief", "belief_options", "fit_belief", "success_threshold", "tolerance",
    "replay_capacity", "max_target_weight",
)  # fmt: skip
"""Settings that the core takes under the names they have in SelectorConfig."""


def pool_of(prompts: Sequence[Prompt | str]) -> Sequence[Prompt]:
    """Return a table as it is, anything else as a tuple of prompts.

    Raises:
        ValueError: There is no prompt.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"prompts: got {prompts!r:.80}, expected a sequence of at least one Prompt or string")
    return prompts if isinstance(prompts, PromptTable) else tuple(Prompt(text=prompt) if isinstance(prompt, str) else prompt for prompt in prompts)


def texts_of(pool: Sequence[Prompt], positions: Int64Array) -> list[str]:
    """Return the texts at some positions; of a table no prompts are made for it."""
    return pool.texts(positions) if isinstance(pool, PromptTable) else [pool[position].text for position in positions]


def build_core(pool: Sequence[Prompt], group_size: int, config: SelectorConfig, seed: int) -> _core.Sampler:
    """Return the core for a pool.

    Raises:
        ConfigError: A floor for a source that no prompt has.
        ValueError: Two prompts with the same id, or a setting out of its range.
    """
    index = pool.pool_index() if isinstance(pool, PromptTable) else _index(pool)
    if unknown := set(config.source_floors) - set(index.source_names):
        raise ConfigError(f"selection.source_floors: got {sorted(unknown)}, expected sources of the pool: {', '.join(index.source_names)}")
    return _core.Sampler(
        index.ids,
        index.sources,
        group_size=group_size,
        seed=seed,
        source_floors=np.array([config.source_floors.get(source, 0.0) for source in index.source_names], dtype=np.float32),
        **{name: getattr(config, name) for name in CORE_SETTINGS},
    )


def _index(prompts: Sequence[Prompt]) -> PoolIndex:
    names = sorted({prompt.source for prompt in prompts})
    place_of = {name: place for place, name in enumerate(names)}
    sources = np.array([place_of[prompt.source] for prompt in prompts], dtype=np.uint32)
    return PoolIndex(_core.content_ids([prompt.id for prompt in prompts]), sources, names)
