"""Check a trainer class, its settings and its data set before the first step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset, IterableDataset
from trl import __version__

from depo.config import SelectorConfig
from depo.data.layouts import LAYOUTS
from depo.types.errors import ConfigError, DataError

HOOKS: Mapping[str, tuple[str, ...]] = {
    "_generate_and_score_completions": ("inputs",),
    "_generate": ("prompts",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_save_optimizer_and_scheduler": ("output_dir",),
    "_load_optimizer_and_scheduler": ("checkpoint",),
}
"""Methods of GRPOTrainer that the adapter overrides, and their arguments.

They are private, so another version of TRL may have changed them.
"""


def check_hooks(trainer_class: type) -> None:
    """Check that a trainer class has the methods that the adapter overrides.

    Raises:
        ImportError: A method is missing or takes other arguments; the message names it and TRL's
            version.
    """
    for name, expected in HOOKS.items():
        method = getattr(trainer_class, name, None)
        got = tuple(inspect.signature(method).parameters)[1:] if method else None
        if got != expected:
            found = "no such method" if got is None else f"arguments {', '.join(got)}"
            raise ImportError(
                f"trl {__version__}: {trainer_class.__name__}.{name}: got {found}, expected "
                f"arguments {', '.join(expected)}; depo overrides it"
            )


def check_backfill(trainer: Any, selector: SelectorConfig) -> None:
    """Check that depo can generate again for this trainer, if backfill is on.

    Raises:
        ConfigError: The trainer generates with environments or a rollout function.
    """
    owners = {
        "environment_factory": trainer.environment_factories,
        "rollout_func": trainer.rollout_func,
    }
    given = [name for name, value in owners.items() if value is not None]
    if selector.backfill and given:
        raise ConfigError(
            f"selector.backfill: got True together with {given[0]}, expected False: depo cannot "
            f"generate again with it"
        )


def reward_column(trainer: Any, name: str | None) -> int | None:
    """Return the index of the reward function with this name; None for no name.

    Raises:
        ConfigError: No function has this name, or several have it.
    """
    names = trainer.reward_func_names
    if name is not None and names.count(name) != 1:
        raise ConfigError(
            f"informative_reward: got {name!r}, expected one that occurs once among "
            f"{', '.join(names)}"
        )
    return None if name is None else int(names.index(name))


def identifying_rows(dataset: Dataset | IterableDataset) -> Iterator[dict[str, Any]]:
    """Yield the columns of each row that identify its prompt.

    Raises:
        ConfigError: The data set cannot be indexed, or has images.
        DataError: It has no prompts.
    """
    if isinstance(dataset, IterableDataset):
        raise ConfigError(
            "train_dataset: got an IterableDataset, expected one that can be indexed: depo draws "
            "rows in any order"
        )
    columns = dataset.column_names
    if "prompt" not in columns:
        raise DataError(
            f"train_dataset: got columns {', '.join(columns)}, expected prompt among them"
        )
    if images := sorted({"image", "images"} & set(columns)):
        raise ConfigError(
            f"train_dataset: got column {images[0]}, expected text alone: depo cannot tell "
            f"prompts apart by their images"
        )
    known = {*LAYOUTS["trl"].prompt_columns, *LAYOUTS["trl"].answer_columns}
    needed = [name for name in columns if name in known]  # others may be costly to read
    for row in dataset.select_columns(needed):
        yield {name: value for name, value in row.items() if value is not None}
