"""A sampler and its estimator on disk: both are restored, or neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depo.types.errors import StateError

if TYPE_CHECKING:
    from depo.sampler.prompt_sampler import PromptSampler


def save_sampler(sampler: PromptSampler, directory: Path) -> Path:
    """Write the state as a checkpoint that is whole or not there; return its directory."""
    from depo.state.checkpoints import save_checkpoint  # needs safetensors

    estimator = sampler.estimator.state_dict() if sampler.estimator else None
    state = {"sampler": sampler.state_dict(), "estimator": estimator}
    return save_checkpoint(directory, 0, state, {}, keep=1)


def load_sampler(sampler: PromptSampler, directory: Path, strict: bool) -> dict[str, int]:
    """Restore what `save_sampler` wrote.

    Raises:
        StateError: No complete save, a damaged file, or a state that does not fit.
    """
    from depo.state.checkpoints import latest_checkpoint, load_checkpoint

    newest = latest_checkpoint(directory)
    if newest is None:
        raise StateError(f"{directory}: got no complete save, expected one by `save`")
    state = load_checkpoint(newest).state
    if (sampler.estimator is None) != (state["estimator"] is None):
        got, expected = ("no", "one") if state["estimator"] is None else ("an", "none")
        raise StateError(f"{newest}: got {got} estimator, expected {expected}, as here")
    return _load_both(sampler, state, strict)


def _load_both(sampler: PromptSampler, state: Mapping[str, Any], strict: bool) -> dict[str, int]:
    if sampler.estimator is None:
        return sampler.load_state_dict(state["sampler"], strict=strict)
    before = sampler.estimator.state_dict()
    sampler.estimator.load_state_dict(state["estimator"])
    try:
        return sampler.load_state_dict(state["sampler"], strict=strict)
    except BaseException:
        sampler.estimator.load_state_dict(before)
        raise
