"""Runs of depo-train as rollout logs.

Weights from admissions, probes left out, settings and texts from the run itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from depo.config import RunConfig, SelectorConfig, SourceConfig, TrainConfig, dump_config
from depo.data import load_prompts
from depo.replay import read_log
from depo.runs.metric_files import Journal
from depo.types.errors import DataError
from depo.types.records import Draw, DrawKind, Prompt, RolloutGroup, Verdict, VerdictStatus
from tests.replay.replay_helpers import groups, write_rows

SAMPLE = Path(__file__).parents[1] / "data" / "one_shot_rlvr_sample.jsonl"


def write_run(
    directory: Path, rows: Sequence[tuple[int, Prompt, list[float], float, VerdictStatus]]
) -> Path:
    """Write a journal through the real one; who has fewer rewards than others is a probe."""
    group_size = max(len(rewards) for _, _, rewards, _, _ in rows)
    journal = Journal(directory, resume_step=None)
    nothing = RolloutGroup(
        prompt_ids=np.zeros(1, np.int64),
        response_ids=(),
        rollout_logprobs=(),
        finished=np.zeros(0, bool),
        responses=(),
        policy_version=0,
    )
    for step, prompt, rewards, admission, status in rows:
        kind, believed = (
            DrawKind.SELECTED if len(rewards) == group_size else DrawKind.REPROBE,
            {"predicted_reward": 0.5, "p_informative": 0.5},
        )
        draw = Draw(
            draw_id=0,
            prompt=prompt,
            admission=admission,
            kind=kind,
            n_rollouts=len(rewards),
            policy_version=step,
            **believed,
        )
        verdict = Verdict(
            draw_id=0, status=status, informative=False, mean_reward=0.0, pass_rate=0.0
        )
        rewards_G = np.array(rewards + [np.nan] * (group_size - len(rewards)), np.float32)
        journal.write(step, draw, nothing, rewards_G, verdict)
    journal.close()
    return directory


def test_a_run_is_weighted_by_admission(tmp_path: Path) -> None:
    x, y = Prompt(text="x", id="x"), Prompt(text="y", id="y")
    labelled, unknown, nan = VerdictStatus.LABELLED, VerdictStatus.UNKNOWN, float("nan")
    rows = [
        (1, x, [1.0, 0.0, 0.5, 0.4], 1.0, labelled),
        (1, y, [nan, 1.0, nan, 0.0], 0.25, labelled),
        (2, x, [nan] * 4, 1.0, unknown),
        (2, y, [1.0] * 4, 0.5, labelled),
        (2, y, [0.0] * 4, 1.0, labelled),
        (3, x, [0.0] * 4, 1.0, labelled),
    ]
    log = read_log([write_run(tmp_path, rows)])
    assert (log.layout, log.kind, log.group_size, log.has_text) == ("depo", "steps", 4, False)
    assert groups(log) == [
        (1, "x", 2, 4, 1.0),
        (1, "y", 1, 2, 4.0),
        (2, "y", 4, 4, 2.0),
        (3, "x", 0, 4, 1.0),
    ]
    assert groups(read_log([tmp_path / "journal.jsonl"])) == groups(log)
    with pytest.raises(DataError, match=r"expected one where it is the run"):
        read_log([tmp_path, SAMPLE])


def test_probes_of_a_run_are_no_groups(tmp_path: Path) -> None:
    """Also where they are many, and where a prompt is probed at the step at which it is drawn."""
    x, y = Prompt(text="x", id="x"), Prompt(text="y", id="y")
    groups_of_4 = [
        (1, x, [1.0, 0.0, 0.0, float("nan")], 1.0, VerdictStatus.LABELLED),
        (2, x, [0.0] * 4, 0.5, VerdictStatus.LABELLED),
    ]
    probes = [
        (step, prompt, [1.0, 0.0], 1.0, VerdictStatus.LABELLED)
        for step in (1, 2, 3)
        for prompt in (x, y)
    ]
    log = read_log([write_run(tmp_path, [*groups_of_4, *probes])])
    assert groups(log) == [(1, "x", 1, 3, 1.0), (2, "x", 0, 4, 2.0)] and log.group_size == 4
    assert [prompt.id for prompt in log.prompts] == ["x"]
    assert log.notes == ("6 probes with fewer than 4 rollouts are left out",)


def test_a_run_s_own_settings_say_what_a_success_is_and_where_texts_are(tmp_path: Path) -> None:
    source = write_rows(
        tmp_path / "words.jsonl", [{"prompt": text, "answer": text} for text in ("one", "two")]
    )
    data = replace(
        TrainConfig().data, train=(SourceConfig(path=str(source), template="say {prompt}"),)
    )
    config = TrainConfig(
        run=RunConfig(),
        data=data,
        selection=SelectorConfig.from_preset("depo_paper", success_threshold=0.9),
    )
    one, two = load_prompts(data.train)
    run = write_run(
        tmp_path / "run",
        [
            (1, one, [0.8, 0.95], 1.0, VerdictStatus.LABELLED),
            (1, two, [0.0, 1.0], 1.0, VerdictStatus.LABELLED),
        ],
    )
    (run / "config.toml").write_text(dump_config(config))
    log = read_log([run])
    assert (
        [group[2] for group in groups(log)] == [1, 1] and not log.covers_pool and not log.has_text
    )
    assert {prompt.text for prompt in read_log([run], with_texts=True).prompts} == {
        "say one",
        "say two",
    }
    write_rows(source, [{"prompt": "one", "answer": "one"}])
    with pytest.raises(
        DataError,
        match=r"journal.jsonl, line 2: prompt_id: got '\w+', expected a prompt of the sources in "
        r"config.toml",
    ):
        read_log([run], with_texts=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"admission": 0.0},
            r"journal.jsonl, line 1: admission: got 0.0, expected a probability in \(0, 1\]",
        ),
        ({"rewards": ["1"]}, r"line 1: rewards: got '1', expected a finite number"),
        ({"prompt_id": ""}, r"line 1: prompt_id: got '', expected a text that is not empty"),
    ],
)
def test_faults_of_a_journal_are_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path, [(1, Prompt(text="x"), [0.0, 1.0], 1.0, VerdictStatus.LABELLED)])
    row = json.loads((run / "journal.jsonl").read_text())
    write_rows(run / "journal.jsonl", [row | change])
    with pytest.raises(DataError, match=message):
        read_log([run])
