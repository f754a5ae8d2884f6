"""The TRL adapter across processes: killed and resumed, and two at a time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("trl") is None:
    pytest.skip("TRL is not installed", allow_module_level=True)

from tests.integrations.trl_helpers import kind_reward, tiny_rows

SELECTOR = {"preset": "depo", "backfill": False, "warmup_steps": 1, "candidates_per_draw": 2}
ROOT = Path(__file__).parents[2]


def launch(directory: Path, runs: Sequence[dict[str, Any]], processes: int = 1) -> int:
    """Carry out runs in processes of their own; returns the exit code."""
    (directory / "runs.json").write_text(json.dumps(runs))
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        if processes > 1
        else []
    )
    command = [sys.executable, *torchrun, "-m", "tests.integrations.trl_helpers", str(directory)]
    log = directory / "log.txt"
    with log.open("w") as output:
        code = subprocess.run(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            timeout=550,
            check=False,
        ).returncode
    print(log.read_text()[-4000:])
    return code


def read(directory: Path, name: str, rank: int = 0) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / f"{name}.{rank}.json").read_text())
    return report


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    settings = {
        "max_steps": 9,
        "save_strategy": "steps",
        "save_steps": 3,
        "per_device_train_batch_size": 16,
    }
    run = {
        "name": "whole",
        "output": "whole",
        "selector": {**SELECTOR, "backfill": True, "backfill_rounds": 3},
        "settings": settings,
    }
    assert launch(tmp_path, [{**run, "output": "killed", "kill_after": 5}]) == -9
    assert (
        launch(tmp_path, [run, {**run, "name": "resumed", "output": "killed", "resume": True}]) == 0
    )
    whole, resumed = read(tmp_path, "whole"), read(tmp_path, "resumed")
    assert len(resumed["prompts"]) == 6, (
        "it resumes after step 3, the newest checkpoint before the kill"
    )
    for name in ("prompts", "completions", "advantages"):
        assert resumed[name] == whole[name][3:]
    assert resumed["rollouts"] == whole["rollouts"][-len(resumed["rollouts"]) :]
    for name in ("sampler", "estimator_version", "estimator_state"):
        assert resumed[name] == whole[name], name


@pytest.mark.slow
def test_two_processes_hold_equal_samplers_and_share_the_batch(tmp_path: Path) -> None:
    settings = {"max_steps": 5, "per_device_train_batch_size": 6}
    straddling = {"name": "straddling", "output": "a", "selector": SELECTOR, "settings": settings}
    # Three responses per group and two processes: an odd number of groups cannot be shared out, so
    # that rounds of backfill are rounded up.
    backfill = {
        **straddling,
        "name": "backfill",
        "output": "b",
        "selector": {**SELECTOR, "backfill": True, "backfill_rounds": 6},
    }
    backfill["settings"] = {
        "max_steps": 7,
        "per_device_train_batch_size": 9,
        "num_generations": 3,
        "save_strategy": "steps",
        "save_steps": 5,
    }
    resumed = {
        **backfill,
        "name": "resumed",
        "output": "c",
        "resume": str(tmp_path / "b" / "checkpoint-5"),
    }
    differing = {**straddling, "name": "differing", "rows_differ": True}
    assert launch(tmp_path, [straddling, backfill, resumed, differing], processes=2) == 0
    assert all(
        read(tmp_path, "differing", rank)["error"].startswith("train_dataset: got checksums [")
        for rank in (0, 1)
    )
    for name, group_size, groups in (("straddling", 4, 3), ("backfill", 3, 6), ("resumed", 3, 6)):
        ranks = [read(tmp_path, name, rank) for rank in (0, 1)]
        check_shares(ranks, group_size, groups)
        for part in ("sampler", "estimator_version", "in_flight"):
            assert ranks[0][part] == ranks[1][part], part
        assert ranks[0]["in_flight"] == 0
        assert ranks[0]["estimator_version"] == (5 if name == "straddling" else 7)
        assert ranks[0]["estimator_state"] and not ranks[1]["estimator_state"], (
            "the main process alone holds an estimator"
        )
    whole, end = read(tmp_path, "backfill"), read(tmp_path, "resumed")
    assert len(whole["rollouts"]) > 7 + 2, "there was something to replace"
    assert any(len(texts) % 9 for texts in whole["rollouts"]), "and not only whole batches"
    assert end["prompts"] == whole["prompts"][5:]
    assert (end["sampler"], end["estimator_state"]) == (whole["sampler"], whole["estimator_state"])


def check_shares(ranks: Sequence[dict[str, Any]], group_size: int, groups: int) -> None:
    """What both processes trained on, put together, are whole groups of distinct prompts with the
    advantages of their own rewards.
    """
    kinds = {row["prompt"]: row["solution"] for row in tiny_rows()}
    for first, second in zip(*(rank["rollouts"] for rank in ranks), strict=True):
        assert len(first) == len(second)
        prompts = np.array(first + second).reshape(-1, group_size)
        assert (prompts == prompts[:, :1]).all() and len(set(prompts[:, 0])) == len(prompts), (
            "whole groups of prompts that are in flight once"
        )
    for step in range(len(ranks[0]["prompts"])):
        prompts, completions, advantages = (
            [*ranks[0][name][step], *ranks[1][name][step]]
            for name in ("prompts", "completions", "advantages")
        )
        assert len(prompts) == groups * group_size and len(set(prompts)) == groups
        rewards = np.array(kind_reward(completions, [kinds[prompt] for prompt in prompts])).reshape(
            groups, group_size
        )
        expected = (rewards - rewards.mean(1, keepdims=True)) / (
            rewards.std(1, ddof=1, keepdims=True) + 1e-4
        )
        np.testing.assert_allclose(advantages, expected.reshape(-1), atol=1e-5)
        (total, own), (same, other) = (rank["num_items"][step] for rank in ranks)
        assert total == same == own + other
