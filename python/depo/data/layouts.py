"""Find prompt and ground truth in a row: plain files and the layouts of TRL and verl."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from depo.config import SourceConfig
from depo.data.rows import Row
from depo.data.templates import fill_template, require_placeholder
from depo.types.errors import ConfigError, DataError
from depo.types.records import Prompt

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of columns; the first that the row has is used.

    Attributes:
        prompt_columns: The prompt, a string or a chat list of {"role", "content"}.
        answer_columns: The ground truth; a dot enters a nested column.
        answer_required: Whether a row without any of them is an error.
        source_column: Name of the row's data set, unless the configuration names the source.
    """

    prompt_columns: tuple[str, ...]
    answer_columns: tuple[str, ...]
    answer_required: bool = True
    source_column: str = ""


LAYOUTS: Mapping[str, Layout] = {
    "plain": Layout(
        ("prompt", "question", "problem", "text"), ("answer", "solution", "ground_truth", "label")
    ),
    "trl": Layout(
        ("prompt",), ("solution", "answer", "ground_truth", "label"), answer_required=False
    ),
    "verl": Layout(("prompt",), ("reward_model.ground_truth",), source_column="data_source"),
}
"""Layout -> columns. TRL's reward functions may read any column, so the answer is optional."""


def prompts_from_rows(rows: Iterable[Row], source: SourceConfig) -> list[Prompt]:
    """Return one prompt per row, the first `source.count` rows if that is a number.

    Args:
        rows: Rows, each with its place in the file for messages.
        source: Layout, template and names.

    Raises:
        ConfigError: The template cannot be used.
        DataError: A row lacks a column or holds a bad value, or there are no rows or fewer than
            `count`.
    """
    require_placeholder(source.template, ("prompt",))
    wanted = None if source.count == "all" else source.count
    prompts = [_prompt(row, where, source) for where, row in islice(rows, wanted)]
    if len(prompts) < (wanted or 1):
        expected = wanted or "at least 1"
        raise DataError(f"{source.path}: got {len(prompts)} rows, expected {expected}")
    return prompts


def detect_layout(columns: Iterable[str]) -> str:
    """Return the name of the layout of a row with these columns.

    It is verl if `reward_model` exists, trl if `prompt` and `solution` exist without `answer`, else
    plain.
    """
    names = set(columns)
    if "reward_model" in names:
        return "verl"
    return "trl" if {"prompt", "solution"} <= names and "answer" not in names else "plain"


def _prompt(row: Mapping[str, Any], where: str, source: SourceConfig) -> Prompt:
    layout = LAYOUTS[detect_layout(row) if source.layout == "auto" else source.layout]
    prompt_column, prompt = _find(
        row, (source.prompt_column,) if source.prompt_column else layout.prompt_columns, where
    )
    text, messages = _text_and_messages(prompt, f"{where}: {prompt_column}", source)
    try:
        return Prompt(
            text=text,
            answer=_answer(row, where, source, layout),
            source=_source_name(row, where, source, layout),
            band=source.band,
            messages=messages,
            columns=row,
        )
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {prompt_column} or ground truth: got half of a surrogate pair, expected "
            f"valid Unicode"
        ) from error


def _find(row: Mapping[str, Any], paths: tuple[str, ...], where: str) -> tuple[str, Any]:
    for path in paths:
        value: Any = row
        for name in (path,) if path in row else path.split("."):
            value = value[name] if isinstance(value, Mapping) and name in value else _MISSING
        if value is not _MISSING:
            return path, value
    raise DataError(
        f"{where}: {' | '.join(paths)}: no such column; got columns {', '.join(map(str, row))}"
    )


def _text_and_messages(
    prompt: object, where: str, source: SourceConfig
) -> tuple[str, tuple[dict[str, str], ...] | None]:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise DataError(f"{where}: got an empty prompt, expected text")
        text = fill_template(source.template, {"prompt": prompt})
        return text, ({"role": "user", "content": text},) if source.chat else None
    if not isinstance(prompt, list) or not prompt:
        raise DataError(
            f"{where}: got {prompt!r:.80}, expected a string or a non-empty list of chat messages"
        )
    if source.template != "{prompt}":
        raise ConfigError(
            f"{where}: template: got {source.template!r} for a prompt that is a chat list "
            f"already, expected the default {{prompt}}"
        )
    messages = tuple(_message(message, f"{where}[{index}]") for index, message in enumerate(prompt))
    if not any(message["content"].strip() for message in messages):
        raise DataError(f"{where}: got chat messages without any text, expected text")
    return "\n\n".join(message["content"] for message in messages), messages


def _message(message: object, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise DataError(
            f"{where}: got {message!r:.80}, expected a chat message with role and content"
        )
    fields = {name: message.get(name) for name in ("role", "content")}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise DataError(f"{where}.{name}: got {value!r:.80}, expected a string")
    return {name: str(value) for name, value in fields.items()}


def _answer(row: Mapping[str, Any], where: str, source: SourceConfig, layout: Layout) -> Any:
    if (
        not source.answer_column
        and not layout.answer_required
        and not any(column in row for column in layout.answer_columns)
    ):
        return None
    column, answer = _find(
        row, (source.answer_column,) if source.answer_column else layout.answer_columns, where
    )
    if not isinstance(answer, (str, int, float, list, Mapping)):
        raise DataError(
            f"{where}: {column}: got {answer!r:.80}, expected a string, number, list or mapping"
        )
    if isinstance(answer, float) and not math.isfinite(answer):
        raise DataError(f"{where}: {column}: got {answer}, expected a finite number")
    return answer


def _source_name(row: Mapping[str, Any], where: str, source: SourceConfig, layout: Layout) -> str:
    name = (
        source.name
        or (row.get(layout.source_column) if layout.source_column else None)
        or Path(source.path.partition(":")[0]).stem
    )
    if not isinstance(name, str):
        raise DataError(f"{where}: {layout.source_column}: got {name!r:.80}, expected a string")
    return name
