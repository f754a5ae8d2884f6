"""The slime adapter against slime's contract.

(tests/slime_contract.py says what that is, and that slime itself does not run here).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from depo import ConfigError, DataError, StateError
from depo.integrations.slime import DepoDataSource, observe_all_samples
from depo.testing import check_adapter
from tests.estimator.estimator_helpers import word_tokenizer
from tests.integrations.slime_contract import (
    Group,
    PartialRolloutHarness,
    SlimeHarness,
    Status,
    arguments,
    install,
    rollout,
)


@pytest.fixture(autouse=True)
def _slime(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture
def prompt_data(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(
            json.dumps({"input": f"prompt {number}" + " w1" * (number % 5), "answer": str(number)})
            + "\n"
            for number in range(40)
        )
    )
    return path


def finish_with(rewards: Callable[[int], list[Any]]) -> Callable[[Group], bool]:
    """Every group finishes; its rewards are a function of the prompt's number."""

    def finish(group: Group) -> bool:
        assert isinstance(group[0].prompt, str)
        for sample, reward in zip(group, rewards(int(group[0].prompt.split()[1])), strict=True):
            sample.status, sample.reward = Status.COMPLETED, reward
        return True

    return finish


mixed = finish_with(lambda number: [0.0, 1.0, 0.0, float(number % 2)])


@pytest.mark.parametrize("harness", [SlimeHarness, PartialRolloutHarness])
def test_the_adapter_keeps_the_laws(harness: type[SlimeHarness], tmp_path: Path) -> None:
    report = check_adapter(partial(harness, tmp_path), n_prompts=80)
    assert set(report.unsupported) == {"duplicate"} | (
        {"aborted"} if harness.partial_rollout else {"late", "resumed"}
    )


def test_groups_carry_the_prompt_its_label_and_indices_of_their_own(prompt_data: Path) -> None:
    source = DepoDataSource(arguments(prompt_data, label_key="answer"))
    groups = source.get_samples(3) + source.get_samples(2)
    assert len(source) == 40
    assert [len(group) for group in groups] == [4] * 5
    assert all(
        str(sample.prompt).split()[1] == sample.label for group in groups for sample in group
    )
    assert [sample.index for group in groups for sample in group] == list(range(20))
    assert len({id(sample) for group in groups for sample in group}) == 20


def test_prompts_are_what_slime_makes_of_them(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    rows = [
        {"q": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]},
        {"q": "3 + 3?"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = DepoDataSource(arguments(path, input_key="q", apply_chat_template=True))
    texts = [prompt.text for prompt in source.rows.sampler.prompts]
    assert texts == [
        "<system>Be brief.</s><user>2 + 2?</s><assistant>",
        "<user>3 + 3?</s><assistant>",
    ]  # in the order of the file, shuffled or not
    assert {group[0].prompt for group in source.get_samples(2)} == set(texts)


def test_dropped_groups_are_observed_and_the_next_round_has_a_newer_version(
    prompt_data: Path,
) -> None:
    args = arguments(prompt_data, rollout_batch_size=2, over_sampling_batch_size=4)
    source = DepoDataSource(args)
    seen = rollout(
        args,
        source,
        mixed,
        keep=lambda group: str(group[0].prompt).split()[1] != "7" and group[3].reward == 1.0,
    )
    totals = source.rows.sampler.totals()
    assert (totals["sampler/labelled"], source.rows.sampler.in_flight(), source.policy_version) == (
        len(seen),
        [],
        1,
    )
    assert source.rows.sampler.sample(1, policy_version=1)[0].policy_version == 1


def test_what_slime_aborts_is_free_again_unless_it_comes_back(prompt_data: Path) -> None:
    for partial_rollout in (False, True):
        args = arguments(prompt_data, over_sampling_batch_size=8, partial_rollout=partial_rollout)
        source = DepoDataSource(args)
        finished: list[Group] = []
        seen = rollout(
            args,
            source,
            lambda group, done=finished: len(done) < 4 and not done.append(group) and mixed(group),
        )  # type: ignore[misc]
        aborted = [group for group in seen if group[0].status is Status.ABORTED]
        assert len(aborted) == 4
        assert source.rows.sampler.totals()["sampler/released"] == (0 if partial_rollout else 4)
        again = source.get_samples(6)
        if partial_rollout:
            assert again[:4] == aborted and all(
                sample.response == "..." for group in again[:4] for sample in group
            )
        assert len({group[0].prompt for group in again}) == 6


def test_rewards_of_every_form(prompt_data: Path) -> None:
    args = arguments(prompt_data, reward_key="acc")
    source = DepoDataSource(args)
    groups = source.get_samples(4)
    for group in groups:
        for place, sample in enumerate(group):
            sample.status, sample.reward = Status.COMPLETED, {"acc": float(place < 2), "length": 7}
    groups[1][0].status = Status.FAILED
    groups[1][1].reward = None
    groups[2][0].status = Status.TRUNCATED
    groups[3] = [[sample, sample] for sample in groups[3]]  # type: ignore[misc]  # one rollout, several training samples
    told: list[Any] = []
    observe = source.rows.sampler.observe
    source.rows.sampler.observe = lambda draws, rewards, **options: (
        told.append((rewards, options)) or observe(draws, rewards, **options)
    )  # type: ignore
    groups[2][0].rollout_log_probs = [-1.0, -3.0]
    observe_all_samples(args, groups, source.get_samples)
    (rewards_BG, options), nan = told[0], math.nan
    assert np.array_equal(
        rewards_BG, [[1, 1, 0, 0], [nan, nan, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]], equal_nan=True
    )
    assert np.array_equal(options["logprobs"], [nan, nan, -2.0, nan], equal_nan=True)


def test_an_unnamed_reward_is_an_error(prompt_data: Path) -> None:
    args = arguments(prompt_data)
    source = DepoDataSource(args)
    with pytest.raises(DataError, match="dict of acc, expected a number, or --reward-key"):
        rollout(args, source, finish_with(lambda number: [{"acc": 1.0}] * 4))


def test_a_resumed_run_draws_what_the_uninterrupted_one_draws(
    prompt_data: Path, tmp_path: Path
) -> None:
    args = arguments(
        prompt_data,
        save=str(tmp_path / "run"),
        load=str(tmp_path / "run"),
        label_key="answer",
        depo={"seed": 5},
    )

    def play(source: DepoDataSource, rounds: range) -> list[list[Any]]:
        drawn = []
        for rollout_id in rounds:
            drawn.append([group[0].prompt for group in rollout(args, source, mixed)])
            source.save(rollout_id)
        return drawn

    whole = play(DepoDataSource(args), range(12))
    resumed = DepoDataSource(args)
    resumed.load(5)
    assert play(resumed, range(6, 12)) == whole[6:]
    assert sorted(path.name for path in (tmp_path / "run/rollout/depo_state_11").iterdir()) == [
        "arrays.safetensors",
        "state.json",
    ]


def test_states_that_do_not_fit(
    prompt_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(prompt_data, save=str(tmp_path), load=str(tmp_path))
    source = DepoDataSource(args)
    source.load(-1)  # what slime calls at the start of a new run
    assert caplog.text == ""
    source.load(3)
    assert "depo starts afresh" in caplog.text
    source.save(3)
    other = DepoDataSource(arguments(prompt_data, load=str(tmp_path), n_samples_per_prompt=8))
    with pytest.raises(StateError):
        other.load(3)


def test_too_few_prompts_are_an_error(prompt_data: Path) -> None:
    source = DepoDataSource(arguments(prompt_data))
    source.get_samples(38)
    with pytest.raises(
        DataError, match="40 distinct prompts, 38 of them in flight, expected at least 3 free"
    ):
        source.get_samples(3)
    assert len(source.get_samples(2)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rollout_all_samples_process_path": None},
            "rollout-all-samples-process-path: got nothing",
        ),
        ({"prompt_data": None}, "--prompt-data: got nothing"),
        ({"rollout_global_dataset": False}, "--disable-rollout-global-dataset"),
        ({"buffer_filter_path": "my.filter"}, "--buffer-filter-path: got my.filter"),
        (
            {"depo": {"selector": "depo"}},
            "depo of --custom-config-path: got selector, expected selection",
        ),
        ({"depo": {"selection": {"max_agee": 3}}}, "did you mean selection.max_age"),
    ],
)
def test_flags_that_depo_cannot_work_with(
    changes: dict[str, Any], message: str, prompt_data: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        DepoDataSource(SimpleNamespace(**{**vars(arguments(prompt_data)), **changes}))


def test_settings_and_estimator_come_from_the_custom_config(
    prompt_data: Path, tmp_path: Path
) -> None:
    word_tokenizer().save_pretrained(tmp_path / "policy")
    sizes = {"hidden_size": 16, "layers": 1, "heads": 2, "trunk_sizes": [16, 8]}
    chosen = {
        "seed": 3,
        "selection": {"preset": "depo_paper", "warmup_steps": 2},
        "estimator": {"preset": "online", **sizes},
    }
    args = arguments(
        prompt_data,
        depo=chosen,
        hf_checkpoint=str(tmp_path / "policy"),
        save=str(tmp_path),
        load=str(tmp_path),
    )
    source, resumed = DepoDataSource(args), DepoDataSource(args)
    config, estimator = source.rows.sampler.config, source.rows.sampler.estimator
    assert (config.rule, config.warmup_steps, config.probe_rollouts, source.rows.sampler.seed) == (
        "window",
        2,
        "all",
        3,
    )
    assert estimator is not None
    for rollout_id in range(3):
        rollout(args, source, mixed)
        assert estimator.version > rollout_id
    source.save(2)
    resumed.load(2)
    predictions = [
        each.rows.sampler.beliefs(range(40), policy_version=3)[0] for each in (source, resumed)
    ]
    assert np.array_equal(*predictions) and np.ptp(predictions[0]) > 0


def test_another_data_source_is_an_error(prompt_data: Path) -> None:
    with pytest.raises(ConfigError, match="--data-source-path: got a list, expected depo"):
        observe_all_samples(arguments(prompt_data), [], [])


@pytest.mark.parametrize("name", ["miles", "vime"])
def test_the_kin_of_slime_are_found(
    name: str, prompt_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("slime", "slime.rollout", "slime.rollout.data_source"):
        monkeypatch.delitem(__import__("sys").modules, path)
    with pytest.raises(ImportError, match="needs one of slime, miles, vime"):
        DepoDataSource(arguments(prompt_data))
    install(monkeypatch, name)
    assert len(DepoDataSource(arguments(prompt_data))) == 40
