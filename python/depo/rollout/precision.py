"""The compute type that learner and engine share.

Were they to differ, importance ratios would measure rounding.
"""

from __future__ import annotations

import torch


def computes_bfloat16(setting: str, device: torch.device) -> bool:
    """Return whether `mixed_precision` of the same arguments computes in bfloat16.

    A GPU of another machine, where this one has none, is taken to have it.
    """
    supported = device.type == "cuda" and (
        not torch.cuda.is_available() or torch.cuda.is_bf16_supported()
    )
    return setting == "bfloat16" or (setting == "auto" and supported)


def mixed_precision(setting: str, device: torch.device) -> torch.autocast:
    """Return the context of every forward pass of the policy.

    Bfloat16 autocast, or one that does nothing.

    Args:
        setting: `PolicyConfig.autocast`: off, bfloat16, or auto (bfloat16 on CUDA devices that have
            it).
        device: Where the policy lives.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(setting, device))
