"""Generate prompts with reasoning-gym.

Item i of a task depends only on its settings and on seed + i.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from depo.config import SourceConfig
from depo.data.templates import PLACEHOLDER, fill_template, require_placeholder
from depo.types.errors import ConfigError, install_hint
from depo.types.records import Prompt

_EVALUATES = "its scorer evaluates the response as Python code"
REFUSED_TASKS: Mapping[str, str] = {
    "game_of_life_halting": "its scorer gives full marks to almost any text",
    "coin_flip": "its scorer gives full marks to any prefix of the answer, so that '0' solves "
    "everything",
    "puzzle24": "its scorer never looks at the numbers that were given, so that one expression "
    "solves every puzzle",
    "simple_integration": _EVALUATES,
    "intermediate_integration": _EVALUATES,
    "polynomial_multiplication": _EVALUATES,
}
"""Task families whose scorers a trained policy could exploit (reasoning-gym 0.1.25) -> why."""


def generate_prompts(source: SourceConfig) -> list[Prompt]:
    """Return `source.count` prompts of the task `source.task`.

    `Prompt.columns` holds what the reward needs: task, knobs and entry (question, answer,
    metadata). Besides {prompt}, the template may name metadata of the entry. {expression}, for
    example, leaves out the task's English text.

    Raises:
        ConfigError: Unknown or refused task, bad knobs, no count, or a placeholder that is
            neither prompt nor a key of the metadata.
        ImportError: reasoning-gym is not installed.
    """
    dataset = _create_dataset(source)
    return [_prompt(dataset[index], source) for index in range(size_of(source))]


def size_of(source: SourceConfig) -> int:
    """Return the number of prompts of a task.

    Raises:
        ConfigError: The count is "all"; a task has no natural end.
    """
    if source.count == "all":
        raise ConfigError(
            f"task {source.task}: count: got 'all', expected a number (a task has no natural end)"
        )
    return source.count


def check_seed_overlap(
    train_sources: Sequence[SourceConfig], eval_sources: Sequence[SourceConfig]
) -> None:
    """Check that held-out sources share no reasoning-gym items with the training pool.

    Items of two sources of one task are equal if seed + i is equal. The ranges [seed, seed + count)
    must not overlap.

    Raises:
        ConfigError: Two ranges of the same task overlap.
    """
    for train in train_sources:
        for held_out in eval_sources:
            if not train.task or train.task != held_out.task:
                continue
            end = min(train.seed + size_of(train), held_out.seed + size_of(held_out))
            if max(train.seed, held_out.seed) < end:
                ranges = " and eval seeds ".join(
                    f"{source.seed}..{source.seed + size_of(source) - 1}"
                    for source in (train, held_out)
                )
                raise ConfigError(
                    f"task {train.task}: seed: got train seeds {ranges}, expected ranges that do "
                    f"not overlap"
                )


def _create_dataset(source: SourceConfig) -> Any:
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise ImportError(
            f"task {source.task}: needs the package reasoning-gym: {install_hint('train')}"
        ) from error
    if source.task in REFUSED_TASKS:
        raise ConfigError(f"task {source.task}: refused, because {REFUSED_TASKS[source.task]}")
    if source.task not in DATASETS:
        near = difflib.get_close_matches(source.task, DATASETS, n=3)
        raise ConfigError(
            f"task: got {source.task!r}, which reasoning-gym does not have; expected "
            f"{'one such as ' + ', '.join(near) if near else 'a task family'}"
        )
    known = {field.name for field in dataclasses.fields(DATASETS[source.task][1])} - {
        "seed",
        "size",
    }
    unknown = sorted(set(source.knobs) - known)
    if unknown:
        raise ConfigError(
            f"task {source.task}: knobs: got {', '.join(unknown)}, expected some of "
            f"{', '.join(sorted(known))}"
        )
    try:
        return create_dataset(source.task, seed=source.seed, size=size_of(source), **source.knobs)
    except Exception as error:
        raise ConfigError(
            f"task {source.task}: knobs: got {dict(source.knobs)}, which it refuses: "
            f"{type(error).__name__}: {error}"
        ) from error


def _prompt(entry: dict[str, Any], source: SourceConfig) -> Prompt:
    values = {**entry["metadata"], "prompt": entry["question"]}
    unknown = [
        match[1] for match in PLACEHOLDER.finditer(source.template) if match[1] not in values
    ]
    if unknown:
        raise ConfigError(
            f"task {source.task}: template: got placeholder {{{unknown[0]}}}, expected "
            f"{', '.join(f'{{{name}}}' for name in sorted(values))}"
        )
    require_placeholder(source.template, values)
    text = fill_template(source.template, values)
    columns: dict[str, Any] = {"task": source.task, "knobs": dict(source.knobs), "entry": entry}
    messages = ({"role": "user", "content": text},) if source.chat else None
    return Prompt(
        text=text,
        answer=entry["answer"],
        source=source.name or source.task,
        band=source.band,
        messages=messages,
        columns=columns,
    )
