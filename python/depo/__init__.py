"""depo: predict which prompts would teach a policy nothing, and skip them before the rollout.

    from depo import PromptSampler

    sampler = PromptSampler(prompts, group_size=8, seed=0)
    draws = sampler.sample(128, policy_version=step)
    verdicts = sampler.observe(draws, rewards_BG, policy_version=step)

Needs numpy alone. The estimator, the trainer and everything else that loads torch live in modules
of their own.
"""

from depo.config import SelectorConfig
from depo.sampler import PromptSampler
from depo.sampler.prompt_table import PromptTable
from depo.types.errors import DISTRIBUTION, ConfigError, DataError, StateError
from depo.types.records import Draw, DrawKind, Prompt, Verdict, VerdictStatus
from depo.types.version import VERSION as __version__
from depo.types.version import warn_of_namesake

__all__ = [
    "DISTRIBUTION",
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
    "__version__",
]

warn_of_namesake()
