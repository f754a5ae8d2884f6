"""RowSampler: which row of a framework's data set next, and its state on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from depo import ConfigError, DataError, SelectorConfig, StateError
from depo.config import SourceConfig
from depo.integrations.row_sampler import RowSampler
from tests.estimator.estimator_helpers import SMALL, assert_same_state, build
from tests.sampler.sampler_helpers import LengthEstimator

SOURCE = SourceConfig(path="train_dataset", layout="trl")
G = 4


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"w{index % 20} w{index % 7} number {index}",
            "solution": str(index),
            "level": index % 3,
        }
        for index in range(count)
    ]


def make(count: int = 30, **options: Any) -> RowSampler:
    return RowSampler(rows(count), SOURCE, **{"group_size": G, "seed": 1, **options})


def step(sampler: RowSampler, version: int, n: int = 4) -> list[int]:
    draws, drawn = sampler.sample(n, policy_version=version)
    sampler.observe(
        draws,
        [[float(row % 3 > place % 2) for place in range(G)] for row in drawn],
        policy_version=version,
    )
    sampler.sampler.update_estimator()
    return drawn


def test_rows_are_those_of_the_draws() -> None:
    sampler = make()
    draws, drawn = sampler.sample(6, policy_version=0)
    assert [rows(30)[row]["prompt"] for row in drawn] == [draw.prompt.text for draw in draws]
    assert [sampler.row_of(draw) for draw in sampler.sampler.in_flight()] == drawn
    assert len(set(drawn)) == 6


def test_of_equal_rows_the_first_stands_for_all(caplog: pytest.LogCaptureFixture) -> None:
    same_text_other_truth = {**rows(1)[0], "solution": "another"}
    sampler = RowSampler([*rows(5), *rows(3), same_text_other_truth], SOURCE, group_size=G)
    assert "train_dataset: 3 of 9 rows repeat an earlier prompt and ground truth" in caplog.text
    assert sorted(sampler.sample(6, policy_version=0)[1]) == [0, 1, 2, 3, 4, 8]


def test_too_few_free_prompts_are_an_error_that_leaves_nothing_in_flight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    sampler = make(count=10)
    held, _ = sampler.sample(7, policy_version=0)
    with pytest.raises(
        DataError,
        match="got 10 distinct prompts, 7 of them in flight, expected at least 4 free ones",
    ):
        sampler.sample(4, policy_version=0)
    assert [draw.draw_id for draw in sampler.sampler.in_flight()] == [draw.draw_id for draw in held]
    assert len(sampler.sample(3, policy_version=0)[0]) == 3


def test_rows_that_are_no_prompts_are_errors() -> None:
    with pytest.raises(DataError, match="train_dataset, row 1: prompt: no such column"):
        RowSampler([{"prompt": "a"}, {"question": "b"}], SOURCE, group_size=G)
    with pytest.raises(DataError, match="train_dataset: got 0 rows"):
        RowSampler([], SOURCE, group_size=G)
    with pytest.raises(ConfigError, match="unknown"):
        make(selector="unknown")


def test_a_name_is_a_preset_and_settings_are_taken_as_they_are() -> None:
    assert make(selector="mopps").sampler.config == SelectorConfig.from_preset("mopps")
    config = SelectorConfig.from_preset("depo", warmup_steps=2)
    assert make(selector=config).sampler.config is config


def test_metrics_are_depos() -> None:
    sampler = make()
    step(sampler, 0)
    assert sampler.metrics()["depo/sampler/labelled"] == 4
    assert all(name.startswith("depo/") for name in sampler.metrics())


@pytest.mark.parametrize("with_estimator", [False, True])
def test_saved_and_loaded_the_rows_are_those_of_the_uninterrupted_run(
    with_estimator: bool, tmp_path: Path
) -> None:
    whole, first, second = (
        make(estimator=build(SMALL, seed=3) if with_estimator else None) for _ in range(3)
    )
    expected = [step(whole, version) for version in range(10)]
    for version in range(6):
        step(first, version)
    first.save(tmp_path / "new" / "depo")
    second.load(tmp_path / "new" / "depo")
    assert [step(second, version) for version in range(6, 10)] == expected[6:]
    assert str(second.metrics()) == str(whole.metrics())
    if with_estimator:
        assert_same_state(second.sampler.estimator, whole.sampler.estimator)  # type: ignore[arg-type]


class Refusing(LengthEstimator):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise StateError("estimator state: got another model")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"group_size": 8}, "group_size"),
        ({"seed": 2}, "seed"),
        ({"count": 29}, "prompts"),
        ({"estimator": None}, "got one for the estimator, expected none"),
        ({"estimator": Refusing()}, "got another model"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(other: dict[str, Any], message: str) -> None:
    saved = make(estimator=LengthEstimator())
    step(saved, 0)
    sampler = make(**{"estimator": LengthEstimator(), **other})
    open_draws, _ = sampler.sample(2, policy_version=0)
    with pytest.raises(StateError, match=message):
        sampler.load_state_dict(saved.state_dict())
    assert [draw.draw_id for draw in sampler.sampler.in_flight()] == [
        draw.draw_id for draw in open_draws
    ]
    assert sampler.metrics()["depo/sampler/labelled"] == 0


def test_a_state_without_its_parts_and_no_state_at_all(tmp_path: Path) -> None:
    sampler = make()
    with pytest.raises(
        StateError, match=r"got entries \['sampler'\], expected also \['estimator'\]"
    ):
        sampler.load_state_dict({"sampler": sampler.sampler.state_dict()})
    with pytest.raises(StateError, match=r"got no state\.json"):
        sampler.load(tmp_path)


def test_prompts_do_not_hold_the_rows() -> None:
    assert all(prompt.columns == {} for prompt in make().sampler.prompts)
    assert np.unique([prompt.source for prompt in make().sampler.prompts]).tolist() == [
        "train_dataset"
    ]
