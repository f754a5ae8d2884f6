"""depo: a prompt sampler.

That knows, before a rollout, how likely each prompt is to teach the policy anything.

    from depo import PromptSampler

    sampler = PromptSampler(prompts, group_size=8, seed=0)
    draws = sampler.sample(128, policy_version=step)
    verdicts = sampler.observe(draws, rewards_BG, policy_version=step)

Needs numpy alone; the estimator, the trainer and everything else that loads torch live in modules
of their own.
"""

from depo.config import SelectorConfig
from depo.sampler import PromptSampler
from depo.sampler.prompt_table import PromptTable
from depo.types.errors import ConfigError, DataError, StateError
from depo.types.records import Draw, DrawKind, Prompt, Verdict, VerdictStatus

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
