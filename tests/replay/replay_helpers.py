"""Rollout logs made up for the tests of replays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

from depo.config.selector import SelectorConfig
from depo.replay import Replay, RolloutLog, build_selector
from depo.replay.log import Record
from depo.replay.selectors import replay_config
from depo.types.records import Prompt

G = 4
DEPO = SelectorConfig.from_preset("depo", warmup_steps=0)

Group = tuple[int, str, int, int, float]
"""Clock, prompt id, successes, rollouts, weight."""


def epochs_log(successes_NK: Any, group_size: int = G) -> RolloutLog:
    """Return a log in which every prompt has an outcome at every tick."""
    n, ticks = np.shape(successes_NK)
    prompts = [Prompt(text=f"prompt {position}", id=f"p{position}") for position in range(n)]
    records = [
        Record(tick, position, int(successes_NK[position][tick]), group_size)
        for position in range(n)
        for tick in range(ticks)
    ]
    return RolloutLog.of("made_up", "epochs", prompts, group_size, records)


def random_log(n: int = 30, ticks: int = 6, seed: int = 0) -> RolloutLog:
    """Return a log of prompts of lasting difficulty."""
    rng = np.random.default_rng(seed)
    pass_rates_N = rng.beta(0.4, 0.4, n)
    return epochs_log(rng.binomial(G, pass_rates_N[:, None], (n, ticks)))


@st.composite
def step_logs(draw: st.DrawFn) -> RolloutLog:
    """Draw a log of some prompts at each of some steps.

    With weights and groups that are partly unknown.
    """
    n = draw(st.integers(1, 6))
    prompts = [Prompt(text="", id=f"p{position}") for position in range(n)]
    records = []
    for clock in draw(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True)):
        for position in draw(st.sets(st.integers(0, n - 1), min_size=1)):
            rollouts = draw(st.integers(2, G))
            records.append(
                Record(
                    clock,
                    position,
                    draw(st.integers(0, rollouts)),
                    rollouts,
                    draw(st.sampled_from([1.0, 2.0, 8.0])),
                )
            )
    return RolloutLog.of("made_up", "steps", prompts, G, records)


def play(
    log: RolloutLog,
    selector: str,
    budget: float = 0.3,
    *,
    seed: int = 0,
    batch: int = 4,
    depo: SelectorConfig = DEPO,
) -> Replay:
    """Return a finished replay."""
    replay = begin(log, selector, budget, seed=seed, batch=batch, depo=depo)
    while not replay.done:
        replay.step()
    return replay


def begin(
    log: RolloutLog,
    selector: str,
    budget: float = 0.3,
    *,
    seed: int = 0,
    batch: int = 4,
    depo: SelectorConfig = DEPO,
) -> Replay:
    """Return a replay before its first tick."""
    return Replay(
        log,
        build_selector(selector, log, replay_config(selector, depo), seed=seed, batch=batch),
        budget,
    )


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as Parquet or JSON lines, as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def groups(log: RolloutLog) -> list[Group]:
    """Return everything that is recorded."""
    ticks = [log.tick(index) for index in range(log.n_ticks)]
    counts = [
        (tick.clock, log.prompts[prompt].id, int(successes), int(rollouts))
        for tick in ticks
        for prompt, successes, rollouts in zip(
            tick.prompts, tick.successes, tick.rollouts, strict=True
        )
    ]
    return [(*count, float(weight)) for count, weight in zip(counts, log.weights, strict=True)]
