"""The Rust core that a pool and a configuration make.

Also what it says of the pool's prompts as records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from depo import _core
from depo.config.selector import SelectorConfig
from depo.sampler.prompt_table import PoolIndex, PromptTable
from depo.types.errors import ConfigError
from depo.types.records import Draw, DrawKind, Int64Array, Prompt

DRAW_KINDS = (DrawKind.SELECTED, DrawKind.WARMUP, DrawKind.EXPLORE, DrawKind.REPROBE, DrawKind.FILL)
CORE_SETTINGS = (
    "rule",
    "rule_options",
    "warmup_steps",
    "window",
    "candidates_per_draw",
    "candidates_from",
    "min_age",
    "explore_share",
    "explore_by",
    "max_age",
    "probe_rollouts",
    "reprobe_share",
    "scan_cap",
    "use_history",
    "belief",
    "belief_options",
    "fit_belief",
    "success_threshold",
    "tolerance",
    "replay_capacity",
    "max_target_weight",
)
"""Settings that the core takes under the names they have in SelectorConfig."""


class RuleTraits(NamedTuple):
    """What a selection rule needs and does, as the core says.

    Attributes:
        compares_candidates: Scores several candidates for each prompt that it draws.
        searches_pool: Can find its candidates in the whole pool.
        reads_text: Its choice depends on the text predictions.
    """

    compares_candidates: bool
    searches_pool: bool
    reads_text: bool


def rule_traits(rule: str) -> RuleTraits:
    """Return what a selection rule needs and does."""
    return RuleTraits(*_core.rule_traits()[rule])


def pool_of(prompts: Sequence[Prompt | str]) -> Sequence[Prompt]:
    """Return a table as it is, anything else as a tuple of prompts.

    Raises:
        ValueError: There is no prompt.
    """
    if hasattr(prompts, "__arrow_c_stream__") or hasattr(prompts, "__arrow_c_array__"):
        raise ValueError(
            f"prompts: got {type(prompts).__qualname__}, expected a sequence of Prompt or "
            f"strings, or PromptTable.from_arrow(...) of it"
        )
    if isinstance(prompts, (str, Mapping)) or not len(prompts):
        raise ValueError(
            f"prompts: got {prompts!r:.80}, expected a sequence of at least one Prompt or string"
        )
    if isinstance(prompts, PromptTable):
        return prompts
    pool = tuple(Prompt(text=prompt) if isinstance(prompt, str) else prompt for prompt in prompts)
    if (
        other := next(
            (row for row, prompt in enumerate(pool) if not isinstance(prompt, Prompt)), None
        )
    ) is not None:
        raise ValueError(
            f"prompts: got {pool[other]!r:.80} at position {other}, expected a Prompt or a string"
        )
    return pool


def texts_of(pool: Sequence[Prompt], positions: Int64Array) -> list[str]:
    """Return the texts at some positions; of a table no prompts are made for it."""
    return (
        pool.texts(positions)
        if isinstance(pool, PromptTable)
        else [pool[position].text for position in positions]
    )


def draws_of(
    pool: Sequence[Prompt], taken: Mapping[str, Any], policy_versions: Int64Array
) -> list[Draw]:
    """Return the core's columns of draws as records."""
    return [
        Draw(
            draw_id=int(taken["draw_ids"][row]),
            prompt=pool[taken["prompts"][row]],
            predicted_reward=float(taken["predicted_rewards"][row]),
            p_informative=float(taken["p_informative"][row]),
            admission=float(taken["admissions"][row]),
            kind=DRAW_KINDS[taken["kinds"][row]],
            n_rollouts=int(taken["n_rollouts"][row]),
            policy_version=int(policy_versions[row]),
        )
        for row in range(len(taken["draw_ids"]))
    ]


def build_core(
    pool: Sequence[Prompt], group_size: int, config: SelectorConfig, seed: int
) -> _core.Sampler:
    """Return the core for a pool.

    Raises:
        ConfigError: A floor for a source that no prompt has.
        ValueError: Two prompts with the same id, or a setting out of its range.
    """
    index = pool.pool_index() if isinstance(pool, PromptTable) else _index(pool)
    if unknown := set(config.source_floors) - set(index.source_names):
        raise ConfigError(
            f"selection.source_floors: got {sorted(unknown)}, expected sources of the pool: "
            f"{', '.join(index.source_names)}"
        )
    return _core.Sampler(
        index.ids,
        index.sources,
        group_size=group_size,
        seed=seed,
        source_floors=np.array(
            [config.source_floors.get(source, 0.0) for source in index.source_names],
            dtype=np.float32,
        ),
        **core_settings(config),
    )


def core_settings(config: SelectorConfig) -> dict[str, Any]:
    """Return the core's settings; where the configuration has a word, the core has 0."""
    return {name: getattr(config, name) for name in CORE_SETTINGS} | {
        "max_age": 0 if config.max_age == "off" else config.max_age,
        "probe_rollouts": 0 if config.probe_rollouts == "all" else config.probe_rollouts,
    }


def _index(prompts: Sequence[Prompt]) -> PoolIndex:
    names = sorted({prompt.source for prompt in prompts})
    place_of = {name: place for place, name in enumerate(names)}
    sources = np.array([place_of[prompt.source] for prompt in prompts], dtype=np.uint32)
    return PoolIndex(_core.content_ids([prompt.id for prompt in prompts]), sources, names)
