"""Pools of millions of prompts, read where Arrow or NumPy holds them."""

from depo.sampler.prompt_table.columns import PoolIndex
from depo.sampler.prompt_table.table import PromptTable

__all__ = ["PoolIndex", "PromptTable"]
