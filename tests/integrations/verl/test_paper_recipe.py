"""The paper's recipe as a shell script.

Verl accepts every override, and depo reads from them what the paper says.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.import_utils import load_extern_object

from depo.integrations.verl import DepoRLHFDataset, settings_of

SCRIPT = Path(__file__).parents[3] / "examples" / "verl_depo_paper.sh"


def recipe(directory: Path, **environment: str) -> DictConfig:
    """Return the configuration of the command that the script runs.

    These a stand-in for python3 writes down instead of running it.
    """
    python = directory / "python3"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$COMMAND"\n')
    python.chmod(0o755)
    command = directory / "command"
    paths = {
        "PATH": f"{directory}:{os.environ['PATH']}",
        "COMMAND": str(command),
        "HOME": str(directory),
    }
    subprocess.run(["bash", str(SCRIPT), "data.seed=3"], env=paths | environment, check=True)
    module_flag, module, *overrides = command.read_text().splitlines()
    assert (module_flag, module, overrides[-1]) == ("-m", "verl.trainer.main_ppo", "data.seed=3")
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides)


@pytest.mark.parametrize(("use_dapo", "clip_high"), [("False", 0.2), ("True", 0.28)])
def test_the_recipe_composes_and_says_what_the_paper_says(
    tmp_path: Path, use_dapo: str, clip_high: float
) -> None:
    config = recipe(tmp_path, USE_DAPO=use_dapo)
    settings = settings_of(config.data)
    assert (settings.selector.window, settings.selector.warmup_steps, settings.selector.rule) == (
        (0.15, 0.85),
        100,
        "window",
    )
    assert settings.estimator is not None
    assert (
        settings.estimator.learning_rate,
        settings.estimator.ranking_weight,
        settings.estimator.distill_weight,
    ) == (2e-4, 3.0, 0.5)
    actor = config.actor_rollout_ref.actor
    assert (
        config.data.train_batch_size,
        config.actor_rollout_ref.rollout.n,
        actor.ppo_mini_batch_size,
    ) == (128, 8, 64)
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio_c) == (
        0.2,
        clip_high,
        10.0,
    )
    assert config.reward.reward_kwargs.overlong_buffer_cfg.enable == (use_dapo == "True")
    assert load_extern_object(**_located(config.data.custom_cls)) is DepoRLHFDataset
    assert issubclass(
        load_extern_object(**_located(config.trainer.v1.sampler.custom_sampler)), ReplayBuffer
    )


def _located(entry: DictConfig) -> dict[str, str]:
    return {"module_path": entry.path, "object_name": entry.name}
