"""A batch that waits in a checkpoint comes back as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from depo.state.files import StateFiles, read_state
from depo.training.batch import CollectedBatch
from depo.types.errors import StateError
from depo.types.records import (
    Draw,
    DrawKind,
    JudgedGroup,
    Prompt,
    RolloutGroup,
    Verdict,
    VerdictStatus,
)

PROMPTS = [
    Prompt(text="one", answer=[1, None], columns={"row": 1}),
    Prompt(text="two", messages=({"role": "user", "content": "two"},)),
]


def group(
    draw_id: int, lengths: tuple[int, ...], policy_version: int, **of_draw: Any
) -> JudgedGroup:
    rng = np.random.default_rng(draw_id)
    draw = Draw(
        draw_id=draw_id,
        prompt=PROMPTS[draw_id % 2],
        predicted_reward=float("nan"),
        p_informative=0.5,
        admission=0.1 + 0.2,
        kind=DrawKind.EXPLORE,
        n_rollouts=len(lengths),
        policy_version=policy_version,
    )
    rollouts = RolloutGroup(
        prompt_ids=rng.integers(0, 99, 3),
        response_ids=tuple(rng.integers(0, 99, length) for length in lengths),
        rollout_logprobs=tuple(
            -rng.exponential(size=length).astype(np.float32) for length in lengths
        ),
        finished=np.array([True, False, True])[: len(lengths)],
        responses=("", "käse\n", '"')[: len(lengths)],
        policy_version=policy_version,
    )
    verdict = Verdict(
        draw_id=draw_id,
        status=VerdictStatus.UNKNOWN,
        informative=False,
        mean_reward=float("nan"),
        pass_rate=float("nan"),
    )
    rewards_G = np.array([0.1, np.nan, 1.0], np.float32)
    return JudgedGroup(
        draw=replace(draw, **of_draw), rollouts=rollouts, rewards_G=rewards_G, verdict=verdict
    )


def test_a_batch_survives_a_checkpoint(tmp_path: Path) -> None:
    full, probe = group(4, (2, 0, 5), 7), group(5, (3,), 7, kind=DrawKind.REPROBE, n_rollouts=1)
    batch = CollectedBatch(
        rounds=[[full, probe], [], [group(6, (1, 1, 1), 7)]],
        metrics={"estimator/loss": float("nan"), "selection/scanned": 0.1 + 0.2},
    )
    StateFiles({"waiting": batch.state_dict()}).write(tmp_path)
    restored = CollectedBatch.from_state(
        read_state(tmp_path)["waiting"], [*PROMPTS, Prompt(text="never drawn")]
    )
    assert [len(judged) for judged in restored.rounds] == [2, 0, 1]
    np.testing.assert_equal(restored.metrics, batch.metrics)
    for ours, theirs in zip(restored.groups, batch.groups, strict=True):
        assert ours.draw.prompt == theirs.draw.prompt
        assert repr(ours.draw) == repr(theirs.draw)
        assert repr(ours.verdict) == repr(theirs.verdict)
        assert ours.is_probe == theirs.is_probe
        assert repr(ours.rollouts) == repr(theirs.rollouts)
        np.testing.assert_equal(
            [ours.rewards_G, *ours.rollouts.rollout_logprobs],
            [theirs.rewards_G, *theirs.rollouts.rollout_logprobs],
        )
        assert [ids.dtype for ids in ours.rollouts.response_ids] == [
            ids.dtype for ids in theirs.rollouts.response_ids
        ]


def test_the_lag_is_that_of_the_oldest_rollout() -> None:
    assert (
        CollectedBatch(rounds=[[group(1, (1,), 4)], [group(2, (1,), 3)]], metrics={}).policy_lag(5)
        == 2
    )
    assert CollectedBatch(rounds=[], metrics={}).policy_lag(5) == 0


def test_a_batch_of_other_data_is_refused() -> None:
    state = CollectedBatch(rounds=[[group(1, (1,), 4)]], metrics={}).state_dict()
    with pytest.raises(
        StateError, match=r"waiting batch: got rollouts of prompt .*, expected the data"
    ):
        CollectedBatch.from_state(state, [Prompt(text="another")])
