"""Replays of rollout logs.

A selector sees what it picked and nothing else, and can be interrupted at any tick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.config.presets import SELECTOR_PRESETS
from depo.config.selector import SelectorConfig
from depo.replay import RolloutLog, measure
from depo.replay.picks import Picks
from depo.replay.replay import places
from depo.replay.selectors import REFERENCES, recorded_rewards, replay_config, subsample
from depo.replay.suite import Job, Result, Suite, Terms
from depo.sampler import PromptSampler
from depo.sampler.keyed import derive_key, uniforms
from depo.state.files import StateFiles, read_state
from depo.types.errors import ConfigError, StateError
from depo.types.records import Draw, Float32Array, Verdict
from tests.replay.replay_helpers import DEPO, G, begin, epochs_log, play, random_log, step_logs

SELECTORS = [*SELECTOR_PRESETS, *REFERENCES]
BUDGET = 0.3
PROBING = replace(DEPO, max_age=3, reprobe_share=1.0)


def assert_same_picks(one: Picks, other: Picks) -> None:
    for name, column in one.state_dict().items():
        np.testing.assert_array_equal(column, getattr(other, name))


@pytest.mark.parametrize("selector", SELECTORS)
def test_each_tick_gives_its_share_of_distinct_prompts(selector: str) -> None:
    log = random_log()
    picks = play(log, selector).picks
    tick_P = log.tick_of_record[picks.records]
    np.testing.assert_array_equal(np.bincount(tick_P), [places(BUDGET, 30)] * log.n_ticks)
    assert (np.diff(tick_P) >= 0).all()
    assert len(set(picks.records.tolist())) == len(picks.records)
    assert (picks.n_rollouts == G).all()


@settings(max_examples=30, deadline=None)
@given(
    log=step_logs(),
    budget=st.floats(0.01, 1.0),
    selector=st.sampled_from(SELECTORS),
    batch=st.integers(1, 4),
)
def test_step_logs_give_what_was_recorded_at_the_step(
    log: RolloutLog, budget: float, selector: str, batch: int
) -> None:
    picks = play(log, selector, budget, batch=batch).picks
    tick_P = log.tick_of_record[picks.records]
    recorded_K = np.diff(log.bounds)
    np.testing.assert_array_equal(
        np.bincount(tick_P, minlength=log.n_ticks),
        [places(budget, recorded) for recorded in recorded_K],
    )
    assert len(set(picks.records.tolist())) == len(picks.records)


@pytest.mark.parametrize(
    ("selector", "depo"), [*((name, DEPO) for name in SELECTOR_PRESETS), ("depo", PROBING)]
)
def test_what_was_not_picked_cannot_matter(selector: str, depo: SelectorConfig) -> None:
    log = random_log()
    picks = play(log, selector, depo=depo).picks
    hidden = np.ones(len(log.successes), bool)
    hidden[picks.records] = False
    other = replace(log, successes=np.where(hidden, G - log.successes, log.successes))
    assert (other.successes != log.successes).sum() > len(hidden) / 4
    assert_same_picks(play(other, selector, depo=depo).picks, picks)


@pytest.mark.parametrize("selector", ["greso", "mopps", "dps", "thompson", "depo", "hindsight"])
def test_what_was_shown_does_matter(selector: str) -> None:
    log = random_log()
    other = replace(log, successes=np.where(log.informative, 0, G // 2))
    assert not np.array_equal(
        play(other, selector).picks.records, play(log, selector).picks.records
    )


def test_hindsight_learns_from_what_it_did_not_pick() -> None:
    """Only the first prompts are ever informative.

    A selector that saw all of tick 0 knows it at tick 1.
    """
    log = epochs_log([[2] * 3] * 6 + [[0] * 3] * 34)
    share_K = [
        log.informative[play(log, "hindsight", 0.15, seed=seed).picks.records]
        .reshape(3, 6)
        .mean(axis=1)
        for seed in range(3)
    ]
    np.testing.assert_array_equal(np.array(share_K)[:, 1:], 1.0)
    assert np.array(share_K)[:, 0].max() < 1.0


@pytest.mark.parametrize("budget", [0.2, 0.8])
def test_nobody_beats_the_oracle(budget: float) -> None:
    log = random_log(seed=3)
    best = measure(log, play(log, "oracle", budget).picks, 0)["informative_share"]
    expected = sum(
        min(places(budget, 30), int(log.tick(tick).informative.sum()))
        for tick in range(log.n_ticks)
    ) / (places(budget, 30) * log.n_ticks)
    assert best == pytest.approx(expected)
    for selector in SELECTORS:
        assert measure(log, play(log, selector, budget).picks, 0)["informative_share"] <= best


def test_a_budget_of_everything_makes_all_selectors_alike() -> None:
    log = random_log()
    for selector in SELECTORS:
        assert sorted(play(log, selector, 1.0).picks.records) == list(range(len(log.successes)))


@settings(max_examples=50, deadline=None)
@given(log=step_logs(), data=st.data())
def test_recorded_rewards_have_the_recorded_counts(log: RolloutLog, data: st.DataObject) -> None:
    tick = log.tick(data.draw(st.integers(0, log.n_ticks - 1)))
    rows = np.array(
        data.draw(st.lists(st.integers(0, len(tick.prompts) - 1), min_size=1, max_size=3))
    )
    rewards_BG = recorded_rewards(tick, rows, G)
    assert rewards_BG.shape == (len(rows), G)
    np.testing.assert_array_equal(np.nansum(rewards_BG, axis=1), tick.successes[rows])
    np.testing.assert_array_equal(np.isfinite(rewards_BG).sum(axis=1), tick.rollouts[rows])


# Probes


@settings(max_examples=50, deadline=None)
@given(log=step_logs(), data=st.data(), seed=st.integers(0, 9))
def test_a_probe_sees_some_of_the_known_rollouts(
    log: RolloutLog, data: st.DataObject, seed: int
) -> None:
    tick = log.tick(data.draw(st.integers(0, log.n_ticks - 1)))
    n_rollouts_B = np.array(
        data.draw(
            st.lists(st.integers(1, G), min_size=len(tick.prompts), max_size=len(tick.prompts))
        )
    )
    recorded_BG = recorded_rewards(tick, np.arange(len(tick.prompts)), G)
    shown_BG = subsample(
        recorded_BG, n_rollouts_B, np.random.default_rng(seed).random(recorded_BG.shape)
    )
    known_BG = np.isfinite(shown_BG)
    np.testing.assert_array_equal(known_BG.sum(axis=1), np.minimum(n_rollouts_B, tick.rollouts))
    np.testing.assert_array_equal(shown_BG[known_BG], recorded_BG[known_BG])


def test_successes_in_a_probe_are_hypergeometric() -> None:
    n, size, successes, draws = 20_000, 8, 3, 4
    group = np.array([1.0] * successes + [0.0] * (size - successes - 1) + [np.nan], np.float32)
    shown_BG = subsample(
        np.tile(group, (n, 1)),
        np.full(n, draws),
        uniforms([derive_key(0, "test")], 0, n * size).reshape(n, size),
    )
    share_K = np.bincount(np.nansum(shown_BG, axis=1).astype(int), minlength=successes + 1) / n
    expected_K = [math.comb(3, k) * math.comb(4, 4 - k) / math.comb(7, 4) for k in range(4)]
    np.testing.assert_allclose(share_K, expected_K, atol=4 * 0.5 / math.sqrt(n))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9),
    budget=st.floats(0.1, 0.9),
    batch=st.sampled_from([1, 4, 64]),
    max_age=st.integers(1, 6),
    probe_rollouts=st.integers(1, G - 1),
    share=st.floats(0.0, 1.0),
)
def test_probes_keep_to_the_budget(
    seed: int, budget: float, batch: int, max_age: int, probe_rollouts: int, share: float
) -> None:
    log = random_log(n=20, ticks=8, seed=seed)
    config = replace(DEPO, max_age=max_age, probe_rollouts=probe_rollouts, reprobe_share=share)
    picks = play(log, "depo", budget, seed=seed, batch=batch, depo=config).picks
    spent_K = np.bincount(log.tick_of_record[picks.records], picks.n_rollouts, log.n_ticks)
    assert (spent_K < (places(budget, 20) + 1) * G).all()
    assert spent_K.sum() / G < places(budget, 20) * log.n_ticks + 1, (
        "what a tick overspends is taken off later"
    )
    assert len(set(picks.records.tolist())) == len(picks.records), (
        "who was probed is not offered again at the same tick"
    )
    assert (
        set(picks.n_rollouts.tolist()) <= {G, probe_rollouts}
        and picks.probed[picks.n_rollouts < G].all()
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9),
    budget=st.floats(0.3, 0.9),
    batch=st.sampled_from([4, 64]),
    max_age=st.integers(2, 6),
)
def test_no_prompt_goes_unseen_for_longer_than_max_age(
    seed: int, budget: float, batch: int, max_age: int
) -> None:
    log = random_log(n=20, ticks=12, seed=seed)
    picks = play(
        log,
        "depo",
        budget,
        seed=seed,
        batch=batch,
        depo=replace(DEPO, max_age=max_age, reprobe_share=1.0),
    ).picks
    assert measure(log, picks, 0)["max_age"] <= max_age


def test_the_sampler_is_shown_what_was_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    observe = PromptSampler.observe

    def record(
        sampler: PromptSampler,
        draws: Sequence[Draw],
        rewards_BG: Float32Array,
        *,
        policy_version: int,
    ) -> list[Verdict]:
        shown.extend(
            (draw.n_rollouts, int(np.isfinite(rewards_G).sum()))
            for draw, rewards_G in zip(draws, rewards_BG, strict=True)
        )
        return observe(sampler, draws, rewards_BG, policy_version=policy_version)

    monkeypatch.setattr(PromptSampler, "observe", record)
    picks = play(random_log(), "depo", depo=PROBING).picks
    assert shown == [(n, n) for n in picks.n_rollouts] and (picks.n_rollouts < G).any()


@pytest.mark.parametrize("selector", SELECTORS)
def test_interrupted_at_every_tick_is_not_interrupted(selector: str, tmp_path: Path) -> None:
    """Through the files of a state directory, too."""
    log = random_log(n=20, ticks=5)
    config = replace(PROBING, max_age=2)
    expected = play(log, selector, depo=config)
    replayed = begin(log, selector, depo=config)
    while not replayed.done:
        replayed.step()
        StateFiles(replayed.state_dict()).write(tmp_path)
        replayed = begin(log, selector, depo=config)
        replayed.load_state_dict(read_state(tmp_path))
    assert_same_picks(replayed.picks, expected.picks)


def test_the_seed_is_all_that_differs() -> None:
    log = random_log()
    assert_same_picks(play(log, "depo", seed=1).picks, play(log, "depo", seed=1).picks)
    assert not np.array_equal(
        play(log, "depo", seed=1).picks.records, play(log, "depo", seed=2).picks.records
    )


def test_states_of_another_budget_are_refused() -> None:
    log = random_log()
    with pytest.raises(StateError, match=r"got 6 ticks at budget 0.5, expected 6 at most at 0.3"):
        begin(log, "depo", 0.3).load_state_dict(play(log, "depo", 0.5).state_dict())


def test_budgets_and_names_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"budget: got 0.0, expected a share in \(0, 1\]"):
        begin(random_log(), "depo", 0.0)
    with pytest.raises(
        ConfigError,
        match=r"--selectors: got 'best', expected some of uniform, .*depo, oracle, hindsight",
    ):
        replay_config("best", DEPO)


@pytest.mark.parametrize(
    ("budget", "available", "expected"),
    [(0.3, 579, 173), (0.5, 5, 2), (0.1, 3, 1), (1.0, 1, 1), (0.29, 100, 29)],
)
def test_places_are_what_the_budget_pays_for(budget: float, available: int, expected: int) -> None:
    assert places(budget, available) == expected


# Suites


JOBS = [
    Job(selector, budget, seed)
    for budget in (0.2, 0.6)
    for selector in ("uniform", "depo", "oracle")
    for seed in range(2)
]


def suite(
    log: RolloutLog,
    directory: Path | None = None,
    *,
    depo: SelectorConfig = DEPO,
    warm: int = 1,
    batch: int = 4,
) -> Suite:
    configs = {name: replay_config(name, depo) for name in ("uniform", "depo", "oracle")}
    return Suite(log, Terms(configs=configs, warm=warm, batch=batch), directory)


def run(suite: Suite, jobs: list[Job], *, ticks: float = np.inf) -> list[Result] | None:
    """Run a suite until it is done, or for some ticks."""
    seen: list[int] = []
    return suite.run(jobs, on_tick=seen.append, interrupted=lambda: len(seen) >= ticks)


def without_times(results: list[Result] | None) -> list[str]:
    """Return the results as texts, in which NaN equals NaN; CPU times are nobody's to repeat."""
    return [
        repr({name: value for name, value in result.items() if not name.startswith("cpu")})
        for result in results or ()
    ]


@pytest.mark.parametrize("ticks", [1, 4])
def test_a_suite_goes_on_where_it_was_interrupted(ticks: int, tmp_path: Path) -> None:
    log = random_log(n=20, ticks=5)
    expected = run(suite(log), JOBS)
    interruptions = 0
    while (results := run(suite(log, tmp_path), JOBS, ticks=ticks)) is None:
        interruptions += 1
    assert interruptions == (len(JOBS) * 5 - 1) // ticks
    assert without_times(results) == without_times(expected)
    assert all(result["cpu_seconds"] > 0 for result in results)


def test_pooled_calibration_is_that_of_all_seeds_resumed_or_not(tmp_path: Path) -> None:
    log = random_log(n=20, ticks=5)
    first, whole = suite(log, tmp_path), suite(log)
    assert run(first, JOBS[:5]) is not None and run(whole, JOBS) is not None
    resumed = suite(log, tmp_path)
    assert run(resumed, JOBS) is not None
    assert repr(resumed.pooled(JOBS)) == repr(whole.pooled(JOBS))
    assert [
        (entry["selector"], entry["budget"], entry["seeds"]) for entry in whole.pooled(JOBS)
    ] == [
        (selector, budget, [0, 1])
        for budget in (0.2, 0.6)
        for selector in ("uniform", "depo", "oracle")
    ]


def test_finished_replays_are_kept_for_a_larger_suite(tmp_path: Path) -> None:
    log = random_log(n=20, ticks=5)
    first = run(suite(log, tmp_path), JOBS[:3])
    seen: list[int] = []
    results = suite(log, tmp_path).run(JOBS, on_tick=seen.append, interrupted=lambda: False)
    assert seen == list(range(3 * 5 + 1, len(JOBS) * 5 + 1)), (
        "ticks of finished jobs are not played again"
    )
    assert first is not None and results is not None
    assert repr(results[:3]) == repr(first), "CPU times included"


def test_progress_on_other_terms_is_refused(tmp_path: Path) -> None:
    log = random_log(n=20, ticks=5)
    run(suite(log, tmp_path), JOBS)
    before = sorted(tmp_path.rglob("*"))
    for other, differing in (
        (suite(random_log(n=20, ticks=5, seed=1), tmp_path), "another log"),
        (suite(log, tmp_path, warm=2, batch=5), "another warm, batch"),
        (
            suite(log, tmp_path, depo=replace(DEPO, scan_cap=50)),
            r"depo-budget0.2-seed0: holds a replay with another selection",
        ),
    ):
        with pytest.raises(StateError, match=f"{differing}: choose another directory"):
            run(other, JOBS)
    assert sorted(tmp_path.rglob("*")) == before
