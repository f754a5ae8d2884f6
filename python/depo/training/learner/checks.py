"""What the learner refuses: before it is built, and before an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping

from transformers import PreTrainedModel

from depo.config import LossConfig


def check_reference(loss: LossConfig, reference_model: PreTrainedModel | None) -> None:
    """Raise a ValueError unless there is a reference exactly where the loss needs one."""
    if (loss.kl_weight > 0) != (reference_model is not None):
        given = "none" if reference_model is None else "a model"
        raise ValueError(
            f"reference_model: got {given}, expected one if and only if loss.kl_weight > 0 "
            f"(it is {loss.kl_weight})"
        )


def require_finite(name: str, value: float, step: int) -> None:
    """Raise a RuntimeError for a loss or gradient that is not finite."""
    if not math.isfinite(value):
        raise RuntimeError(
            f"step {step}: the {name} is {value}; the optimizer step was not taken and the weights "
            f"are unchanged by it"
        )


def check_mismatch(sums: Mapping[str, float], step: int, limit: float) -> None:
    """Raise a RuntimeError if engine and learner do not compute the same policy."""
    mismatch = sums["logprob_mismatch"] / sums["first_tokens"]
    if mismatch > limit:
        raise RuntimeError(
            f"step {step}: got a mean |rollout - learner| log-prob of {mismatch:.3g} nats "
            f"over {sums['first_tokens']:.0f} tokens, expected at most {limit:g} "
            f"(rollout.max_logprob_mismatch); the optimizer step was not taken. Engine and learner "
            f"do not compute the same policy: are the engine's weights those of this step, its "
            f"prefix cache reset, its compute type and temperature the learner's?"
        )
