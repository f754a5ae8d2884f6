"""Backfill: silent groups replaced by those of further generations.

Also TRL's computation on the final batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if importlib.util.find_spec("trl") is None:
    pytest.skip("TRL is not installed", allow_module_level=True)

from trl import GRPOTrainer

from depo import SelectorConfig
from depo.types.errors import ConfigError
from tests.integrations.trl_helpers import (
    BACKFILL,
    EAGER,
    GROUP_SIZE,
    GROUPS,
    KIND_OF,
    RecordingTrainer,
    kind_reward,
    tiny_policy,
    tiny_trainer,
    train_logs,
    watch,
)


def test_backfill_gives_what_trl_computes_on_the_final_rows(tmp_path: Path) -> None:
    """A plain GRPOTrainer.

    That is handed the same responses has the same tensors, metrics and logs.
    """
    tiny_policy().save_pretrained(tmp_path / "policy")

    def logging_reward(
        completions: Sequence[str], solution: Sequence[str], log_extra: Any = None, **_: Any
    ) -> list[float]:
        log_extra("length", [len(text) for text in completions])
        return kind_reward(completions, solution)

    settings = {
        "reward": logging_reward,
        "model": str(tmp_path / "policy"),
        "beta": 0.1,
        "steps_per_generation": 2,
        "max_steps": 6,
    }
    settings |= {"per_device_train_batch_size": 8, "model_init_kwargs": {"dtype": "float32"}}
    filled = tiny_trainer(
        tmp_path, trainer_class=RecordingTrainer, depo={"selector": BACKFILL}, **settings
    )
    filled.model.train()
    batch = filled._generate_and_score_completions([{"prompt": "w2", "solution": "wrong"}] * 16)
    rounds, unreplaced = (
        filled._metrics["train"][f"depo/rollout/{name}"][0] for name in ("rounds", "unreplaced")
    )
    assert rounds > 1 and len(filled.rollouts) == rounds
    assert (
        unreplaced
        == 4 * filled._metrics["train"]["frac_reward_zero_std"][0]
        < filled.depo.sampler.totals()["sampler/labelled"] - 4
    )

    pairs = {
        part: zip(batch[f"{part}_ids"], batch[f"{part}_mask"], strict=True)
        for part in ("prompt", "completion")
    }
    replay = {
        f"{part}_ids": [ids[mask.bool()].tolist() for ids, mask in rows]
        for part, rows in pairs.items()
    } | {"logprobs": None}
    plain = tiny_trainer(
        tmp_path,
        trainer_class=GRPOTrainer,
        rollout_func=lambda prompts, trainer: dict(replay),
        **settings,
    )
    plain.model.train()
    expected = plain._generate_and_score_completions(
        [{"prompt": text, "solution": KIND_OF[text]} for text in filled.texts(batch, "prompt")]
    )
    assert (
        set(batch)
        == set(expected)
        >= {"old_per_token_logps", "ref_per_token_logps", "num_items_in_batch"}
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(batch[name], tensor, rtol=0, atol=0)
    for name in ("reward", "reward_std", "frac_reward_zero_std"):
        assert filled._metrics["train"][name] == plain._metrics["train"][name]
    for name in ("prompt", "completion", "advantages", "rewards", "extra"):
        assert filled._logs[name] == plain._logs[name], name


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        ({"backfill_rounds": 2}, 2),
        ({"scan_cap": 6, "candidates_per_draw": 2}, 3),
        ({"backfill_draws": "batch"}, 16),
    ],
)
def test_backfill_ends(tmp_path: Path, options: dict[str, Any], rounds: int) -> None:
    """Where nothing can be learned, silent groups stay, are counted.

    Also each round's size is what the selector says.
    """
    reward = lambda completions, **_: [1.0] * len(completions)  # noqa: E731
    selector = SelectorConfig.from_preset("depo", **{"warmup_steps": 0, **options})
    trainer = tiny_trainer(
        tmp_path,
        trainer_class=RecordingTrainer,
        reward=reward,
        depo={"selector": selector},
        max_steps=1,
    )
    trainer.train()
    assert train_logs(trainer, "depo/rollout/unreplaced") == [GROUPS]
    assert 1 < len(trainer.rollouts) <= rounds
    assert (
        train_logs(trainer, "depo/rollout/groups")
        == [GROUPS * len(trainer.rollouts)]
        == [trainer.depo.sampler.totals()["sampler/labelled"]]
    )
    assert trainer.depo.sampler.totals()["sampler/scanned"] <= selector.scan_cap * GROUPS


def test_backfill_fills_most_places(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path, depo={"selector": SelectorConfig.from_preset("dapo")}, max_steps=5
    )
    trainer.train()
    assert train_logs(trainer, "frac_reward_zero_std") == [0.0] * 5
    assert max(train_logs(trainer, "depo/rollout/zero_variance_share")) > 0.2


@pytest.mark.parametrize("selector", [EAGER, BACKFILL])
def test_reported_logprobs_are_the_distillation_target(
    tmp_path: Path, selector: SelectorConfig
) -> None:
    """TRL gets log-probabilities from vLLM; here they stand in the place where vLLM's would."""

    class Reporting(RecordingTrainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            completion_ids, _ = super()._generate_single_turn(*args, **kwargs)
            return completion_ids, [
                [None, *(-0.1 * token for token in ids[1:])] for ids in completion_ids
            ]

    trainer = tiny_trainer(
        tmp_path, trainer_class=Reporting, depo={"selector": selector}, max_steps=1
    )
    events = watch(trainer, logprobs=True)
    trainer.train()
    rounds = [logprobs_B for name, logprobs_B in events if name == "logprobs"]
    assert len(rounds) == len(trainer.rollouts) and all(
        np.isfinite(logprobs_B).all() for logprobs_B in rounds
    )
    batch = trainer.batches[0]
    ids = [
        row[mask.bool()][1:].double()
        for row, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    means = np.array([-0.1 * float(row.mean()) for row in ids]).reshape(-1, GROUP_SIZE)
    expected = dict(
        zip(trainer.texts(batch, "prompt")[::GROUP_SIZE], np.nanmean(means, axis=1), strict=True)
    )
    observed = dict(
        zip(
            [text for texts in trainer.rollouts for text in texts[::GROUP_SIZE]],
            np.concatenate(rounds).tolist(),
            strict=True,
        )
    )
    assert {text: pytest.approx(observed[text], rel=1e-6) for text in expected} == expected


def test_backfill_cannot_repeat_a_rollout_function(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backfill: got True together with rollout_func"):
        tiny_trainer(tmp_path, depo={"selector": "dapo"}, rollout_func=lambda prompts, trainer: {})
