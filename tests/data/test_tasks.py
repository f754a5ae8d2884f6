"""Prompts of reasoning-gym."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.config import SourceConfig
from depo.data import check_seed_overlap, load_prompts
from depo.data.tasks import REFUSED_TASKS
from depo.types.errors import ConfigError


@pytest.mark.parametrize(
    "task", ["chain_sum", "gcd", "spell_backward", "base_conversion", "graph_color", "syllogism"]
)
def test_items_depend_on_seed_plus_index_alone(task: str) -> None:
    whole = load_prompts([SourceConfig(task=task, seed=40, count=9)])
    parts = load_prompts(
        [SourceConfig(task=task, seed=40, count=4), SourceConfig(task=task, seed=44, count=5)]
    )
    assert [(prompt.text, prompt.answer, prompt.id) for prompt in whole] == [
        (prompt.text, prompt.answer, prompt.id) for prompt in parts
    ]


def test_what_the_reward_needs_is_in_the_columns() -> None:
    knobs = {"min_terms": 2, "max_terms": 2}
    (prompt,) = load_prompts(
        [SourceConfig(task="chain_sum", knobs=knobs, seed=3, count=1, band="trivial")]
    )
    assert json.loads(json.dumps(prompt.columns))["entry"]["question"] == prompt.text
    assert (prompt.columns["task"], prompt.columns["knobs"], prompt.band, prompt.source) == (
        "chain_sum",
        knobs,
        "trivial",
        "chain_sum",
    )


def test_a_template_can_strip_the_frame_by_metadata() -> None:
    (prompt,) = load_prompts(
        [SourceConfig(task="chain_sum", seed=3, count=1, template="{expression} =")]
    )
    assert prompt.text == prompt.columns["entry"]["metadata"]["expression"] + " ="
    with pytest.raises(
        ConfigError, match=r"placeholder \{expresion\}, expected .*\{expression\}.*\{prompt\}"
    ):
        load_prompts([SourceConfig(task="chain_sum", seed=3, count=1, template="{expresion} =")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "chainsum", "count": 1}, "chainsum.*chain_sum"),
        ({"task": "chain_sum", "count": "all"}, "count: got 'all', expected a number"),
        (
            {"task": "chain_sum", "count": 1, "knobs": {"terms": 3}},
            "knobs: got terms, expected some of .*max_terms",
        ),
        ({"task": "chain_sum", "count": 1, "knobs": {"seed": 3}}, "knobs: got seed"),
        (
            {"task": "chain_sum", "count": 1, "knobs": {"min_terms": 9, "max_terms": 2}},
            "which it refuses: AssertionError",
        ),
    ],
)
def test_bad_task_settings_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_prompts([SourceConfig(**settings)])


@pytest.mark.parametrize("task", REFUSED_TASKS)
def test_families_with_unsafe_scorers_are_refused(task: str) -> None:
    with pytest.raises(ConfigError, match=f"task {task}: refused, because its scorer"):
        load_prompts([SourceConfig(task=task, count=1)])


@settings(deadline=None)
@given(
    sources=st.lists(
        st.builds(
            SourceConfig,
            task=st.sampled_from(["gcd", "lcm"]),
            seed=st.integers(-9, 9),
            count=st.integers(1, 6),
        ),
        max_size=5,
    ),
    n_train=st.integers(0, 5),
)
def test_seed_ranges_are_refused_exactly_when_an_item_is_shared(
    sources: list[SourceConfig], n_train: int
) -> None:
    train, held_out = sources[:n_train], sources[n_train:]
    items = [
        {(source.task, source.seed + i) for source in part for i in range(source.count)}
        for part in (train, held_out)
    ]
    if items[0] & items[1]:
        with pytest.raises(ConfigError, match="expected ranges that do not overlap"):
            check_seed_overlap(train, held_out)
    else:
        check_seed_overlap(train, held_out)


def test_files_never_overlap_by_seed() -> None:
    check_seed_overlap(
        [SourceConfig(path="a.jsonl", count=5)], [SourceConfig(path="b.jsonl", count=5)]
    )
