"""What replays are judged by, against slow and obvious restatements.

Tables, JSON, advice and figures made of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.replay import RolloutLog, measure
from depo.replay.advice import ENOUGH_GROUPS, advise
from depo.replay.measures import (
    MEASURES,
    base_informative_share,
    calibration,
    default_warm,
    ece_noise,
    informative_share_by_tick,
    reliability,
)
from depo.replay.picks import Picks
from depo.replay.plots import replay_charts
from depo.replay.selectors import replay_config
from depo.replay.suite import Job, Pooled, Result, Suite, Terms
from depo.replay.tables import json_content, log_summary, results_table
from tests.replay.replay_helpers import DEPO, G, epochs_log, play, random_log, step_logs


@st.composite
def logs_and_picks(draw: st.DrawFn) -> tuple[RolloutLog, Picks, int]:
    """Draw a log, picks of some of its records, a few of them cheap probes.

    Also how many ticks are not scored.
    """
    log = draw(step_logs())
    records = draw(st.lists(st.integers(0, len(log.successes) - 1), unique=True).map(sorted))
    p_informative = [draw(st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan])) for _ in records]
    n_rollouts = [draw(st.integers(1, G)) for _ in records]
    probed = [draw(st.booleans()) for _ in records]
    columns = {"records": np.array(records, np.int64), "n_rollouts": np.array(n_rollouts, np.int64)}
    picks = Picks(
        p_informative=np.array(p_informative, float), probed=np.array(probed, bool), **columns
    )
    return log, picks, draw(st.integers(0, log.n_ticks - 1))


def rows(log: RolloutLog, picks: Picks) -> Iterator[dict[str, Any]]:
    """Yield the records in words."""
    picked = {int(record): index for index, record in enumerate(picks.records)}
    for record in range(len(log.successes)):
        index = picked.get(record)
        full = index is not None and picks.n_rollouts[index] == G
        yield {
            "tick": sum(int(bound) <= record for bound in log.bounds) - 1,
            "prompt": int(log.prompt_positions[record]),
            "weight": float(log.weights[record]),
            "informative": 0 < log.successes[record] < log.rollouts[record],
            "picked": index is not None,
            "full": full,
            "cost": float(picks.n_rollouts[index]) / G if index is not None else 0.0,
            "probed": index is not None and bool(picks.probed[index]),
            "p": float(picks.p_informative[index]) if index is not None else math.nan,
        }


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def slow_share(of: list[dict[str, Any]]) -> float:
    return ratio(
        sum(row["weight"] for row in of if row["full"] and row["informative"]),
        sum(row["weight"] * row["cost"] for row in of),
    )


def slow_ece(of: list[dict[str, Any]]) -> float:
    """Tenths of the weight, in the order of belief.

    Equal beliefs lie where the middle of their weight lies.
    """
    total = sum(row["weight"] for row in of)
    bins: dict[int, list[dict[str, Any]]] = {}
    for belief in sorted({row["p"] for row in of}):
        below = sum(row["weight"] for row in of if row["p"] < belief)
        own = sum(row["weight"] for row in of if row["p"] == belief)
        bins.setdefault(min(9, int((below + own / 2) / total * 10)), []).extend(
            row for row in of if row["p"] == belief
        )
    distance = [
        abs(sum(row["weight"] * (row["p"] - row["informative"]) for row in members))
        for members in bins.values()
    ]
    return ratio(sum(distance), total)


def slow_measure(log: RolloutLog, picks: Picks, warm: int) -> dict[str, float]:
    everything = [*rows(log, picks)]
    scored = [row for row in everything if row["tick"] >= warm]
    found = sum(row["weight"] for row in scored if row["full"] and row["informative"])
    recall = ratio(found, sum(row["weight"] for row in scored if row["informative"]))
    left = [row for row in scored if not row["full"]]
    believed = [row for row in scored if row["full"] and not math.isnan(row["p"])]
    probed = [row for row in scored if row["probed"] and not math.isnan(row["p"])]
    ages = []
    for prompt in range(len(log.prompts)):
        moments = [
            -1,
            *(row["tick"] for row in everything if row["picked"] and row["prompt"] == prompt),
            log.n_ticks,
        ]
        ages += [later - earlier for earlier, later in pairwise(moments)]
    return {
        "informative_share": slow_share(scored),
        "recall": recall,
        "lost_share": 1 - recall,
        "false_reject_rate": ratio(
            sum(row["weight"] for row in left if row["informative"]),
            sum(row["weight"] for row in left),
        ),
        "rollouts_per_informative_group": ratio(
            sum(G * row["weight"] * row["cost"] for row in scored), found
        ),
        "brier": ratio(
            sum(row["weight"] * (row["p"] - row["informative"]) ** 2 for row in believed),
            sum(row["weight"] for row in believed),
        ),
        "ece": slow_ece(believed),
        "ece_probed": slow_ece(probed),
        "max_age": max(ages),
        "early_informative_share": slow_share([row for row in everything if row["tick"] < 2]),
        "picks": sum(row["full"] for row in everything),
        "probes": sum(row["picked"] and not row["full"] for row in everything),
    }


@settings(max_examples=200, deadline=None)
@given(logs_and_picks())
def test_measures_are_what_they_say(drawn: tuple[RolloutLog, Picks, int]) -> None:
    log, picks, warm = drawn
    measured, expected = measure(log, picks, warm), slow_measure(log, picks, warm)
    assert measured.keys() == expected.keys() == MEASURES.keys()
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


@settings(max_examples=50, deadline=None)
@given(logs_and_picks())
def test_shares_by_tick_are_the_shares_of_each_tick(drawn: tuple[RolloutLog, Picks, int]) -> None:
    log, picks, _ = drawn
    everything = [*rows(log, picks)]
    expected = [
        slow_share([row for row in everything if row["tick"] == tick])
        for tick in range(log.n_ticks)
    ]
    assert informative_share_by_tick(log, picks) == pytest.approx(expected, nan_ok=True)


def test_records_that_stand_for_several_count_as_several() -> None:
    """A log with weights measures like one in which each record was repeated by its weight.

    As far as shares go.
    """
    light = epochs_log([[2, 0], [0, 2], [2, 2], [4, 1]])
    picks = play(light, "oracle", 0.5).picks
    doubled = replace(light, weights=light.weights * 2)
    first, second = measure(light, picks, 0), measure(doubled, picks, 0)
    assert first == pytest.approx(second, nan_ok=True)
    assert base_informative_share(
        replace(light, weights=np.where(light.informative, 3.0, 1.0)), 0
    ) == pytest.approx(15 / 18)
    assert replace(light, weights=np.array([8.0] + [0.001] * 7)).effective_groups == pytest.approx(
        1.0, abs=0.01
    )


def test_reliability_points_lie_on_the_diagonal_of_a_perfect_belief() -> None:
    log = random_log()
    picks = play(log, "uniform", 1.0).picks
    known = replace(picks, p_informative=log.informative[picks.records].astype(float))
    curve = reliability(log, known, 0)
    np.testing.assert_allclose(curve.predicted, curve.observed)
    assert measure(log, known, 0)["ece"] == measure(log, known, 0)["brier"] == 0.0


def test_noise_is_the_error_of_a_perfect_belief() -> None:
    """Over many logs drawn from known probabilities.

    Beliefs lie so close that the bins are of equal size.
    """
    rng = np.random.default_rng(0)
    n = 200
    believed_N = np.linspace(0.2, 0.8, n)
    perfect, noise = [], []
    for _ in range(100):
        log = epochs_log(np.where(rng.random(n) < believed_N, 2, 0)[:, None])
        picks = replace(
            play(log, "oracle", 1.0).picks, records=np.arange(n), p_informative=believed_N
        )
        perfect.append(calibration(log, picks, 0)["ece"])
        noise.append(ece_noise(log, picks, 0)["ece"])
    assert np.mean(noise) == pytest.approx(np.mean(perfect), rel=0.1)
    assert math.isnan(ece_noise(log, picks, 0)["ece_probed"]), "nothing was probed"
    heavy = replace(log, weights=np.where(np.arange(n) % 2, 1e-9, 1.0))
    assert ece_noise(heavy, picks, 0)["ece"] == pytest.approx(noise[-1] * math.sqrt(2), rel=0.05), (
        "half of the picks weigh nothing"
    )
    twice = replace(
        picks,
        **{
            name: np.tile(getattr(picks, name), 2)
            for name in ("records", "n_rollouts", "p_informative", "probed")
        },
    )
    assert ece_noise(log, twice, 0)["ece"] == pytest.approx(noise[-1]), (
        "another seed that looks at the same groups tells nothing more"
    )


@pytest.mark.parametrize(("ticks", "expected"), [(1, 0), (11, 0), (12, 4), (44, 4)])
def test_short_logs_are_scored_from_the_start(ticks: int, expected: int) -> None:
    assert default_warm(epochs_log([[1] * ticks])) == expected


# What is made of results


def results_of(
    log: RolloutLog, *, selectors: tuple[str, ...] = ("uniform", "depo", "oracle"), warm: int = 0
) -> tuple[list[Result], list[Pooled]]:
    terms = Terms(
        configs={name: replay_config(name, DEPO) for name in selectors}, warm=warm, batch=8
    )
    jobs = [
        Job(name, budget, seed) for budget in (0.25, 0.5) for name in selectors for seed in range(2)
    ]
    suite = Suite(log, terms)
    results = suite.run(jobs, on_tick=lambda done: None, interrupted=lambda: False)
    assert results is not None
    return results, suite.pooled(jobs)


@pytest.fixture(scope="module")
def lasting() -> tuple[RolloutLog, list[Result], list[Pooled]]:
    """A log in which history says almost everything, a third of the groups being informative."""
    log = replace(epochs_log(np.repeat([[2]] * 20 + [[0]] * 40, 12, axis=1)), kind="steps")
    return log, *results_of(log)


def test_the_table_has_a_block_for_each_budget(
    lasting: tuple[RolloutLog, list[Result], list[Pooled]],
) -> None:
    _, results, pooled = lasting
    blocks = results_table(results, pooled).split("\n\n")
    assert [block.split("  ")[0] for block in blocks[:2]] == ["budget 0.25", "budget 0.5"]
    for block in blocks[:2]:
        header, *lines = block.splitlines()
        assert [line.split()[0] for line in lines] == ["uniform", "depo", "oracle"]
        assert len({len(line.rstrip()) for line in (header, *lines)}) == 1, "columns are aligned"
    mean = np.mean([result["informative_share"] for result in results[:2]])
    sd = np.std([result["informative_share"] for result in results[:2]], ddof=1)
    assert f"{mean:.3f} +-{sd:.3f}" in blocks[0].splitlines()[1]
    assert f"{pooled[0]['ece']:.3f}" in blocks[0].splitlines()[1] and pooled[0]["ece"] != np.mean(
        [result["ece"] for result in results[:2]]
    )
    assert (
        f"{pooled[1]['ece_probed']:.3f} ({pooled[1]['ece_probed_noise']:.3f})"
        in blocks[0].splitlines()[2]
    )


def test_json_says_null_for_what_is_not_defined(
    lasting: tuple[RolloutLog, list[Result], list[Pooled]],
) -> None:
    log, results, pooled = lasting
    content = json.loads(
        json.dumps(json_content(log_summary(log, 0), results, pooled, "advice"), allow_nan=False)
    )
    assert [entry["selector"] for entry in content["pooled"]] == [
        "uniform",
        "depo",
        "oracle",
    ] * 2 and content["pooled"][2]["ece_noise"] is None
    oracle = next(result for result in content["results"] if result["selector"] == "oracle")
    assert (
        oracle["ece"] is None
        and oracle["brier"] is None
        and oracle["reliability"]["predicted"] == []
    )
    assert {
        *MEASURES,
        "selector",
        "budget",
        "seed",
        "warm",
        "cpu_seconds",
        "cpu_per_pick",
    } <= oracle.keys()
    assert (
        content["log"]["informative_share"] == pytest.approx(1 / 3)
        and content["advice"] == "advice"
    )


def test_advice_names_what_would_have_saved_rollouts(
    lasting: tuple[RolloutLog, list[Result], list[Pooled]],
) -> None:
    log, results, _ = lasting
    share = np.mean(
        [
            result["informative_share"]
            for result in results
            if (result["selector"], result["budget"]) == ("depo", 0.25)
        ]
    )
    needed = float(f"{20 * 12 / share * G:.2g}")
    expected = (
        rf"depo at budget 0.25 would have found the run's 240 informative groups in about "
        rf"{needed:,.0f} rollouts instead of 2,880"
    )
    assert expected in advise(log, results)
    assert "none, for lack of a selector" in advise(
        log, results_of(log, selectors=("uniform", "dapo", "oracle"))[0]
    )


def test_advice_knows_what_a_log_cannot_tell(
    lasting: tuple[RolloutLog, list[Result], list[Pooled]],
) -> None:
    log, results, _ = lasting
    assert "never drew at random from what it rejected" in advise(
        replace(log, covers_pool=False), results
    )
    few = replace(log, weights=np.where(np.arange(len(log.weights)) < 50, 1000.0, 1.0))
    assert few.effective_groups < ENOUGH_GROUPS
    assert "weigh as much as 5" in advise(few, results)
    assert "does not pay here: 92%" in advise(
        replace(epochs_log([[2] * 40] * 11 + [[0] * 40]), kind="steps"), results
    )
    aimless = replace(
        epochs_log(np.random.default_rng(0).choice([0, 2], (60, 12), p=[0.7, 0.3])), kind="steps"
    )
    assert "no selector would clearly have saved rollouts" in advise(
        aimless, results_of(aimless)[0]
    )


def test_all_figures_are_drawn(lasting: tuple[RolloutLog, list[Result], list[Pooled]]) -> None:
    log, results, pooled = lasting
    drawn = replay_charts(results, pooled)
    assert [chart.name for chart in drawn] == [
        "informative_by_budget",
        "reliability",
        "informative_by_tick",
    ]
    assert all(chart.png and chart.png.startswith(b"\x89PNG") for chart in drawn)
    assert [
        chart.png is None for chart in replay_charts(*results_of(log, selectors=("oracle",)))
    ] == [False, True, False]
