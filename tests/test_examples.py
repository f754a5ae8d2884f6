"""The examples that need no framework run, and do what they say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from depo import DataError
from depo.data.rows import read_rows
from tests.estimator.estimator_helpers import SMALL, build

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_plain_loop_finds_more_informative_groups_as_it_goes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runpy.run_path(str(EXAMPLES / "plain_loop.py"), run_name="__main__")
    uniform, depo = (
        [float(share) for share in line.partition(":")[2].split()]
        for line in capsys.readouterr().out.splitlines()
    )
    assert len(uniform) == len(depo) == 8
    # Towards the end depo has fewer, for its policy has learned more of what there is to learn.
    assert max(depo) > 2 * depo[0] and sum(depo) > 2 * sum(uniform)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    return write_jsonl(
        tmp_path / "prompts.jsonl",
        [{"question": f"w{number} w1", "answer": number, "topic": "sums"} for number in range(4)],
    )


@pytest.fixture
def log(tmp_path: Path) -> str:
    visits = [[0, 0, 2, 4, 8], [8, 8, 8, 8, 8], [1, 0, 0, 1, 1]]
    rows = [
        {
            "id": f"p{number}",
            "question": f"w{number} w1\n",
            "group_size": 8,
            "n_correct_by_visit": counts,
        }
        for number, counts in enumerate(visits)
    ]
    return write_jsonl(tmp_path / "log.jsonl", rows)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_offline_scores_from_a_log(
    name: str, prompts: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = runpy.run_path(str(EXAMPLES / "offline_scores.py"))
    scores["main"]([prompts, str(tmp_path / name), "--log", log])
    assert capsys.readouterr().out.endswith(
        "4 prompts, 3 with recorded and 0 with predicted pass rates\n"
    )
    rows = [row for _, row in read_rows(str(tmp_path / name))]
    assert [row["topic"] for row in rows] == ["sums"] * 4
    assert [(row["pass_rate"], row["n"], row["difficulty"]) for row in rows] == [
        (0.35, 40, "3/8"),
        (1.0, 40, "8/8"),
        (0.075, 40, "1/8"),
        (None, 0, None),
    ]
    assert [(row["pass_rate_early"], row["pass_rate_late"]) for row in rows[:2]] == [
        (2 / 24, 14 / 24),
        (1.0, 1.0),
    ]
    assert len({row["prompt_id"] for row in rows}) == 4


def test_offline_scores_of_an_estimator_fill_what_no_log_has(
    prompts: str, log: str, tmp_path: Path
) -> None:
    estimator = build(SMALL)
    (tmp_path / "estimator").mkdir()
    estimator.save_pretrained(tmp_path / "estimator")
    scores = runpy.run_path(str(EXAMPLES / "offline_scores.py"))
    scores["main"](
        [
            prompts,
            str(tmp_path / "out.parquet"),
            "--log",
            log,
            "--estimator",
            str(tmp_path / "estimator"),
        ]
    )
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["n"] for row in rows] == [40, 40, 40, 0]
    assert rows[3]["pass_rate"] == pytest.approx(float(estimator.predict(["w3 w1"])[0]))


def test_offline_scores_of_another_run_are_an_error(log: str, tmp_path: Path) -> None:
    others = write_jsonl(tmp_path / "others.jsonl", [{"question": "what?", "answer": 1}])
    scores = runpy.run_path(str(EXAMPLES / "offline_scores.py"))
    with pytest.raises(DataError, match="got no prompt that is in the log"):
        scores["main"]([others, str(tmp_path / "out.jsonl"), "--log", log])
    assert not (tmp_path / "out.jsonl").exists()
