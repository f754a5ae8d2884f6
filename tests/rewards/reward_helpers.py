"""Prompts and verdicts in one line each, for the tests of reward functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from depo.rewards import Reward
from depo.types.records import Prompt


def prompts_for(*answers: Any) -> list[Prompt]:
    return [Prompt(text=f"question {n}", answer=answer) for n, answer in enumerate(answers)]


def judge(reward: Reward, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    rewards = reward(prompts, responses, np.ones(len(responses), dtype=np.bool_))
    assert rewards.dtype == np.float32
    assert rewards.shape == (len(responses),)
    return [float(value) for value in rewards]
