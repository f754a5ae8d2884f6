"""Load prompts from JSONL, Parquet, the Hugging Face Hub and reasoning-gym."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from depo.config import SourceConfig
from depo.data.layouts import prompts_from_rows
from depo.data.rows import read_rows
from depo.data.tasks import check_seed_overlap, generate_prompts
from depo.types.errors import ConfigError
from depo.types.records import Prompt

__all__ = ["check_seed_overlap", "load_prompts", "without_trained"]

logger = logging.getLogger(__name__)


def load_prompts(
    sources: Sequence[SourceConfig], *, report_duplicates: bool = True
) -> list[Prompt]:
    """Return the prompts of all sources, in order.

    Prompts with equal id (same source name, text and answer) are merged into the first one; a
    warning gives their number.

    Args:
        sources: Files, Hub data sets or reasoning-gym tasks.
        report_duplicates: Whether to log merged prompts.

    Raises:
        ConfigError: A source has neither or both of `path` and `task`, an unknown task or knob, or
            a template without placeholder.
        DataError: A file cannot be read as prompts; the message names file, line and field.
        ImportError: The optional package that a source needs is not installed.
    """
    return _merge_duplicates(
        [prompt for position, source in enumerate(sources) for prompt in _load(source, position)],
        report_duplicates,
    )


def without_trained(held_out: Iterable[Prompt], train: Iterable[Prompt]) -> list[Prompt]:
    """Return the held-out prompts that share no text and answer with a training prompt."""
    trained_on = {(prompt.text, str(prompt.answer)) for prompt in train}
    return [prompt for prompt in held_out if (prompt.text, str(prompt.answer)) not in trained_on]


def _load(source: SourceConfig, position: int) -> list[Prompt]:
    if bool(source.path) == bool(source.task):
        raise ConfigError(
            f"data source {position}: got path={source.path!r} and task={source.task!r}, expected "
            f"exactly one of them"
        )
    if source.task:
        return generate_prompts(source)
    return prompts_from_rows(read_rows(source.path), source)


def _merge_duplicates(prompts: Sequence[Prompt], report: bool) -> list[Prompt]:
    first_by_id: dict[str, Prompt] = {}
    repeats_by_source: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        if prompt.id in first_by_id:
            repeats_by_source.setdefault(prompt.source, []).append(prompt)
        else:
            first_by_id[prompt.id] = prompt
    for source, repeats in repeats_by_source.items() if report else ():
        logger.warning(
            "source %s: merged %d duplicate prompts (same text and answer), the first being %.80r",
            source,
            len(repeats),
            repeats[0].text,
        )
    return list(first_by_id.values())
