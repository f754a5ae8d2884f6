"""Selection policies against slow restatements of their sources.

(tests/reference_policies.py), and what all policies have in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo import PromptSampler, SelectorConfig, StateError, _core
from depo.config.presets import SELECTOR_PRESETS
from depo.sampler.core import core_settings
from tests.sampler.reference import Label
from tests.sampler.reference_rules import REFERENCES, REJECTED

G = 4
N_PROMPTS = 12
RULES = get_args(get_type_hints(SelectorConfig)["rule"])
SETTINGS: Mapping[str, Any] = core_settings(SelectorConfig()) | {
    "group_size": G,
    "seed": 5,
    "warmup_steps": 0,
    "window": (0.3, 0.7),
    "candidates_per_draw": 3,
    "explore_share": 0.0,
    "source_floors": [0.0],
    "scan_cap": 5,
    "belief": "beta",
    "belief_options": {"base_concentration": 1.0, "text_concentration": 4.0, "discount": 0.97},
    "fit_belief": False,
}
OPTIONS: Mapping[str, st.SearchStrategy[dict[str, float]]] = {
    "budget": st.fixed_dictionaries({"optimism": st.floats(0, 3), "curiosity": st.floats(0, 3)}),
    "mopps": st.fixed_dictionaries(
        {}, optional={"decay": st.floats(0, 1), "target": st.floats(0, 1)}
    ),
    "greso": st.fixed_dictionaries(
        {},
        optional={
            "keep": st.floats(0.1, 0.9),
            "adaptation": st.floats(0, 0.5),
            "target_zero_variance": st.floats(0, 1),
        },
    ),
    "polaris": st.fixed_dictionaries(
        {"stage_steps": st.sampled_from([1.0, 2.0, 3.0])},
        optional={"drop_above": st.floats(0.1, 0.99)},
    ),
    "prime_pools": st.fixed_dictionaries(
        {},
        optional={
            "hard_weight": st.floats(0.01, 2),
            "easy_weight": st.floats(0.01, 2),
            "hard_up_to": st.floats(0, 0.5),
            "normal_up_to": st.floats(0.5, 1),
        },
    ),
}
LONG_RUN = {"budget": {"optimism": 1.0, "curiosity": 1.5}}
OUTCOMES = st.lists(st.sampled_from([0, 0, 1, 3, 4, 4]), min_size=N_PROMPTS, max_size=N_PROMPTS)
ROUNDS = st.lists(
    st.tuples(
        st.integers(1, 3), st.sets(st.integers(0, N_PROMPTS - 1)), st.integers(1, 6), OUTCOMES
    ),
    min_size=1,
    max_size=10,
)
"""Versions that pass, prompts to choose among, prompts wanted, and how many rollouts of each prompt
succeed.
"""


def build(rule: str, n_prompts: int = N_PROMPTS, **changes: Any) -> _core.Sampler:
    return _core.Sampler(
        np.arange(n_prompts) + 100,
        np.zeros(n_prompts, np.uint32),
        **{**SETTINGS, "rule": rule, **changes},
    )


def rewards(successes: Any) -> Any:
    return (np.arange(G) < np.asarray(successes)[:, None]).astype(np.float32)


def answer(
    sampler: _core.Sampler, draws: Mapping[str, Any], successes: Sequence[int], version: int
) -> None:
    """Observe draws of prompts of whose rollouts so many succeed, the first ones.

    Of a probe only the rollouts that it asked for are known.
    """
    rewards_BG = rewards(np.asarray(successes)[draws["prompts"]])
    rewards_BG[np.arange(G) >= draws["n_rollouts"][:, None]] = math.nan
    sampler.observe(draws["draw_ids"], rewards_BG, np.full(len(rewards_BG), math.nan), version)


def follow(
    rule: str,
    options: dict[str, float],
    n_prompts: int,
    rounds: Iterable[tuple[int, Any, int, Sequence[int]]],
) -> None:
    """Hold every draw of a run among named prompts against the reference."""
    sampler, expected = (
        build(rule, n_prompts, rule_options=options),
        REFERENCES[rule](SETTINGS["seed"], G, n_prompts, options),
    )
    version = 0
    for elapsed, among, n, outcomes in rounds:
        candidates = sampler.propose(n, version, sorted(among)).tolist()
        assert sorted(candidates) == sorted(among)
        scores = {prompt: np.float32(expected.score(prompt, version)) for prompt in candidates}
        best = sorted(candidates, key=lambda prompt: -scores[prompt])[:n]
        sampler.offer(candidates, np.full(len(candidates), math.nan), version)
        draws = sampler.take(n, version)
        assert draws["prompts"].tolist() == best
        assert draws["kinds"].tolist() == [
            4 if scores[prompt] == REJECTED else 0 for prompt in best
        ], "rejected ones fill up"
        answer(sampler, draws, outcomes, version)
        weights = np.minimum(1 / draws["admissions"], SETTINGS["max_target_weight"]).tolist()
        expected.labels += [
            Label(prompt, outcomes[prompt], G, version, math.nan, weight)
            for prompt, weight in zip(best, weights, strict=True)
        ]
        version += elapsed


@pytest.mark.parametrize("rule", REFERENCES)
@settings(max_examples=30, deadline=None)
@given(rounds=ROUNDS, data=st.data())
def test_a_rule_draws_what_its_source_draws(
    rule: str, rounds: list[tuple[int, set[int], int, list[int]]], data: st.DataObject
) -> None:
    follow(rule, data.draw(OPTIONS.get(rule, st.just({}))), N_PROMPTS, rounds)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        *((name, LONG_RUN.get(name, {})) for name in REFERENCES),
        ("greso", {"adaptation": 0.2}),
        ("polaris", {"stage_steps": 6.0}),
    ],
)
def test_a_long_run_draws_what_its_source_draws(rule: str, options: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    follow(
        rule,
        options,
        40,
        [(1, range(40), 12, rng.choice([0, 2, 2, 2, 4], 40).tolist()) for _ in range(25)],
    )


@pytest.mark.parametrize("rule", ["uniform", "greso", "polaris"])
def test_rules_that_admit_and_reject_look_at_no_more_than_they_need(rule: str) -> None:
    sampler = build(rule, 60, rule_options={"stage_steps": 2} if rule == "polaris" else {})
    for version in range(12):
        admitted = looked_at = 0
        while (candidates := sampler.propose(6, version)).size:
            assert candidates.size <= 6 - admitted
            looked_at += candidates.size
            admitted += int(
                sampler.wanted(candidates, np.full(candidates.size, math.nan), version).sum()
            )
            sampler.offer(candidates, np.full(candidates.size, math.nan), version)
        draws = sampler.take(6, version)
        assert (
            admitted == 6
            or looked_at == 60
            or looked_at == 6 * sampler.candidates_per_draw(version)
        )
        assert (draws["kinds"] == 0).sum() == admitted
        sampler.observe(
            draws["draw_ids"],
            rewards(np.where(draws["prompts"] % 3 == 0, 2, G)),
            np.full(6, math.nan),
            version,
        )
    assert sampler.counters()["rejected"] > 0 or rule == "uniform"


def test_a_chain_that_was_just_labelled_is_asked_about_its_next_version() -> None:
    """At the version of the label itself.

    (a second round of draws) candidates stand as they will one version later, for no rollout is
    repeated.
    """
    orders = []
    for asked_at in (2, 3):
        sampler = build("dps")
        for version in range(3):
            sampler.offer(
                candidates := sampler.propose(12, version, range(N_PROMPTS)),
                np.full(candidates.size, math.nan),
                version,
            )
            draws = sampler.take(12, version)
            steady = draws["prompts"] % 2 == 0
            sampler.observe(
                draws["draw_ids"],
                rewards(np.where(steady | (version != 1), 2, 0)),
                np.full(12, math.nan),
                version,
            )
        sampler.offer(
            candidates := sampler.propose(6, asked_at, range(N_PROMPTS)),
            np.full(candidates.size, math.nan),
            asked_at,
        )
        orders.append(sampler.take(6, asked_at)["prompts"])
    assert (orders[0] == orders[1]).all()
    assert (orders[0] % 2 == 0).all()


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 2**64 - 1), rounds=ROUNDS, wasted=st.integers(0, 30))
@settings(max_examples=15, deadline=None)
def test_among_depends_on_no_epoch_order_and_on_no_order_of_its_own(
    rule: str, seed: int, rounds: list[Any], wasted: int
) -> None:
    """One sampler has looked at candidates in epoch order before, which were then left alone."""
    mine, other = build(rule, seed=seed, max_age=3), build(rule, seed=seed, max_age=3)
    other.offer(candidates := other.propose(wasted, 0), np.full(candidates.size, math.nan), 0)
    for sampler in (mine, other):
        sampler.take(0, 0)
    version = 0
    for elapsed, among, n, outcomes in rounds:
        answers = []
        for sampler, named in ((mine, sorted(among)), (other, sorted(among, reverse=True))):
            candidates = sampler.propose(n, version, named)
            sampler.offer(candidates, np.linspace(0, 1, candidates.size), version)
            assert sampler.propose(n, version, named).size == 0
            draws = sampler.take(n, version)
            answer(sampler, draws, outcomes, version)
            answers.append(
                (candidates.tolist(), {name: column.tolist() for name, column in draws.items()})
            )
        assert answers[0] == answers[1]
        assert set(answers[0][0]) == among
        version += elapsed


@pytest.mark.parametrize(("reprobe_share", "most"), [(0.25, 4), (0.5, 8)])
def test_those_due_among_named_prompts_come_first_oldest_first_and_are_all_drawn(
    reprobe_share: float, most: int
) -> None:
    sampler = build("budget", max_age=2, probe_rollouts=1, reprobe_share=reprobe_share)
    labelled_at = np.full(N_PROMPTS, -1)
    probed = 0
    for version in range(20):
        among = np.random.default_rng(version).permutation(N_PROMPTS)[:8]
        due = np.sort(labelled_at[among][version - labelled_at[among] >= 2])[:most]
        candidates = sampler.propose(4, version, among)
        assert labelled_at[candidates[: due.size]].tolist() == due.tolist()
        sampler.offer(candidates, np.full(8, math.nan), version)
        draws = sampler.take(4, version)
        assert set(candidates[: due.size]) <= set(draws["prompts"])
        is_probe = draws["kinds"] == 3
        assert set(draws["prompts"][is_probe]) <= set(candidates[: due.size])
        assert draws["n_rollouts"].tolist() == np.where(is_probe, 1, G).tolist()
        answer(sampler, draws, [2] * N_PROMPTS, version)
        labelled_at[draws["prompts"]] = version
        probed += is_probe.sum()
    assert probed > 10


def test_nobody_waits_before_or_after_a_batch_of_named_prompts() -> None:
    sampler = build("window", 40, use_history=False)
    sampler.offer(candidates := sampler.propose(4, 0), np.full(candidates.size, 0.5), 0)
    assert sampler.take(4, 0)["prompts"].tolist() == candidates[:4].tolist()
    held, waiting = set(candidates[:4].tolist()), set(candidates[4:].tolist())
    assert waiting and set(sampler.state_dict()["buffer.prompts"]) == waiting  # type: ignore[arg-type]
    strangers = sorted(set(range(40)) - held - waiting)
    assert set(sampler.propose(4, 1, [*strangers, *held])) == set(strangers), (
        "those in flight are left out"
    )
    sampler.offer(sampler.state_dict()["buffer.pending"], np.full(len(strangers), 0.5), 1)
    assert set(sampler.take(4, 1)["prompts"]) <= set(strangers)
    assert sampler.state_dict()["buffer.prompts"].size == 0  # type: ignore[union-attr]
    assert set(sampler.propose(4, 2, range(40))) == set(range(40)) - set(
        sampler.in_flight()["prompts"]
    )


@pytest.mark.parametrize(("explore_share", "warmup_steps"), [(0.0, 0), (0.25, 0), (0.0, 9)])
def test_uniform_among_named_prompts_records_its_chance(
    explore_share: float, warmup_steps: int
) -> None:
    sampler = build("uniform", explore_share=explore_share, warmup_steps=warmup_steps)
    seen = np.zeros(N_PROMPTS)
    for _ in range(600):
        candidates = sampler.propose(3, 0, range(2, N_PROMPTS))
        sampler.offer(candidates, np.full(10, math.nan), 0)
        draws = sampler.take(3, 0)
        np.testing.assert_allclose(draws["admissions"], 0.3, rtol=1e-6)
        seen[draws["prompts"]] += 1
        sampler.release(draws["draw_ids"])
    assert seen[:2].tolist() == [0, 0]
    assert abs(seen[2:] / 600 - 0.3).max() < 6 * math.sqrt(0.3 * 0.7 / 600)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            ValueError,
            "among: got prompt 3 again at position 2, expected distinct prompts",
            lambda: build("uniform").propose(1, 0, [3, 1, 3]),
        ),
        (
            IndexError,
            "among: got index 12 at position 1",
            lambda: build("uniform").propose(1, 0, [3, 12]),
        ),
        (
            IndexError,
            "among: got index -1 at position 0",
            lambda: build("uniform").propose(1, 0, [-1]),
        ),
        (ValueError, "among: got a float64 array", lambda: build("uniform").propose(1, 0, [0.5])),
        (
            ValueError,
            "expected `offer`",
            lambda: [sampler.propose(1, 0, [1, 2]) for sampler in [build("uniform")] * 2],
        ),
        (
            ValueError,
            'rule: got "best", expected one of ' + ", ".join(RULES),
            lambda: build("best"),
        ),
        (
            ValueError,
            "rule_options: got deacy = 0.5, expected options of mopps: decay within",
            lambda: build("mopps", rule_options={"deacy": 0.5}),
        ),
        (
            ValueError,
            r"rule_options: got decay = 1.5, .* decay within 0\.\.1, target",
            lambda: build("mopps", rule_options={"decay": 1.5}),
        ),
        (
            ValueError,
            "rule_options: got keep = NaN",
            lambda: build("greso", rule_options={"keep": math.nan}),
        ),
        (
            ValueError,
            "rule_options: got decay = 0.5, expected options of uniform: none",
            lambda: build("uniform", rule_options={"decay": 0.5}),
        ),
    ],
)
def test_bad_input_is_named(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message):
        call()


def test_among_belongs_to_the_start_of_a_batch() -> None:
    sampler = build("window")
    sampler.offer(candidates := sampler.propose(2, 0), np.full(candidates.size, 0.9), 0)
    with pytest.raises(ValueError, match="among: got candidates in the middle of a batch without"):
        sampler.propose(2, 0, [1])
    assert sampler.propose(2, 0).size


@pytest.mark.parametrize("preset", SELECTOR_PRESETS)
@given(rounds=ROUNDS, cut=st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_a_preset_resumes_in_the_middle_among_named_prompts_and_in_epoch_order(
    preset: str, rounds: list[Any], cut: int
) -> None:
    def start() -> PromptSampler:
        options = {"rule_options": {"stage_steps": 2}} if preset == "polaris" else {}
        config = SelectorConfig.from_preset(preset, warmup_steps=1, max_age=3, **options)
        return PromptSampler([f"prompt {index}" for index in range(N_PROMPTS)], G, config, None, 3)

    def play(sampler: PromptSampler, position: int) -> object:
        version = sum(elapsed for elapsed, *_ in rounds[:position])
        _, among, n, outcomes = rounds[position]
        draws = sampler.sample(
            n, policy_version=version, among=None if position % 3 == 2 else sorted(among)
        )
        known = [
            [
                float(rollout < outcome) if rollout < draw.n_rollouts else math.nan
                for rollout in range(G)
            ]
            for draw, outcome in zip(draws, outcomes, strict=False)
        ]
        verdicts = sampler.observe(draws, known, policy_version=version)
        return repr(draws), repr(verdicts)

    whole, split = start(), start()
    for position in range(len(rounds)):
        if position == cut:
            saved = split.state_dict()
            split = start()
            split.load_state_dict(saved)
        assert play(whole, position) == play(split, position)


def test_another_policy_keeps_the_beliefs_and_forgets_the_memory() -> None:
    old = build("mopps")
    for version in range(3):
        candidates = old.propose(4, version, range(N_PROMPTS))
        old.offer(candidates, np.full(candidates.size, math.nan), version)
        old.observe(
            old.take(4, version)["draw_ids"], rewards([0, 1, 2, 4]), np.full(4, math.nan), version
        )
    state = old.state_dict()
    for rule in RULES:
        new = build(rule)
        new.load_state_dict(state)
        unknown = np.full(N_PROMPTS, math.nan)
        np.testing.assert_array_equal(
            new.beliefs(range(N_PROMPTS), unknown, 3)["pass_rates"],
            old.beliefs(range(N_PROMPTS), unknown, 3)["pass_rates"],
        )
        memory = {
            name: value for name, value in new.state_dict().items() if name.startswith("policy.")
        }
        fresh = {
            name: value
            for name, value in (old if rule == "mopps" else build(rule)).state_dict().items()
            if name.startswith("policy.")
        }
        assert repr(memory) == repr(fresh)
    with pytest.raises(StateError, match=r"policy\.successes"):
        old.load_state_dict(
            {name: value for name, value in state.items() if name != "policy.successes"}
        )


def test_memories_follow_their_ids_into_another_pool() -> None:
    for rule in RULES:
        old = build(rule)
        candidates = old.propose(6, 0, range(6))
        old.offer(candidates, np.full(6, math.nan), 0)
        draws = old.take(6, 0)
        old.observe(draws["draw_ids"], rewards(draws["prompts"] % 5), np.full(6, math.nan), 0)
        new = _core.Sampler(
            [7, *range(111, 99, -1)], np.zeros(13, np.uint32), **{**SETTINGS, "rule": rule}
        )
        assert new.load_state_dict(old.state_dict(), strict=False) == {
            "matched": 12,
            "missing": 0,
            "added": 1,
        }
        before, after = old.state_dict(), new.state_dict()
        for name in (
            name
            for name in before
            if name.startswith("policy.")
            and isinstance(before[name], np.ndarray)
            and name != "policy.tally"
        ):
            rows_before, rows_after = (
                np.reshape(before[name], (12, -1)),
                np.reshape(after[name], (13, -1)),
            )
            np.testing.assert_array_equal(rows_after[1:], rows_before[::-1], err_msg=name)


def test_presets_say_what_they_do_and_where_it_comes_from() -> None:
    for name, preset in SELECTOR_PRESETS.items():
        config = SelectorConfig.from_preset(name)
        assert config.preset == name
        assert preset.summary.endswith(".") and preset.source
        assert {key: getattr(config, key) for key in preset.settings} == dict(preset.settings)
        PromptSampler(["a", "b"], G, config)
    assert {SelectorConfig.from_preset(name).rule for name in SELECTOR_PRESETS} == set(RULES)
