"""Laws of dataset and replay buffer together, in verl's own trainers.

Real loader, buffer, agent loop worker, TransferQueue and checkpoints, no model.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from depo import ConfigError, VerdictStatus
from tests.integrations.verl.verl_helpers import (
    TEXTS,
    Journal,
    clear_queue,
    fit,
    judged,
    make_trainer,
    pass_rate,
    step,
    verl_config,
)

pytestmark = pytest.mark.usefixtures("queue")
WARMUP = "+data.depo.selection.warmup_steps=2"
DAPO = ("algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=reward")
ASYNC = "trainer.v1.trainer_mode=colocate_async"


def start(directory: Path, *overrides: str, judge: Any = judged) -> tuple[Any, Journal]:
    trainer = make_trainer(verl_config(directory, TEXTS, WARMUP, *overrides), judge)
    return trainer, Journal(trainer.train_dataset.rows.sampler)


def without_depo(directory: Path, *overrides: str) -> DictConfig:
    return verl_config(
        directory,
        TEXTS,
        *overrides,
        "trainer.v1.sampler.custom_sampler.path=null",
        "trainer.v1.sampler.custom_sampler.name=null",
    )


def test_each_group_is_labelled_once_by_what_it_earned(tmp_path: Path) -> None:
    trainer, journal = start(tmp_path)
    for number in range(1, 25):
        metrics = step(trainer)
        assert metrics["depo/sampler/labelled"] == 4 * number
        assert {draw.policy_version for draw in journal.drawn[-4:]} == {number}
        assert not journal._sampler.in_flight()
    journal.check_labels()


def test_verls_own_loop_logs_depo_and_continues_from_its_checkpoint(tmp_path: Path) -> None:
    estimator = (
        "+data.depo.estimator={hidden_size: 16, layers: 1, heads: 2, feed_forward: 16, "
        "trunk_sizes: [16, 8], max_length: 32}"
    )
    whole, expected = start(tmp_path / "whole", estimator, "trainer.total_training_steps=22")
    rows = fit(whole, tmp_path / "whole.jsonl")
    assert [row["depo/sampler/labelled"] for row in rows] == list(range(4, 92, 4))
    assert {
        "depo/estimator/score_loss",
        "depo/estimator/distill_loss",
        "depo/belief/base_rate",
    } <= rows[-1].keys()

    first, head = start(
        tmp_path / "cut", estimator, "trainer.total_training_steps=10", "trainer.save_freq=10"
    )
    fit(first, tmp_path / "first.jsonl")
    second, tail = start(tmp_path / "cut", estimator, "trainer.total_training_steps=22")
    assert fit(second, tmp_path / "second.jsonl")[-1] == rows[-1]
    assert head.texts + tail.texts == expected.texts


def test_groups_that_dapo_filters_out_are_observed_and_replaced_by_depo(tmp_path: Path) -> None:
    trainer, journal = start(tmp_path, *DAPO)
    evicted: Counter[str] = Counter()
    for _ in range(10):
        evicted.update(
            {
                name: value
                for name, value in step(trainer).items()
                if "filter_groups" in name and isinstance(value, float)
            }
        )
    journal.check_labels()
    silent = sum(not verdict.informative for verdict in journal.verdicts)
    assert silent == evicted["training/filter_groups/evicted_samples"] > 0
    surplus = evicted["training/filter_groups/discarded_surplus_samples"]
    assert len(journal.verdicts) == 10 * 4 + silent + surplus, (
        "groups beyond the batch are paid for, so they are learned from"
    )
    assert not journal._sampler.in_flight()


def test_rollouts_are_judged_by_the_metric_that_dapo_filters_by(tmp_path: Path) -> None:
    """With a penalty of length on the reward, only `acc` says.

    This groups are solved by all or by none.
    """
    trainer, journal = start(
        tmp_path, *DAPO, "algorithm.filter_groups.metric=acc", "+length_penalty=0.2"
    )
    for _ in range(6):
        step(trainer)
    journal.check_labels()
    assert {verdict.informative for verdict in journal.verdicts} == {True, False}


def test_a_metric_that_the_reward_function_does_not_give_is_named(tmp_path: Path) -> None:
    """Without filtering verl never looks for it, and every group would be unknown to depo."""
    trainer, _ = start(tmp_path, "algorithm.filter_groups.metric=accuracy")
    with pytest.raises(
        ConfigError,
        match=r"algorithm.filter_groups.metric: got 'accuracy', expected what the reward function "
        r"returns, one of .*reward",
    ):
        step(trainer)


def test_the_buffer_has_the_settings_that_verl_gives_its_own(tmp_path: Path) -> None:
    names = (
        "filter_groups_metric",
        "sync_refill_failed_groups",
        "train_batch_size",
        "gen_batch_size",
        "max_inflight_gen_batches",
    )
    for overrides in (
        (),
        (*DAPO, "algorithm.filter_groups.max_inflight_gen_batches=3"),
        ("trainer.v1.sampler.sync_refill_failed_groups=True",),
    ):
        ours = PPOTrainerSync(verl_config(tmp_path, TEXTS, *overrides)).replay_buffer
        verls = PPOTrainerSync(without_depo(tmp_path, *overrides)).replay_buffer
        assert {name: getattr(ours, name) for name in names} == {
            name: getattr(verls, name) for name in names
        }


def test_failed_sessions_are_unknown(tmp_path: Path) -> None:
    async def judge(text: str, session: int, _: int) -> float:
        if session == 3:
            raise RuntimeError("the verifier is down")
        return math.nan if session == 2 else float(session)

    trainer, journal = start(tmp_path, judge=judge)
    for _ in range(3):
        step(trainer)
    assert {verdict.pass_rate for verdict in journal.verdicts} == {0.5}
    assert len(journal.verdicts) == len(journal.drawn) == 12


@pytest.mark.parametrize("replaced", [True, False])
def test_prompts_whose_rollouts_all_failed_are_free_again(tmp_path: Path, replaced: bool) -> None:
    async def judge(text: str, session: int, at: int) -> float:
        if at == 1 and text == failing[0]:
            raise RuntimeError("the environment is down")
        return await judged(text, session, at)

    failing: list[str] = []
    trainer, journal = start(
        tmp_path, f"trainer.v1.sampler.sync_refill_failed_groups={replaced}", judge=judge
    )
    draw = journal._draw
    journal._draw = lambda n, **at: [
        each for each in draw(n, **at) if failing.append(each.prompt.text) is None
    ]
    metrics = step(trainer)
    assert len(journal.drawn) == 4 + replaced
    assert (metrics["depo/sampler/labelled"], metrics["depo/sampler/released"]) == (3 + replaced, 1)
    assert not journal._sampler.in_flight()


def test_a_prompt_that_is_late_stays_in_flight_until_it_is_judged(tmp_path: Path) -> None:
    late, delivered = TEXTS[2], asyncio.Event()

    async def judge(text: str, session: int, at: int) -> float:
        if text == late:
            await delivered.wait()
        return await judged(text, session, at)

    trainer, journal = start(tmp_path, ASYNC, judge=judge)
    trainer._add_async_warmup_batches(3)
    for _ in range(12):
        step(trainer)
    [held] = [draw for draw in journal._sampler.in_flight() if draw.prompt.text == late]
    assert journal.texts.count(late) == 1
    trainer.agent_loop_manager.call(delivered.set)
    while held.draw_id not in {verdict.draw_id for verdict in journal.verdicts}:
        assert trainer.global_steps < 40
        step(trainer)
    [verdict] = [verdict for verdict in journal.verdicts if verdict.draw_id == held.draw_id]
    assert (verdict.status, verdict.pass_rate) == (VerdictStatus.LABELLED, pass_rate(late))


def test_groups_that_verl_drops_as_stale_are_observed(tmp_path: Path) -> None:
    trainer, journal = start(tmp_path, ASYNC, "trainer.v1.sampler.max_off_policy_threshold=1")
    trainer._add_async_warmup_batches(2)
    evicted = sum(step(trainer).get("training/off_policy/evicted_samples", 0) for _ in range(6))
    assert evicted > 0
    assert len(journal.verdicts) == 6 * 4 + evicted


@pytest.mark.parametrize("survives", [True, False], ids=["restored", "lost"])
def test_prompts_in_flight_at_a_checkpoint_are_finished_or_freed(
    tmp_path: Path, survives: bool
) -> None:
    async def never(text: str, session: int, at: int) -> float:
        if at == 4:
            await asyncio.Event().wait()
        return await judged(text, session, at)

    first, _ = start(
        tmp_path, ASYNC, "trainer.total_training_steps=4", "trainer.save_freq=4", judge=never
    )
    fit(first, tmp_path / "first.jsonl")
    held = {draw.draw_id for draw in first.train_dataset.rows.sampler.in_flight()}
    assert len(held) == 4
    checkpoint = tmp_path / "checkpoints" / "global_step_4" / "transfer_queue"
    clear_queue()
    if not survives:
        shutil.rmtree(checkpoint)
    second, journal = start(tmp_path, ASYNC, "trainer.total_training_steps=8")
    rows = fit(second, tmp_path / "second.jsonl")
    assert (
        held <= {verdict.draw_id for verdict in journal.verdicts}
        if survives
        else rows[-1]["depo/sampler/released"] == 4
    )
    assert {verdict.status for verdict in journal.verdicts} == {VerdictStatus.LABELLED}
    assert not held & {draw.draw_id for draw in journal._sampler.in_flight()}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            (ASYNC, "trainer.v1.sampler.custom_sampler.name=DepoReplayBuffer"),
            "in mode colocate_async, expected DepoReplayBufferAsync",
        ),
        (
            ("trainer.v1.sampler.custom_sampler.name=DepoReplayBufferAsync",),
            "in mode sync, expected DepoReplayBuffer",
        ),
        (
            ("reward.reward_model.enable=True",),
            "reward.reward_model.enable_resource_pool: got False, expected True",
        ),
        (("data.custom_cls.path=null",), "data.custom_cls: got RLHFDataset"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(
    tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        step(make_trainer(verl_config(tmp_path, TEXTS, *overrides), judged))
    assert message in str(refused.value)
