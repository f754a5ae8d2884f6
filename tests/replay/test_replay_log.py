"""Logs of every layout become the same thing.

What cannot be read is named by file, line and field.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.replay import RolloutLog, read_log
from depo.replay.log import GroupCollector, Record
from depo.types.errors import DataError
from depo.types.records import Prompt
from tests.replay.replay_helpers import G, epochs_log, groups, write_rows

SAMPLE = Path(__file__).parents[1] / "data" / "one_shot_rlvr_sample.jsonl"

# Pass rates by visit


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_pass_rates_become_epochs(suffix: str, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    log = read_log([write_rows(tmp_path / f"log.{suffix}", rows)])
    assert (log.layout, log.kind, log.group_size, log.n_ticks, len(log.prompts)) == (
        "pass_rates",
        "epochs",
        8,
        10,
        12,
    )
    assert log.has_text and log.covers_pool and log.prompts[0].text == rows[0]["question"]
    assert sorted(groups(log)) == sorted(
        (visit, row["id"], row["n_correct_by_visit"][visit], 8, 1.0)
        for row in rows
        for visit in range(10)
    )
    assert "only the first 10 visits count" in log.notes[0] and "up to 12" in log.notes[0]
    assert log.fingerprint() == read_log([SAMPLE]).fingerprint()


def test_several_files_are_one_log(tmp_path: Path) -> None:
    lines = SAMPLE.read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[:5]))
    (tmp_path / "b.jsonl").write_text("".join(lines[5:]))
    one = read_log([SAMPLE])
    assert read_log([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]).fingerprint() == one.fingerprint()
    assert read_log([tmp_path]).fingerprint() == one.fingerprint()
    assert read_log([tmp_path / "a.jsonl"]).fingerprint() != one.fingerprint()


ROW = {"id": "a", "question": "q", "group_size": 4, "n_correct_by_visit": [0, 4]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [ROW | {"group_size": 1}],
            r"log.jsonl, line 1: group_size: got 1, expected an integer >= 2",
        ),
        (
            [ROW, ROW | {"id": "b", "group_size": 8}],
            r"line 2: group_size: got 8, expected 4 as in the rows before",
        ),
        (
            [ROW | {"n_correct_by_visit": [0, 5]}],
            r"line 1: n_correct_by_visit\[1\]: got 5, expected an integer in 0..4",
        ),
        (
            [ROW | {"n_correct_by_visit": [True]}],
            r"n_correct_by_visit\[0\]: got True, expected an integer in 0..4",
        ),
        (
            [ROW | {"n_correct_by_visit": []}],
            r"n_correct_by_visit: got \[\], expected at least one visit",
        ),
        ([ROW | {"n_correct_by_visit": 3}], r"n_correct_by_visit: got 3, expected a list"),
        ([ROW, ROW], r"line 2: id: got 'a', expected distinct ids"),
        ([ROW | {"question": 7}], r"line 1: question: got 7, expected a text"),
        (
            [{"prompt": "x"}],
            r"log.jsonl: got columns prompt, expected those of a known layout \(pass_rates: "
            r"group_size, n_correct_by_visit; verl: ",
        ),
        ([], r"log.jsonl: got no rows, expected a rollout log"),
    ],
)
def test_rows_that_do_not_fit_are_named(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_log([write_rows(tmp_path / "log.jsonl", rows)])


def test_paths_that_hold_no_log_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: no such file or directory"):
        read_log([tmp_path / "absent"])
    with pytest.raises(
        DataError,
        match=r"got a directory without a rollout log, expected journal.jsonl, STEP.jsonl",
    ):
        read_log([tmp_path])
    with pytest.raises(DataError, match=r"LOG: got none"):
        read_log([])
    rows = write_rows(tmp_path / "1.jsonl", [{"input": "x", "score": 1, "step": 1}])
    with pytest.raises(
        DataError, match=r"LOG: got files of the layouts pass_rates and verl, expected one layout"
    ):
        read_log([SAMPLE, rows])
    (tmp_path / "broken.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"broken.jsonl, line 1: not a JSON object on one line"):
        read_log([tmp_path / "broken.jsonl"])


# verl


def verl_rows(
    step: int, counts: Mapping[str, Sequence[float]], **extra: Any
) -> list[dict[str, Any]]:
    rows = [
        {"input": text, "output": "...", "gts": "1", "score": score, "step": step, **extra}
        for text, scores in counts.items()
        for score in scores
    ]
    random.Random(step).shuffle(
        rows
    )  # verl balances the tokens of its ranks: the responses to a prompt are not neighbours
    return rows


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_verl_responses_are_grouped_by_input_and_step(suffix: str, tmp_path: Path) -> None:
    steps = {2: {"x": [1, 0, 0, 1], "y": [1, 1, 1, 1]}, 10: {"x": [0, 0, 0, 1], "z": [0, 0, 0, 0]}}
    for step, counts in steps.items():
        write_rows(tmp_path / f"{step}.{suffix}", verl_rows(step, counts))
    log = read_log([tmp_path])
    assert (log.layout, log.kind, log.group_size, log.n_ticks) == ("verl", "steps", 4, 2)
    texts = {prompt.id: prompt.text for prompt in log.prompts}
    assert sorted((clock, texts[prompt], *rest) for clock, prompt, *rest in groups(log)) == [
        (step, text, sum(scores), 4, 1.0)
        for step, counts in steps.items()
        for text, scores in counts.items()
    ]


def test_verl_prefers_accuracy_to_shaped_scores(tmp_path: Path) -> None:
    rows = [
        {"input": "x", "output": "", "score": score, "acc": acc, "step": 1}
        for score, acc in ((-1.0, False), (0.2, True), (1.0, 1.0), (-0.5, 0.0))
    ]
    assert groups(read_log([write_rows(tmp_path / "1.jsonl", rows)]))[0][2:4] == (2, 4)
    scores = [{name: value for name, value in row.items() if name != "acc"} for row in rows]
    assert groups(read_log([write_rows(tmp_path / "1.jsonl", scores)]))[0][2:4] == (1, 4)
    assert groups(read_log([tmp_path / "1.jsonl"], success_threshold=0.1))[0][2:4] == (2, 4)
    with pytest.raises(
        DataError, match=r"1.jsonl, line 1: score: got None, expected a finite number"
    ):
        read_log([write_rows(tmp_path / "1.jsonl", [{"input": "x", "score": None, "step": 1}])])


@settings(max_examples=100, deadline=None)
@given(
    outcomes=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.booleans()), max_size=40
    )
)
def test_collected_groups_have_the_commonest_size_at_most(
    outcomes: list[tuple[int, str, bool]],
) -> None:
    collector = GroupCollector()
    expected: dict[tuple[int, str], list[bool]] = {}
    for clock, name, success in outcomes:
        collector.add(clock, Prompt(text=name, id=name), [success])
        expected.setdefault((clock, name), []).append(success)
    sizes = [len(each) for each in expected.values()]
    most = max((sizes.count(size), size) for size in sizes)[1] if sizes else 0
    kept = [
        (*group, sum(each[:most]), min(len(each), most), 1.0)
        for group, each in expected.items()
        if len(each) >= 2
    ]
    if not kept or most < 2:
        with pytest.raises(DataError, match="expected at least one group of at least 2"):
            collector.build("made_up")
        return
    log = collector.build("made_up")
    assert sorted(groups(log)) == sorted(kept)
    assert log.group_size == most
    assert any("fewer than 2" in note for note in log.notes) == any(size < 2 for size in sizes)
    assert any("count with their first" in note for note in log.notes) == any(
        size > most for size in sizes
    )


# prime-rl


def episode(
    key: str,
    reward: float | None,
    *,
    group: str | None = None,
    ok: bool = True,
    trainable: bool = True,
) -> dict[str, Any]:
    """Return an episode as prime-rl's file monitor writes it, cut to what matters and a little
    more.
    """
    rewards = (
        {}
        if reward is None
        else {"correct": {"score": reward, "weight": 1.0}, "format": {"score": 1.0, "weight": 0.1}}
    )
    data = {
        "idx": 3,
        "prompt": [
            {
                "role": "user",
                "content": [{"type": "text", "text": f"solve {key}"}, {"type": "image_url"}],
            }
        ],
        "answer": "1",
    }
    trace = {
        "version": 1,
        "ok": ok,
        "agent": {"name": "agent", "trainable": trainable},
        "rewards": rewards,
        "metrics": {"turns": 1.0},
        "nodes": [],
    }
    task = {"type": "Gsm8k", "data": data, "key": key, "hash": "0" * 8}
    return {"id": "e", "env": {"id": "gsm8k"}, "task": task, "ok": ok, "traces": [trace]} | (
        {"group": {"id": group}} if group else {}
    )


def test_prime_rl_episodes_are_grouped_by_their_group(tmp_path: Path) -> None:
    """A group may straddle two steps; failed, untrained and unscored rollouts are unknown.

    Of the two subsets the unfiltered one counts.
    """
    first = [
        episode("a", 1.0, group="g1"),
        episode("a", 0.0, group="g1"),
        episode("b", 0.0, group="g2"),
        episode("b", 0.0, group="g2"),
    ]
    second = [
        episode("b", 1.0, group="g2"),
        episode("c", 1.0, group="g3"),
        episode("c", None, group="g3"),
        episode("c", 1.0, group="g3", ok=False),
    ]
    second += [episode("c", 0.0, group="g3"), episode("c", 0.0, group="g3", trainable=False)]
    write_rows(tmp_path / "rollouts" / "step_9" / "train" / "all" / "traces.jsonl", first)
    write_rows(tmp_path / "rollouts" / "step_10" / "train" / "all" / "traces.jsonl", second)
    write_rows(tmp_path / "rollouts" / "step_10" / "train" / "effective" / "traces.jsonl", first)
    write_rows(tmp_path / "rollouts" / "step_10" / "eval" / "all" / "traces.jsonl", first)
    log = read_log([tmp_path])
    assert (log.layout, log.kind, log.group_size) == ("prime_rl", "steps", 2)
    assert groups(log) == [(9, "a", 1, 2, 1.0), (10, "b", 0, 2, 1.0), (10, "c", 1, 2, 1.0)]
    assert log.prompts[0].text == "solve a"


def test_prime_rl_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "step_1" / "train" / "effective" / "traces.jsonl"
    with pytest.raises(DataError, match=r"traces.jsonl, line 1: traces: got 3, expected a list"):
        read_log([write_rows(path, [episode("a", 1.0) | {"traces": 3}]).parents[2]])
    with pytest.raises(DataError, match=r"traces.jsonl, line 1: task: got 'a', expected an object"):
        read_log([write_rows(path, [episode("a", 1.0) | {"task": "a"}])])
    with pytest.raises(DataError, match=r"traces.jsonl: got a file outside of rollouts/step_N"):
        read_log([write_rows(tmp_path / "traces.jsonl", [episode("a", 1.0)])])


# Logs


def test_a_tick_is_a_window_on_the_columns() -> None:
    log = epochs_log([[0, 4, 2], [3, 1, 0]])
    tick = log.tick(1)
    assert (tick.index, tick.clock, tick.first_record) == (1, 1, 2)
    assert tick.successes.tolist() == [4, 1] and tick.informative.tolist() == [False, True]
    assert log.tick_of_record.tolist() == [0, 0, 1, 1, 2, 2]
    assert log.effective_groups == 6.0


@pytest.mark.parametrize("ticks", [1, 2, 3, 4])
def test_the_first_ticks_of_a_log_are_a_log(ticks: int) -> None:
    counts = np.array([[0, 4, 2], [3, 1, 0]])
    assert (
        epochs_log(counts).first(ticks).fingerprint() == epochs_log(counts[:, :ticks]).fingerprint()
    )


def test_a_prompt_has_one_record_a_tick() -> None:
    prompts = [Prompt(text="x", id="x")]
    with pytest.raises(
        DataError, match=r"got prompt 'x' twice at step 3, expected it at most once"
    ):
        RolloutLog.of(
            "made_up",
            "steps",
            prompts,
            G,
            [Record(3, 0, 1, 4), Record(2, 0, 1, 4), Record(3, 0, 2, 4)],
        )
