"""Which trainer wrote a log, and how its files become a `RolloutLog`.

pass_rates   rows with n_correct_by_visit: every prompt's outcome at every epoch (JSONL or Parquet)
depo         directory of a depo-train run: journal.jsonl, config.toml verl         what verl's
trainer.rollout_data_dir collects: one row per response with input, score, step (STEP.jsonl or
Parquet) prime_rl     output directory of prime-rl:
rollouts/step_N/train/{all,effective}/traces.jsonl, one episode per row
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from depo.data.rows import JSONL_SUFFIXES, PARQUET_SUFFIXES, read_rows
from depo.replay.fields import integer, mapping, number, require, sequence, text_or_empty
from depo.replay.log import GroupCollector, Record, RolloutLog
from depo.replay.run_journal import JOURNAL_FILE, read_run
from depo.types.errors import DataError
from depo.types.records import Prompt

Files = Sequence[Path]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one layout is told and read.

    Attributes:
        columns: Columns that a row of it has, and of no other layout all.
        read: Files and success threshold -> log.
    """

    columns: frozenset[str]
    read: Callable[[Files, float], RolloutLog]


def read_log(
    paths: Sequence[Path], *, success_threshold: float = 0.5, with_texts: bool = False
) -> RolloutLog:
    """Return several files or directories of one layout as one log.

    Args:
        paths: JSONL or Parquet files, directories of such, or one directory of a depo-train run.
        success_threshold: A reward at or above this is a success; a depo-train run has its own.
        with_texts: Look up the prompt texts of a depo-train run, whose journal has none, in its
            data sources.

    Raises:
        DataError: Unknown or mixed layouts, or a damaged file; the message names file, line and
            field.
    """
    if not paths:
        raise DataError("LOG: got none, expected at least one file or directory")
    runs = [run for path in paths if (run := _run_directory(path))]
    if runs:
        if len(paths) > 1:
            raise DataError(
                f"LOG: got {len(paths)} logs, expected one where it is the run {runs[0]}: two "
                f"runs are not one policy's history"
            )
        return read_run(runs[0], with_texts=with_texts)
    files = [file for path in paths for file in _files(path)]
    found = {file: _detect(file) for file in files}
    if len(names := sorted(set(found.values()))) > 1:
        raise DataError(f"LOG: got files of the layouts {' and '.join(names)}, expected one layout")
    return LAYOUTS[names[0]].read(files, success_threshold)


def _run_directory(path: Path) -> Path | None:
    directory = path.parent if path.name == JOURNAL_FILE else path
    return directory if (directory / JOURNAL_FILE).is_file() else None


def _files(path: Path) -> list[Path]:
    """Return the log files that a path stands for, steps in order.

    Of prime-rl's two subsets the one without a selection.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or directory")
    episodes = [*path.glob("**/train/all/traces.jsonl")] or [
        *path.glob("**/train/effective/traces.jsonl")
    ]
    files = episodes or [
        file
        for file in path.iterdir()
        if file.suffix in JSONL_SUFFIXES + PARQUET_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        expected = (
            f"{JOURNAL_FILE}, STEP.jsonl, rollouts/step_N/train/all/traces.jsonl or rows "
            f"with n_correct_by_visit"
        )
        raise DataError(f"{path}: got a directory without a rollout log, expected {expected}")
    return sorted(
        files,
        key=lambda file: [
            int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file))
        ],
    )


def _detect(file: Path) -> str:
    """Return the layout of a file by the columns of its first row."""
    for _, row in islice(read_rows(str(file)), 1):
        for name, layout in LAYOUTS.items():
            if layout.columns <= set(row):
                return name
        expected = "; ".join(
            f"{name}: {', '.join(sorted(layout.columns))}" for name, layout in LAYOUTS.items()
        )
        raise DataError(
            f"{file}: got columns {', '.join(map(str, row))}, expected those of a known layout "
            f"({expected})"
        )
    raise DataError(f"{file}: got no rows, expected a rollout log")


def _rows(files: Files) -> Iterator[tuple[str, dict[str, Any]]]:
    return (row for file in files for row in read_rows(str(file)))


def _read_pass_rates(files: Files, _success_threshold: float) -> RolloutLog:
    prompts: dict[str, Prompt] = {}
    counts: list[list[int]] = []
    sizes = set()
    for where, row in _rows(files):
        size = integer(row, "group_size", where, least=2)
        visits = sequence(row, "n_correct_by_visit", where)
        counts.append(
            [
                integer(
                    {f"n_correct_by_visit[{i}]": count},
                    f"n_correct_by_visit[{i}]",
                    where,
                    most=size,
                )
                for i, count in enumerate(visits)
            ]
        )
        prompt = Prompt(
            text=text_or_empty(row, "question", where), id=text_or_empty(row, "id", where)
        )
        require(prompt.id not in prompts, where, "id", prompt.id, "distinct ids")
        require(bool(visits), where, "n_correct_by_visit", visits, "at least one visit")
        sizes.add(size)
        require(len(sizes) == 1, where, "group_size", size, f"{min(sizes)} as in the rows before")
        prompts[prompt.id] = prompt
    n_visits, longest = min(map(len, counts)), max(map(len, counts))
    records = [
        Record(visit, position, visits[visit], size)
        for position, visits in enumerate(counts)
        for visit in range(n_visits)
    ]
    notes = (
        [f"only the first {n_visits} visits count: some prompt has no more, others up to {longest}"]
        if longest > n_visits
        else []
    )
    return RolloutLog.of("pass_rates", "epochs", [*prompts.values()], size, records, notes=notes)


def _read_verl(files: Files, success_threshold: float) -> RolloutLog:
    """A group is the responses to one input within a step.

    `acc`, where the reward function reports it, says what a success is, else `score`.
    """
    collector = GroupCollector()
    for where, row in _rows(files):
        judged = "acc" if isinstance(row.get("acc"), (bool, int, float)) else "score"
        success = number(row, judged, where) >= success_threshold
        prompt = Prompt(text=text_or_empty(row, "input", where))
        collector.add(integer(row, "step", where), prompt, [success])
    return collector.build("verl")


def _read_prime_rl(files: Files, success_threshold: float) -> RolloutLog:
    """A group is the episodes with one group id.

    Its step is the last one that an episode of it was recorded at.
    """
    groups: dict[str, tuple[int, Prompt, list[bool]]] = {}
    for file in files:
        step = re.search(r"step_(\d+)", str(file))
        if step is None:
            raise DataError(
                f"{file}: got a file outside of rollouts/step_N, expected the path that prime-rl "
                f"gave it"
            )
        for where, episode in read_rows(str(file)):
            prompt = _prime_rl_prompt(mapping(episode, "task", where), where)
            group = episode.get("group")
            name = (
                str(group["id"])
                if isinstance(group, Mapping) and "id" in group
                else f"step {step[1]}, {prompt.id}"
            )
            known = groups.get(name, (0, prompt, []))[2]
            groups[name] = (
                int(step[1]),
                prompt,
                known + _prime_rl_outcomes(episode, where, success_threshold),
            )
    collector = GroupCollector()
    for clock, prompt, outcomes in groups.values():
        collector.add(clock, prompt, outcomes)
    return collector.build("prime_rl")


def _prime_rl_prompt(task: Mapping[str, Any], where: str) -> Prompt:
    """Return the task's opening text under its identity.

    Parts of a message that are no text are left out.
    """
    content = mapping(task, "data", where)
    opening = content.get("prompt") or ""
    messages = (
        [{"content": opening}]
        if isinstance(opening, str)
        else [message for message in opening if isinstance(message, Mapping)]
    )
    text = "\n\n".join(
        filter(None, (_message_text(message.get("content")) for message in messages))
    )
    identity = text_or_empty(task, "key", where) or text_or_empty(task, "hash", where)
    require(
        bool(identity or text),
        where,
        "task.key",
        task.get("key"),
        "a task with a key, a hash or a prompt",
    )
    return Prompt(text=text, id=identity)


def _message_text(content: object) -> str:
    """Return the text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(
        str(part["text"])
        for part in parts
        if isinstance(part, Mapping) and part.get("type") == "text"
    )


def _prime_rl_outcomes(
    episode: Mapping[str, Any], where: str, success_threshold: float
) -> list[bool]:
    """Return whether each rollout of an episode succeeded: trainable traces without an error.

    A reward is the weighted sum of the named ones.
    """
    outcomes = []
    for trace in sequence(episode, "traces", where):
        require(isinstance(trace, Mapping), where, "traces", trace, "objects")
        trainable = not isinstance(agent := trace.get("agent"), Mapping) or agent.get(
            "trainable", True
        )
        rewards = [
            reward
            for reward in mapping(trace, "rewards", where).values()
            if isinstance(reward, Mapping)
        ]
        if trace.get("ok") and trainable and rewards:
            total = sum(
                number(reward, "score", where) * number({"weight": 1.0, **reward}, "weight", where)
                for reward in rewards
            )
            outcomes.append(total >= success_threshold)
    return outcomes


LAYOUTS: Mapping[str, Layout] = {
    "pass_rates": Layout(frozenset({"group_size", "n_correct_by_visit"}), _read_pass_rates),
    "verl": Layout(frozenset({"input", "score", "step"}), _read_verl),
    "prime_rl": Layout(frozenset({"task", "traces"}), _read_prime_rl),
}
"""Name -> layout of plain files; directories of depo-train are told by their journal."""
