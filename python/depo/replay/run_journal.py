"""The journal of a depo-train run as a rollout log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depo.config import SelectorConfig
from depo.replay.fields import integer, number, require, sequence, text_or_empty
from depo.replay.log import GroupCollector, RolloutLog
from depo.runs.metric_files import read_rows
from depo.types.errors import DataError
from depo.types.records import Prompt, VerdictStatus

JOURNAL_FILE, CONFIG_FILE = "journal.jsonl", "config.toml"


def read_run(directory: Path, *, with_texts: bool) -> RolloutLog:
    """Return the groups that a run rolled out, weighted by 1 / admission.

    A row with fewer rewards than others is a cheap probe. It is left out: a few rollouts of a
    prompt do not say whether its group would be informative.

    Args:
        directory: Directory of the run; without its config.toml the defaults say what a success is.
        with_texts: Whether to look up prompt texts in the run's data sources.

    Raises:
        DataError: A row lacks a field or holds a bad value, or the sources no longer hold the
            prompts.
        StateError: A row is no JSON object.
    """
    selection = _selection(directory)
    texts = _texts(directory) if with_texts else {}
    collector = GroupCollector()
    rows = read_rows(directory / JOURNAL_FILE)
    sizes = [
        len(sequence(row, "rewards", f"{directory / JOURNAL_FILE}, line {line}"))
        for line, row in enumerate(rows, start=1)
    ]
    group_size = max(sizes, default=0)
    for line, (row, size) in enumerate(zip(rows, sizes, strict=True), start=1):
        where = f"{directory / JOURNAL_FILE}, line {line}"
        prompt, weight = _drawn(row, where, texts if with_texts else None)
        if size == group_size and row.get("status") == VerdictStatus.LABELLED:
            outcomes = _outcomes(row, where, selection.success_threshold)
            collector.add(integer(row, "step", where), prompt, outcomes, weight)
    covers_pool = selection.measures_rejects
    probes = sum(size < group_size for size in sizes)
    note = f"{probes} probes with fewer than {group_size} rollouts are left out"
    notes = [note] if probes else []
    return collector.build("depo", group_size=group_size, covers_pool=covers_pool, notes=notes)


def _drawn(
    row: Mapping[str, Any], where: str, texts: Mapping[str, str] | None
) -> tuple[Prompt, float]:
    """Return a row's prompt and 1 / admission."""
    prompt_id = text_or_empty(row, "prompt_id", where)
    admission = number(row, "admission", where)
    expected = "a text that is not empty"
    require(bool(prompt_id), where, "prompt_id", row.get("prompt_id"), expected)
    require(0.0 < admission <= 1.0, where, "admission", admission, "a probability in (0, 1]")
    expected = f"a prompt of the sources in {CONFIG_FILE}, to know its text"
    require(texts is None or prompt_id in texts, where, "prompt_id", prompt_id, expected)
    source = text_or_empty(row, "source", where) or "default"
    return Prompt(text=(texts or {}).get(prompt_id, ""), id=prompt_id, source=source), 1 / admission


def _outcomes(row: Mapping[str, Any], where: str, success_threshold: float) -> list[bool]:
    """Return whether each known reward is a success."""
    known = [
        {"rewards": reward} for reward in sequence(row, "rewards", where) if reward is not None
    ]
    return [number(reward, "rewards", where) >= success_threshold for reward in known]


def _selection(directory: Path) -> SelectorConfig:
    path = directory / CONFIG_FILE
    if not path.is_file():
        return SelectorConfig()
    from depo.config import load_config

    return load_config(path).selection


def _texts(directory: Path) -> dict[str, str]:
    """Return prompt id -> text of the pool that the run drew from, made anew from its sources."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise DataError(
            f"{path}: no such file, expected the run's configuration: prompt texts are made anew "
            f"from the data sources in it"
        )
    from depo.config import load_config
    from depo.data import load_prompts

    return {
        prompt.id: prompt.text
        for prompt in load_prompts(load_config(path).data.train, report_duplicates=False)
    }
