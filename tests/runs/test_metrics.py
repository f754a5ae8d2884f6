"""Metrics, journal and console: rows survive interruption exactly, and say what happened."""

from __future__ import annotations

import io
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from depo.runs.metric_files import Journal, MetricsLog, StepRows
from depo.runs.metric_names import METRICS, TIMINGS, describe
from depo.runs.progress import PLAIN_LINES, RunProgress
from depo.training.stopwatch import Stopwatch
from depo.types.errors import StateError
from depo.types.records import Draw, DrawKind, Prompt, RolloutGroup, Verdict, VerdictStatus


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
        for line in path.read_text().splitlines()
    ]


def metrics_of(step: int) -> dict[str, float]:
    return {
        "reward/mean": step / 7,
        "eval/accuracy": math.nan if step % 3 else 0.5,
        "policy/lr": 1e-6,
    }


def write_steps(directory: Path, steps: range, resume_step: int | None) -> None:
    log, journal = (
        MetricsLog(directory, resume_step=resume_step),
        Journal(directory, resume_step=resume_step),
    )
    for step in steps:
        log.write(step, metrics_of(step), {"time/step": 0.1 * step})
        for draw_id in range(step % 3):
            journal.write(step, *group(draw_id))
    log.close()
    journal.close()


def group(
    draw_id: int,
    rewards: tuple[float, ...] = (1.0, math.nan),
    *,
    kind: DrawKind = DrawKind.EXPLORE,
    n_rollouts: int = 2,
) -> tuple[Draw, RolloutGroup, Any, Verdict]:
    """Return a group of which the first `n_rollouts` responses were generated."""
    draw = Draw(
        draw_id=draw_id,
        prompt=Prompt(text="t", source="s", id="p"),
        predicted_reward=math.nan,
        p_informative=0.5,
        admission=0.25,
        kind=kind,
        n_rollouts=n_rollouts,
        policy_version=3,
    )
    tokens = (np.arange(2, dtype=np.int64),) * n_rollouts
    logprobs = (np.zeros(2, np.float32),) * n_rollouts
    rollouts = RolloutGroup(
        prompt_ids=tokens[0],
        response_ids=tokens,
        rollout_logprobs=logprobs,
        finished=np.ones(n_rollouts, bool),
        responses=("a",) * n_rollouts,
        policy_version=3,
    )
    verdict = Verdict(
        draw_id=draw_id,
        status=VerdictStatus.LABELLED,
        informative=False,
        mean_reward=1.0,
        pass_rate=1.0,
    )
    return draw, rollouts, np.array(rewards, np.float32), verdict


@pytest.mark.parametrize("saved", [0, 4, 8])
@pytest.mark.parametrize("torn", [0, 1, 17])
def test_a_resumed_run_leaves_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, saved: int, torn: int
) -> None:
    write_steps(tmp_path / "whole", range(10), None)
    write_steps(tmp_path / "resumed", range(9), None)
    for path in (tmp_path / "resumed").glob("*.jsonl"):
        content = path.read_bytes()
        lines_of_saved = b"".join(
            line for line in content.splitlines(keepends=True) if json.loads(line)["step"] <= saved
        )
        path.write_bytes(
            content[: max(len(lines_of_saved), len(content) - torn)]
        )  # a kill tears what was written after the checkpoint
    write_steps(tmp_path / "resumed", range(saved + 1, 10), saved)
    for name in ("metrics.jsonl", "timings.jsonl", "journal.jsonl"):
        assert (
            (tmp_path / "resumed" / name).read_bytes()
            == (tmp_path / "whole" / name).read_bytes()
            != b""
        )


def test_a_fresh_run_starts_with_empty_files(tmp_path: Path) -> None:
    write_steps(tmp_path, range(5), None)
    write_steps(tmp_path, range(1), None)
    assert [row["step"] for row in rows_of(tmp_path / "metrics.jsonl")] == [0]
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


def test_damage_before_the_last_row_is_named(tmp_path: Path) -> None:
    write_steps(tmp_path, range(3), None)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"reward/mean": 1}\n' + path.read_bytes())
    with pytest.raises(
        StateError, match=r"metrics.jsonl, line 1: got .*expected a JSON object with a step"
    ):
        StepRows(path, resume_step=2)


@given(
    values=st.dictionaries(
        st.sampled_from(sorted(METRICS)),
        st.floats() | st.integers(-5, 5) | st.floats(width=32).map(np.float32),
        max_size=6,
    ),
    seed=st.integers(0, 9),
)
def test_rows_are_strict_json_in_one_order(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], seed: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    shuffled = list(values.items())
    random.Random(seed).shuffle(shuffled)
    rows = StepRows(path, resume_step=None)
    rows.append({**values, "step": 1})
    rows.append({"step": 1, **dict(shuffled)})
    first, second = path.read_text().splitlines()
    rows.close()
    assert first == second
    found = rows_of(path)[0]
    assert list(found) == sorted(found)
    assert found == {
        "step": 1,
        **{name: float(value) if math.isfinite(value) else None for name, value in values.items()},
    }


def test_the_journal_tells_a_groups_story(tmp_path: Path) -> None:
    journal = Journal(tmp_path, resume_step=None)
    journal.write(4, *group(17))
    journal.close()
    assert rows_of(tmp_path / "journal.jsonl") == [
        {
            "step": 4,
            "draw_id": 17,
            "prompt_id": "p",
            "source": "s",
            "kind": "explore",
            "predicted_reward": None,
            "p_informative": 0.5,
            "admission": 0.25,
            "rewards": [1.0, None],
            "informative": False,
            "status": "labelled",
            "tokens": 4,
            "policy_version": 3,
        }
    ]


def test_the_journal_keeps_of_a_probe_the_rewards_that_it_asked_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path, resume_step=None)
    for draw_id, rewards in enumerate(
        [(1.0, 0.0, math.nan, math.nan), (0.0, math.nan, math.nan, math.nan)]
    ):
        journal.write(4, *group(draw_id, rewards, kind=DrawKind.REPROBE, n_rollouts=2))
    journal.close()
    rows = rows_of(tmp_path / "journal.jsonl")
    assert [(row["kind"], row["rewards"], row["tokens"]) for row in rows] == [
        ("reprobe", [1.0, 0.0], 4),
        ("reprobe", [0.0, None], 4),
    ]


def test_tensorboard_reads_the_same_values(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_steps(tmp_path, range(6), None)
    write_steps(tmp_path, range(4, 8), 3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("reward/mean")
    assert [event.step for event in events] == list(range(8))
    assert [event.value for event in events] == pytest.approx(
        [metrics_of(step)["reward/mean"] for step in range(8)]
    )


def test_the_stopwatch_adds_up_cpu_seconds_and_starts_again() -> None:
    stopwatch = Stopwatch()
    with pytest.raises(KeyError), stopwatch("time/step"):
        for _ in range(2):
            with stopwatch("time/rollout"):
                start = time.process_time()
                while time.process_time() < start + 0.02:
                    pass
        with stopwatch("time/reward"):
            time.sleep(0.2)
        raise KeyError
    seconds = stopwatch.take()
    assert (
        seconds["time/step"]
        >= seconds["time/rollout"] + seconds["time/reward"]
        >= seconds["time/rollout"]
        >= 0.04
    )
    assert seconds["time/reward"] < 0.1, "waiting is not computing"
    assert stopwatch.take() == {}


def test_a_part_does_not_count_the_parts_within_it_but_the_whole_does() -> None:
    def work(seconds: float) -> None:
        start = time.process_time()
        while time.process_time() < start + seconds:
            pass

    stopwatch = Stopwatch()
    with stopwatch("time/step"):
        with stopwatch("time/select"):
            work(0.01)
            for _ in range(2):
                with stopwatch("time/predict"):
                    work(0.05)
        with stopwatch("time/observe"):
            work(0.01)
    seconds = stopwatch.take()
    assert (
        0.01 <= seconds["time/select"] < seconds["time/predict"] / 2
        and seconds["time/predict"] >= 0.1
    )
    parts = seconds["time/select"] + seconds["time/predict"] + seconds["time/observe"]
    assert parts <= seconds["time/step"] < parts + 0.05


def test_every_metric_is_explained() -> None:
    assert all(metric.unit and metric.meaning for metric in METRICS.values()) and all(
        TIMINGS.values()
    )
    assert "frontier" in describe("eval/accuracy/frontier").meaning
    for name in ("eval/accuracy/", "reward/meen"):
        with pytest.raises(KeyError):
            describe(name)


def shown(total: int, steps: range, *, terminal: bool, done: int = 0) -> str:
    out = io.StringIO()
    with RunProgress(
        "run",
        total,
        done=done,
        console=Console(file=out, force_terminal=terminal, width=120, highlight=False),
    ) as progress:
        for step in steps:
            progress.update(
                step,
                {
                    "reward/mean": 0.25,
                    "rollout/informative_share": 0.5,
                    "selection/sequences_saved_total": math.nan,
                },
            )
    return out.getvalue()


def test_plain_lines_without_a_terminal() -> None:
    lines = shown(200, range(1, 201), terminal=False).splitlines()
    assert len(lines) == PLAIN_LINES
    assert lines[-1].startswith("step 200/200  reward 0.250  informative 50%  ETA 0:00:00")
    assert shown(3, range(3, 4), terminal=False, done=2).startswith("step 3/3")
    assert "step 0/3" in shown(3, range(1), terminal=False)


def test_a_live_line_on_a_terminal() -> None:
    text = shown(5, range(1, 6), terminal=True)
    assert "5/5" in text and "reward 0.250" in text and "step 5/5" not in text
