"""Training one step behind the rollouts.

What generates what, how old it may be, and that nothing depends on which of two things is done
first.

The engine is the local one on a copy of the policy, which is what a Ray worker has;
`test_ray_training.py` does the same with workers.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from depo.config import DistributedConfig, TrainConfig
from depo.runs.run_records import RunRecords
from depo.training.trainer import Trainer
from depo.types.errors import ConfigError
from tests.training.lag_helpers import LAG, without_cluster
from tests.training.tiny import checksum_overrides, tiny_config

DETERMINISTIC_FILES = ("metrics.jsonl", "journal.jsonl", "probes.jsonl")
STEPS = 4


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    without_cluster(monkeypatch)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that holds the cached warm start."""
    return tmp_path_factory.mktemp("lag")


@pytest.fixture
def config(shared: Path) -> Callable[..., TrainConfig]:
    """Return the configuration of a run in which rollouts may be one version old."""
    return lambda *overrides: tiny_config(
        shared,
        *checksum_overrides(shared),
        *LAG,
        "--run.eval_every",
        "1",
        "--run.steps",
        str(STEPS),
        *overrides,
    )


def assert_same_run(ours: Path, theirs: Path) -> None:
    for name in DETERMINISTIC_FILES:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    weights = [
        load_file(run / "checkpoints" / f"step_{STEPS:06d}" / "policy" / "model.safetensors")
        for run in (ours, theirs)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_every_batch_but_the_first_is_one_version_old(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    Trainer(config("--rollout.max_logprob_mismatch", "1e-4"), tmp_path).run()
    records = RunRecords.read(tmp_path)
    rows = records.metrics[1:]
    assert [row["policy/lag"] for row in rows] == [0, 1, 1, 1]
    for row in rows:
        assert {
            group["policy_version"] for group in records.journal if group["step"] == row["step"]
        } == {row["step"] - 1 - row["policy/lag"]}
        assert row["policy/updated"]
    first, *later = rows
    assert first["policy/logprob_mismatch"] < 1e-4
    assert abs(first["policy/ratio_mean"] - 1) < 1e-4
    for row in later:
        assert row["policy/logprob_mismatch"] > 1e-3, (
            "what one update changed, for which there is no limit"
        )
        assert row["policy/kl"] > 1e-6, "old log-probs are those of the rollouts"


@pytest.mark.parametrize("overlap", ["false", "true"])
def test_run_stopped_after_every_step_continues_as_if_nothing_had_happened(
    config: Callable[..., TrainConfig], tmp_path: Path, overlap: str
) -> None:
    overrides = (
        "--distributed.overlap",
        overlap,
        "--loss.group_weighting",
        "daro",
        "--loss.aggregation",
        "constant",
    )
    Trainer(config(*overrides), tmp_path / "whole").run()
    for steps in range(1, STEPS + 1):
        assert (
            Trainer(config(*overrides, "--run.steps", str(steps)), tmp_path / "cut").run().status
            == "finished"
        )
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("first", ["update", "rollouts"])
def test_update_and_next_rollouts_run_at_once_and_either_may_be_done_first(
    config: Callable[..., TrainConfig], tmp_path: Path, first: str
) -> None:
    Trainer(config("--run.eval_every", "off"), tmp_path / "whole").run()
    trainer = Trainer(config("--run.eval_every", "off"), tmp_path / "ordered")
    began, done = (
        {name: threading.Semaphore(0) for name in ("update", "rollouts")},
        threading.Semaphore(0),
    )

    def ordered(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            began[name].release()
            assert began["rollouts" if name == "update" else "update"].acquire(timeout=60), (
                "both are under way"
            )
            if name == first:
                result = work(*arguments, **options)
                done.release()
                return result
            assert done.acquire(timeout=60)
            return work(*arguments, **options)

        return wrapped

    trainer.waiting = trainer.collector.collect(0)
    trainer.parts.learner.update = ordered("update", trainer.parts.learner.update)
    trainer.collector = Mock(
        wraps=trainer.collector, collect=ordered("rollouts", trainer.collector.collect)
    )
    trainer.run()
    assert_same_run(tmp_path / "ordered", tmp_path / "whole")


def test_rollouts_that_are_too_old_are_refused(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    trainer = Trainer(config(), tmp_path)
    trainer.waiting = trainer.collector.collect(0)
    before = copy.deepcopy(trainer.parts.policy.state_dict())
    with pytest.raises(
        RuntimeError,
        match=r"^step 2: got rollouts of policy version 0, a lag of 2, expected at most 1 "
        r"\(distributed\.max_policy_lag\)$",
    ):
        trainer.step(2)
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in trainer.parts.policy.state_dict().items()
    )


def test_run_goes_on_without_a_lag_and_with_it_again(
    config: Callable[..., TrainConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Trainer(config("--run.steps", "2"), tmp_path).run()
    with caplog.at_level(logging.WARNING, "depo.training.trainer"):
        Trainer(config("--run.steps", "3", "--distributed.max_policy_lag", "0"), tmp_path).run()
    assert "left out the rollouts that waited to be trained on" in caplog.text
    Trainer(config("--run.steps", "5"), tmp_path).run()
    assert [row["policy/lag"] for row in RunRecords.read(tmp_path).metrics[1:]] == [0, 1, 0, 0, 1]


def test_a_lag_needs_workers() -> None:
    with pytest.raises(
        ConfigError,
        match=r"distributed\.max_policy_lag: got 1, expected 0 without "
        r"distributed\.rollout_workers",
    ):
        DistributedConfig(max_policy_lag=1)
    with pytest.raises(ConfigError, match=r"distributed\.max_policy_lag: got 2"):
        DistributedConfig(max_policy_lag=2, rollout_workers=1)
