"""depo: a prompt sampler that knows, before a rollout, how likely each prompt is to teach the policy anything.

    from depo import PromptSampler

    sampler = PromptSampler(prompts, group_size=8, seed=0)
    draws = sampler.sample(128, policy_version=step)
    verdicts = sampler.observe(draws, rewards_BG, policy_version=step)

Needs numpy alone; the estimator, the trainer and everything else that loads torch live in modules of their own.
"""

from depo.config import SelectorConfig
from depo.errors import ConfigError, DataError, StateError
from depo.prompt_table import PromptTable
from depo.records import Draw, DrawKind, Prompt, Verdict, VerdictStatus
from depo.sampler import PromptSampler

__all__ = [
    "ConfigError",
    "DataError",
    "Draw",
    "DrawKind",
    "Prompt",
    "PromptSampler",
    "PromptTable",
    "SelectorConfig",
    "StateError",
    "Verdict",
    "VerdictStatus",
]
