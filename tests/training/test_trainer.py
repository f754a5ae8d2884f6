"""The training loop as a whole.

Every preset runs, its books balance, it learns, and it ends well where nothing can be learned.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import depo.training.trainer
from depo.runs.metric_names import METRICS, TIMINGS, describe
from depo.runs.run_records import RunRecords
from depo.training.trainer import Trainer
from depo.types.errors import StateError
from tests.training.quickstart import run_that_learns
from tests.training.tiny import checksum_overrides, tiny_config


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that holds the cached warm start."""
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def checksum_reward(shared: Path) -> tuple[str, ...]:
    return checksum_overrides(shared)


def train(shared: Path, run_directory: Path, *overrides: str) -> RunRecords:
    Trainer(tiny_config(shared, *overrides), run_directory).run()
    return RunRecords.read(run_directory)


@pytest.mark.parametrize("preset", ["uniform", "dapo", "depo_paper", "depo"])
def test_books_balance(shared: Path, tmp_path: Path, preset: str) -> None:
    records = train(shared, tmp_path, "--selection.preset", preset, "--selection.warmup_steps", "2")
    assert [row["step"] for row in records.metrics] == [*range(7)]
    for row in records.metrics[1:]:
        groups = [group for group in records.journal if group["step"] == row["step"]]
        assert row["rollout/groups"] == len(groups)
        assert row["rollout/sequences"] == 4 * len(groups)
        assert row["rollout/tokens"] == sum(group["tokens"] for group in groups)
        assert row["rollout/informative_share"] == pytest.approx(
            sum(group["informative"] for group in groups) / len(groups)
        )
        assert row["train/groups"] <= 4
        assert row["policy/updated"] in (0.0, 1.0)
    draw_ids = [group["draw_id"] for group in records.journal]
    assert draw_ids == [*range(len(draw_ids))]
    assert records.metrics[-1]["rollout/sequences_total"] == 4 * len(draw_ids)
    rounds = [row["rollout/rounds"] for row in records.metrics[1:]]
    assert max(rounds) <= (2 if preset in ("dapo", "depo") else 1)
    assert any("eval/accuracy/frontier" in row for row in records.metrics)


def test_every_metric_that_a_run_writes_is_documented(shared: Path, tmp_path: Path) -> None:
    records = train(shared, tmp_path)
    names = {name for row in records.metrics for name in row} - {"step"}
    assert all(describe(name).meaning for name in names)
    assert {name for row in records.timings for name in row} - {"step"} <= set(TIMINGS)
    assert len(METRICS) > len(names) / 2


def test_loss_variants_run(shared: Path, tmp_path: Path, checksum_reward: tuple[str, ...]) -> None:
    for name, overrides in {
        "kl": ("--loss.kl_weight", "0.05"),
        "dr_grpo": ("--loss.preset", "dr_grpo"),
        "minibatches": ("--optimizer.minibatches", "2", "--optimizer.tokens_per_microbatch", "64"),
        "overlong": ("--loss.overlong_buffer", "3"),
        "gspo": ("--loss.preset", "gspo", "--optimizer.minibatches", "2"),
        "cispo": ("--loss.preset", "cispo", "--optimizer.minibatches", "2"),
        "static_power": (
            "--loss.group_weighting",
            "static_power",
            "--loss.mask",
            "dagrpo",
            "--loss.mask_threshold",
            "0.5",
        ),
        "unbiased": ("--loss.importance_weighted", "true", "--loss.aggregation", "constant"),
    }.items():
        records = train(
            shared,
            tmp_path / name,
            "--run.steps",
            "2",
            "--run.eval_every",
            "off",
            *checksum_reward,
            *overrides,
        )
        assert all(
            row["policy/updated"] and math.isfinite(row["policy/loss"])
            for row in records.metrics[1:]
        )


def test_daro_continues_bit_for_bit(
    shared: Path, tmp_path: Path, checksum_reward: tuple[str, ...]
) -> None:
    daro = (
        "--loss.group_weighting",
        "daro",
        "--run.steps",
        "4",
        "--run.eval_every",
        "off",
        *checksum_reward,
    )
    whole = train(shared, tmp_path / "whole", *daro)
    assert any(row["loss/weight_max"] > 1.2 * row["loss/weight_min"] for row in whole.metrics[3:])
    dying = Trainer(tiny_config(shared, *daro), tmp_path / "cut")
    step_of = dying.step

    def dies_at_three(step: int) -> dict[str, float]:
        if step == 3:
            raise RuntimeError("died")
        return step_of(step)

    dying.step = dies_at_three  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="died"):
        dying.run()
    Trainer(tiny_config(shared, *daro), tmp_path / "cut").run()
    for name in ("metrics.jsonl", "journal.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_checkpoints_from_before_the_shaper_load_where_it_has_no_state(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = depo.training.trainer.save_checkpoint

    def without_shaper(directory: Path, step: int, state: dict[str, Any], *rest: Any) -> Path:
        return original(
            directory,
            step,
            {name: value for name, value in state.items() if name != "shaper"},
            *rest,
        )

    monkeypatch.setattr(depo.training.trainer, "save_checkpoint", without_shaper)
    train(shared, tmp_path, "--run.steps", "1")
    assert Trainer(tiny_config(shared), tmp_path).steps_done == 1
    with pytest.raises(StateError, match="got no group weights, which this configuration has"):
        Trainer(tiny_config(shared, "--loss.group_weighting", "daro"), tmp_path)


@pytest.mark.parametrize("preset", ["uniform", "depo_paper", "depo"])
def test_pool_without_anything_to_learn_ends_the_run(
    shared: Path, tmp_path: Path, preset: str
) -> None:
    """Five-digit products are beyond a policy of one layer that was never shown any.

    Every group is all wrong.
    """
    overrides = [
        "--selection.preset",
        preset,
        "--selection.warmup_steps",
        "1",
        "--selection.scan_cap",
        "5",
        "--run.steps",
        "50",
        "--run.stop_after_empty_steps",
        "4",
    ]
    config = tiny_config(shared, *overrides)
    hopeless = tmp_path / "hopeless.jsonl"
    hopeless.write_text(
        "".join(
            f'{{"prompt": "{10000 + i} * {20000 + i} =", "answer": "never {i}"}}\n'
            for i in range(80)
        )
    )
    from dataclasses import replace

    from depo.config import DataConfig, RewardConfig, SourceConfig
    from depo.training.warm_start import warm_start_policy

    policy = warm_start_policy(
        config.data.train, config.data.eval, config.warm_start, config.run.threads
    )
    data = DataConfig(train=(SourceConfig(path=str(hopeless)),))
    config = replace(
        config,
        data=data,
        reward=RewardConfig(function="exact"),
        policy=replace(config.policy, model=str(policy)),
    )
    result = Trainer(config, tmp_path / "run").run()
    assert result.status == "exhausted"
    assert "nothing to teach" in result.message
    rows = RunRecords.read(tmp_path / "run").metrics[1:]
    assert len(rows) == 4
    assert all(row["selection/scanned"] <= 5 * config.run.prompts_per_step for row in rows)
    assert all(row["policy/updated"] == 0.0 for row in rows)


@pytest.mark.slow
def test_quickstart_learns_and_rejects(quickstart_policies: Path, tmp_path: Path) -> None:
    run_that_learns(quickstart_policies, tmp_path / "run", "--evaluation.probe_prompts", "64")
