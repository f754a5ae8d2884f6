"""The quickstart's policy, trained by TRL without and with depo: examples/trl_grpo.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("trl") is None:
    pytest.skip("TRL is not installed", allow_module_level=True)

STEPS, WARM = 36, 20


@pytest.mark.slow
def test_depo_drops_the_share_of_silent_groups(quickstart_policies: Path) -> None:
    import torch
    from trl import GRPOTrainer

    from depo.integrations.trl import DepoGRPOTrainer

    spec = importlib.util.spec_from_file_location(
        "trl_grpo", Path(__file__).parents[2] / "examples" / "trl_grpo.py"
    )
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.set_num_threads(1)
    policy, rows = example.policy_and_rows(str(quickstart_policies))
    shares = {
        each: np.mean(example.silent_shares(example.make_trainer(each, policy, rows, STEPS))[WARM:])
        for each in (GRPOTrainer, DepoGRPOTrainer)
    }
    assert shares[GRPOTrainer] >= 0.65
    assert shares[DepoGRPOTrainer] <= 0.35
