"""The Rust core through its bindings.

Against slow references (tests/reference.py), round trips of its state, and its errors.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from depo import SelectorConfig, _core
from depo.sampler.core import core_settings
from depo.types.errors import StateError
from tests.sampler import reference

GROUP_SIZE = 4
SETTINGS: Mapping[str, Any] = core_settings(SelectorConfig()) | {
    "group_size": GROUP_SIZE,
    "seed": 3,
    "warmup_steps": 2,
    "window": (0.3, 0.7),
    "candidates_per_draw": 3,
    "explore_share": 0.1,
    "max_age": 4,
    "source_floors": [0.25, 0.0],
    "scan_cap": 5,
    "replay_capacity": 10,
}
RULES = get_args(get_type_hints(SelectorConfig)["rule"])
BELIEFS = get_args(get_type_hints(SelectorConfig)["belief"])
KEYS = st.integers(0, 2**64 - 1)
Columns = dict[str, NDArray[Any]]
REWARDS = st.one_of(st.just(math.nan), st.sampled_from([0.0, 1.0]), st.floats(-4, 4, width=32))


def build(n_prompts: int = 30, **changes: Any) -> _core.Sampler:
    return _core.Sampler(
        np.arange(n_prompts) + 100, np.arange(n_prompts) % 2, **{**SETTINGS, **changes}
    )


def sample(sampler: _core.Sampler, n: int, version: int, seed: int) -> Columns:
    rng = np.random.default_rng(seed)
    while (candidates := sampler.propose(n, version)).size:
        sampler.offer(candidates, rng.random(candidates.size, dtype=np.float32), version)
    return sampler.take(n, version)


def observe(sampler: _core.Sampler, draw_ids: Any, version: int, seed: int) -> Columns:
    """Observe draws in flight.

    Of a probe only the rollouts that it asked for are known, of others most.
    """
    rng, opened = np.random.default_rng(seed), sampler.in_flight()
    n_rollouts = dict(zip(opened["draw_ids"].tolist(), opened["n_rollouts"].tolist(), strict=True))
    rewards_BG = rng.choice(
        [0.0, 1.0, np.nan], size=(len(draw_ids), GROUP_SIZE), p=[0.45, 0.45, 0.1]
    )
    rewards_BG[
        np.arange(GROUP_SIZE)
        >= np.array([n_rollouts.get(int(draw_id), GROUP_SIZE) for draw_id in draw_ids], int)[
            :, None
        ]
    ] = np.nan
    return sampler.observe(draw_ids, rewards_BG, rng.random(len(draw_ids)), version)


def assert_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    assert list(left) == list(right)
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)
        assert np.asarray(value).dtype == np.asarray(right[name]).dtype, name


@given(st.lists(st.text()))
def test_content_ids_are_xxh3(texts: list[str]) -> None:
    ids = _core.content_ids(texts)
    assert ids.dtype == np.uint64
    assert ids.tolist() == [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]


@given(KEYS, st.text(), st.lists(KEYS, max_size=4))
def test_keys_equal_the_reference(seed: int, purpose: str, parts: list[int]) -> None:
    assert _core.derive_key(seed, purpose, parts) == reference.derive_key(seed, purpose, parts)


@given(st.lists(KEYS, max_size=5), st.integers(0, 1000), st.integers(0, 20), st.integers(0, 20))
def test_uniforms_equal_the_reference_however_the_range_is_split(
    keys: list[int], first: int, count: int, split: int
) -> None:
    split = min(split, count)
    numbers = _core.uniforms(keys, first, count)
    assert numbers.shape == (len(keys), count)
    assert numbers.tolist() == [
        [reference.uniform(key, first + offset) for offset in range(count)] for key in keys
    ]
    parts = [_core.uniforms(keys, first, split), _core.uniforms(keys, first + split, count - split)]
    np.testing.assert_array_equal(numbers, np.concatenate(parts, axis=1))


@given(
    rewards=st.integers(1, 6).flatmap(
        lambda size: st.lists(
            st.lists(REWARDS, min_size=size, max_size=size), min_size=1, max_size=5
        )
    ),
    scale_by_std=st.booleans(),
    ddof=st.sampled_from([0, 1]),
    epsilon=st.sampled_from([0.0, 1e-6, 0.1]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_advantages_equal_the_reference(
    rewards: list[list[float]], scale_by_std: bool, ddof: int, epsilon: float, dtype: Any
) -> None:
    rewards_BG = np.array(rewards, dtype=dtype)
    advantages_BG, informative, means = _core.group_advantages(
        rewards_BG, scale_by_std=scale_by_std, ddof=ddof, epsilon=epsilon, tolerance=1e-3
    )
    assert [str(array.dtype) for array in (advantages_BG, informative, means)] == [
        "float32",
        "bool",
        "float32",
    ]
    for row, group in enumerate(rewards):
        expected, differs, mean = reference.group_advantages(
            group, scale_by_std, ddof, epsilon, tolerance=1e-3
        )
        np.testing.assert_allclose(advantages_BG[row], expected, rtol=1e-5, atol=1e-6)
        assert informative[row] == differs
        np.testing.assert_allclose(means[row], mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("belief", BELIEFS)
def test_budget_without_optimism_takes_the_most_informative_of_its_candidates(belief: str) -> None:
    certain = {"optimism": 0.0, "curiosity": 0.0}
    sampler = build(
        200,
        belief=belief,
        rule_options=certain,
        warmup_steps=0,
        explore_share=0.0,
        max_age=0,
        source_floors=[0.0, 0.0],
        use_history=False,
    )
    for version in range(20):
        candidates = sampler.propose(8, version)
        predictions = np.random.default_rng(version).random(candidates.size, dtype=np.float32)
        informative = sampler.beliefs(candidates, predictions, version)["p_informative"]
        sampler.offer(candidates, predictions, version)
        draws = sampler.take(8, version)
        best = np.argsort(-informative, kind="stable")[:8]
        assert draws["prompts"].tolist() == candidates[best].tolist()
        np.testing.assert_array_equal(draws["p_informative"], informative[best])
        np.testing.assert_array_equal(draws["predicted_rewards"], predictions[best])
        observe(sampler, draws["draw_ids"], version, seed=version)


@given(st.lists(st.floats(0, 1, width=32), min_size=40, max_size=40), st.integers(1, 6))
def test_a_starved_window_takes_the_nearest(predictions: list[float], n: int) -> None:
    sampler = build(40, rule="window", warmup_steps=0, explore_share=0.0, max_age=0)
    of_prompt = np.array(predictions, dtype=np.float32)
    looked_at: list[int] = []
    while (candidates := sampler.propose(n, 0)).size:
        sampler.offer(candidates, of_prompt[candidates], 0)
        looked_at += candidates.tolist()
    distances = reference.nearest_to_window(of_prompt, 0.3, 0.7)
    draws = sampler.take(n, 0)
    assert len(looked_at) <= 5 * n
    expected = sorted(looked_at, key=lambda prompt: distances[prompt])[:n]
    np.testing.assert_array_equal(np.sort(distances[draws["prompts"]]), distances[expected])
    assert (draws["kinds"] == np.where(distances[draws["prompts"]] > 0, 4, 0)).all()


def test_verdicts_tell_what_became_of_each_draw() -> None:
    sampler = build(warmup_steps=9)
    draws = sample(sampler, 3, 0, seed=0)
    ids = draws["draw_ids"]
    nan = math.nan
    rewards_BG = [[0.5, 0.25, nan, nan], [nan] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4]
    seen = sampler.observe([*ids, ids[0], 77, -1], rewards_BG, [0.5, 0.5, nan, 0.5, 0.5, 0.5], 0)
    assert seen["statuses"].tolist() == [0, 1, 0, 2, 3, 3]
    assert seen["informative"].tolist() == [True, False, False, False, False, False]
    np.testing.assert_array_equal(
        seen["pass_rates"], np.array([0.5, nan, 1.0, nan, nan, nan], np.float32)
    )
    np.testing.assert_array_equal(
        seen["mean_rewards"], np.array([0.375, nan, 1.0, nan, nan, nan], np.float32)
    )
    assert seen["prompts"].tolist() == [*draws["prompts"], -1, -1, -1]
    assert seen["kinds"].tolist() == [1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(
        seen["admissions"], np.array([1, 1, 1, nan, nan, nan], np.float32)
    )
    targets = sampler.fresh_targets()
    assert targets["prompts"].tolist() == draws["prompts"][[0, 2]].tolist()
    np.testing.assert_array_equal(targets["counts"], np.array([2, 4], np.float32))
    np.testing.assert_array_equal(targets["logprob_targets"], np.array([0.5, nan], np.float32))
    assert sampler.fresh_targets()["prompts"].size == 0
    counts = sampler.counters()
    assert [
        counts[name]
        for name in ("labelled", "unknown", "closed", "never_issued", "informative", "late")
    ] == [2, 1, 1, 2, 1, 0]


def test_targets_weigh_as_much_as_their_admission_was_rare_up_to_the_cap() -> None:
    sampler = build(200, max_age=0, max_target_weight=6.0, explore_share=0.2, warmup_steps=0)
    weights: list[float] = []
    for version in range(20):
        seen = observe(
            sampler, sample(sampler, 4, version, seed=version)["draw_ids"], version, seed=version
        )
        labelled = seen["admissions"][seen["statuses"] == 0]
        targets = sampler.fresh_targets()
        np.testing.assert_allclose(targets["weights"], np.minimum(1 / labelled, 6.0), rtol=1e-6)
        np.testing.assert_array_equal(
            targets["reward_targets"], seen["pass_rates"][seen["statuses"] == 0]
        )
        weights += targets["weights"].tolist()
    assert min(weights) == 1.0 < np.median(np.unique(weights)) < max(weights) == 6.0, (
        "the run meets sure, rarer and capped draws"
    )


@settings(deadline=None, max_examples=30)
@given(
    rule=st.sampled_from(RULES),
    belief=st.sampled_from(BELIEFS),
    batches=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=10),
    cut=st.integers(0, 9),
    mid_batch=st.booleans(),
)
def test_a_run_resumed_from_its_state_equals_the_run_in_one_piece(
    rule: str, belief: str, batches: list[tuple[int, int]], cut: int, mid_batch: bool
) -> None:
    def resumed(sampler: _core.Sampler) -> _core.Sampler:
        saved = sampler.state_dict()
        scalars = json.loads(
            json.dumps(
                {name: value for name, value in saved.items() if not isinstance(value, np.ndarray)}
            )
        )
        copy = build(rule=rule, belief=belief)
        assert copy.load_state_dict({**saved, **scalars}) == {
            "matched": 30,
            "missing": 0,
            "added": 0,
        }
        return copy

    def run(split: bool) -> tuple[list[Columns], dict[str, Any]]:
        sampler = build(rule=rule, belief=belief)
        answers: list[Columns] = []
        for version, (n, labelled) in enumerate(batches):
            if split and version == cut and not mid_batch:
                sampler = resumed(sampler)
            candidates = sampler.propose(n, version)
            if split and version == cut and mid_batch:
                sampler = resumed(sampler)
            sampler.offer(
                candidates, np.random.default_rng(version).random(candidates.size), version
            )
            answers += [sample(sampler, n, version, seed=version), sampler.replay_targets(3)]
            answers += [
                observe(
                    sampler,
                    sampler.in_flight()["draw_ids"][:labelled],
                    max(version - 1, 0),
                    seed=version,
                )
            ]
        return answers, sampler.state_dict()

    (whole, whole_state), (split, split_state) = run(split=False), run(split=True)
    for left, right in zip(whole, split, strict=True):
        assert_same(left, right)
    assert_same(whole_state, split_state)


@pytest.mark.parametrize("belief", BELIEFS)
def test_a_state_follows_ids_into_another_pool(belief: str) -> None:
    old = build(20, belief=belief)
    for version in range(5):
        observe(old, sample(old, 6, version, seed=version)["draw_ids"][:4], version, seed=version)
    new_ids = np.array([7, *range(119, 104, -1), 8], dtype=np.uint64)
    new = _core.Sampler(new_ids, np.zeros(17, np.uint32), **{**SETTINGS, "belief": belief})
    with pytest.raises(StateError, match="other prompts"):
        new.load_state_dict(old.state_dict())
    assert new.load_state_dict(old.state_dict(), strict=False) == {
        "matched": 15,
        "missing": 5,
        "added": 2,
    }
    unknown = np.full(15, np.nan)
    assert_same(new.beliefs(range(1, 16), unknown, 5), old.beliefs(range(19, 4, -1), unknown, 5))
    kept = [row for row, prompt in enumerate(old.in_flight()["prompts"]) if prompt >= 5]
    assert new.in_flight()["draw_ids"].tolist() == old.in_flight()["draw_ids"][kept].tolist()
    assert (new_ids[new.in_flight()["prompts"]] == old.in_flight()["prompts"][kept] + 100).all()


BAD_CALLS: list[tuple[type[Exception], str, Any]] = [
    (ValueError, "seed: got -1", lambda: build(seed=-1)),
    (ValueError, 'rule: got "best"', lambda: build(rule="best")),
    (ValueError, "window", lambda: build(window=(0.8, 0.2))),
    (
        ValueError,
        r"discount = 0, expected options of beta: .*discount within 0.001\.\.1",
        lambda: build(belief="beta", belief_options={"discount": 0.0}),
    ),
    (
        ValueError,
        "belief_options: got discount = 0.9, expected options of logit_normal",
        lambda: build(belief_options={"discount": 0.9}),
    ),
    (
        ValueError,
        "belief_options: got noise = NaN",
        lambda: build(belief_options={"noise": math.nan}),
    ),
    (
        ValueError,
        'belief: got "gamma", expected one of beta, logit_normal',
        lambda: build(belief="gamma"),
    ),
    (
        ValueError,
        "probe_rollouts: got 5, expected at most group_size = 4",
        lambda: build(probe_rollouts=5),
    ),
    (ValueError, "reprobe_share: got 1.5", lambda: build(reprobe_share=1.5)),
    (ValueError, "group_size: got 1", lambda: build(group_size=1)),
    (ValueError, "source_floors", lambda: build(source_floors=[0.8, 0.8])),
    (IndexError, "sources: got index 1 at position 1", lambda: build(source_floors=[0.5])),
    (
        ValueError,
        "got id 5 at positions 0 and 2",
        lambda: _core.Sampler([5, 6, 5], [0, 0, 0], **SETTINGS),
    ),
    (ValueError, "sources: got length 1", lambda: _core.Sampler([5, 6], [0], **SETTINGS)),
    (ValueError, "ids: got a float64 array", lambda: _core.Sampler([0.5, 6.0], [0, 0], **SETTINGS)),
    (ValueError, "ids: got -5 at position 0", lambda: _core.Sampler([-5, 6], [0, 0], **SETTINGS)),
    (ValueError, "n: got -1", lambda: build().propose(-1, 0)),
    (ValueError, "policy_version: got -1", lambda: build().take(1, -1)),
    (ValueError, "expected `offer`", lambda: [sampler.propose(1, 0) for sampler in [build()] * 2]),
    (
        ValueError,
        "candidates: got prompt 3 at position 0, expected nothing",
        lambda: build().offer([3], [0.5], 0),
    ),
    (IndexError, "prompts: got index 30", lambda: build().beliefs([0, 30], [0.5, 0.5], 0)),
    (IndexError, "prompts: got index -1", lambda: build().wanted([-1], [0.5], 0)),
    (
        ValueError,
        "predicted_rewards: got 1.5 at position 1",
        lambda: build().beliefs([0, 1], [0.5, 1.5], 0),
    ),
    (ValueError, "predicted_rewards: got length 1", lambda: build().beliefs([0, 1], [0.5], 0)),
    (ValueError, "rewards: got shape", lambda: build().observe([0], [[1.0, 0.0]], [0.5], 0)),
    (
        ValueError,
        "rewards: got a float64 array of shape",
        lambda: build().observe([0], [1.0, 0.0], [0.5], 0),
    ),
    (
        ValueError,
        "rewards: got inf in row 0, column 3",
        lambda: build().observe([0], [[1.0, 0.0, 0.0, math.inf]], [0.5], 0),
    ),
    (
        ValueError,
        "logprob_targets: got 2 at position 0",
        lambda: build().observe([0], [[1.0] * 4], [2.0], 0),
    ),
    (ValueError, "rewards: got shape", lambda: _core.group_advantages(np.zeros((0, 4)))),
    (ValueError, "rewards: got shape", lambda: _core.group_advantages(np.zeros((4, 0)))),
    (ValueError, "rewards: got -inf", lambda: _core.group_advantages([[1.0, -math.inf]])),
    (ValueError, "rewards: got a <U1 array", lambda: _core.group_advantages([["a", "b"]])),
    (ValueError, "ddof: got 2", lambda: _core.group_advantages([[1.0, 0.0]], ddof=2)),
    (
        StateError,
        'got 1 for entry "version", expected 3',
        lambda: build().load_state_dict({**build().state_dict(), "version": 1}),
    ),
    (
        StateError,
        'got logit_normal for entry "settings.belief", expected beta',
        lambda: build(belief="beta").load_state_dict(build().state_dict()),
    ),
    (StateError, "settings.seed", lambda: build(seed=4).load_state_dict(build().state_dict())),
    (
        StateError,
        "settings.group_size",
        lambda: build(group_size=8).load_state_dict(build().state_dict()),
    ),
    (StateError, '"extra"', lambda: build().load_state_dict({**build().state_dict(), "extra": 1})),
    (
        StateError,
        "got 31 prompts|31 prompts",
        lambda: build().load_state_dict(build(31).state_dict()),
    ),
    (
        StateError,
        "list",
        lambda: build().load_state_dict({**build().state_dict(), "counters": [1, 2]}),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD_CALLS)
def test_bad_input_is_named(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert caught.type is error


def test_threads_never_get_the_same_draw_or_label_it_twice() -> None:
    """Four threads close the same draws at once.

    Each is labelled exactly once, because calls exclude each other while Python runs on.
    """
    sampler = build(400, warmup_steps=9, explore_share=0.0)
    draws = sample(sampler, 300, 0, seed=0)["draw_ids"]
    statuses: list[list[int]] = []

    def close_all() -> None:
        statuses.append([int(observe(sampler, [draw], 0, seed=1)["statuses"][0]) for draw in draws])

    threads = [threading.Thread(target=close_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sum(status != 2 for status in row) for row in zip(*statuses, strict=True)] == [1] * 300
    assert sampler.counters()["closed"] == 900
