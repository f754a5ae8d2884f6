"""Sums over the tokens and steps of one update, and the metrics that they make."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

Sum = Tensor | float


@dataclass(slots=True)
class UpdateSums:
    """What an update adds up. A sum to which nothing was added is None.

    Attributes:
        steps: Optimizer steps taken.
        sequences: Sequences with a forward pass.
        loss: Losses of the optimizer steps.
        grad_norm: Gradient norms before clipping.
        tokens: Trained tokens.
        first_tokens: Those before the first optimizer step.
        logprob_mismatch: |rollout - policy| log-prob over `first_tokens`.
        ratio_mean: Importance ratios.
        clip_share: Tokens at which the clip is active.
        kl: k3 estimates of rollout policy against policy.
        entropy: Entropies in nats.
        reference_kl: k3 estimates against the reference policy.
        rollout_weight: Truncated weights learner / rollout.
        rollout_weight_capped: Weights at their cap.
    """

    steps: Sum | None = None
    sequences: Sum | None = None
    loss: Sum | None = None
    grad_norm: Sum | None = None
    tokens: Sum | None = None
    first_tokens: Sum | None = None
    logprob_mismatch: Sum | None = None
    ratio_mean: Sum | None = None
    clip_share: Sum | None = None
    kl: Sum | None = None
    entropy: Sum | None = None
    reference_kl: Sum | None = None
    rollout_weight: Sum | None = None
    rollout_weight_capped: Sum | None = None

    def add(self, **values: Sum) -> None:
        """Add to some sums by name."""
        for name, value in values.items():
            held = getattr(self, name)
            setattr(self, name, value if held is None else held + value)

    def known(self) -> dict[str, Sum]:
        """Return the sums to which something was added."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


_PER_TOKEN = (
    "clip_share",
    "ratio_mean",
    "kl",
    "entropy",
    "reference_kl",
    "rollout_weight",
    "rollout_weight_capped",
)


def means(totals: dict[str, float]) -> dict[str, float]:
    """Return the metrics of an update: its sums over all ranks by what they ran over."""
    per_step = {name: totals[name] / totals["steps"] for name in ("loss", "grad_norm")}
    per_token = {name: totals[name] / totals["tokens"] for name in _PER_TOKEN if name in totals}
    mismatch = totals["logprob_mismatch"] / totals["first_tokens"]
    return per_step | per_token | {"logprob_mismatch": mismatch}
