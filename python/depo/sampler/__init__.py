"""The sampler: which prompts are worth a rollout now (numpy and the Rust core only)."""

from depo.sampler.prompt_sampler import PromptSampler

__all__ = ["PromptSampler"]
