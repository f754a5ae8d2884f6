"""Reward functions: turn a response into a number, or NaN if the reward is unknown."""

from __future__ import annotations

from collections.abc import Sequence

from depo.config import RewardConfig
from depo.rewards.scorer import Reward, Scorer
from depo.types.errors import ConfigError
from depo.types.records import Prompt

__all__ = ["Reward", "Scorer", "check_golds", "load_reward"]


def load_reward(config: RewardConfig) -> Reward:
    """Return the reward function that `config` names.

    Raises:
        ConfigError: The function is unknown, cannot be imported, or has neither TRL's nor verl's
            signature.
        ImportError: The package that the function needs is not installed.
    """
    return Reward(_load_scorer(config), config.truncated)


def check_golds(
    prompts: Sequence[Prompt], config: RewardConfig
) -> tuple[list[Prompt], list[Prompt]]:
    """Split off the prompts whose ground truth the reward function cannot verify.

    Every response to them would get reward 0. Only function `math` with `check_golds` drops any; a
    warning gives their number.

    Returns:
        Kept prompts and dropped prompts, each in order.
    """
    if config.function != "math" or not config.check_golds:
        return list(prompts), []
    from depo.rewards.math import MathScorer

    scorer = MathScorer(config.timeout_seconds, config.workers)
    try:
        return scorer.check_golds(prompts)
    finally:
        scorer.close()


def _load_scorer(config: RewardConfig) -> Scorer:
    if config.function == "exact":
        from depo.rewards.exact import ExactScorer

        return ExactScorer()
    if config.function == "reasoning_gym":
        from depo.rewards.reasoning_gym import ReasoningGymScorer

        return ReasoningGymScorer()
    if config.function == "math":
        from depo.rewards.math import MathScorer

        return MathScorer(config.timeout_seconds, config.workers)
    if ":" in config.function:
        from depo.rewards.user import load_user_scorer

        return load_user_scorer(config.function)
    raise ConfigError(
        f"reward.function: got {config.function!r}, expected exact, reasoning_gym, math, "
        f"module:function or path/file.py:function"
    )
