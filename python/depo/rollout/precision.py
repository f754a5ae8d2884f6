"""The compute type that learner and engine share.

With two types, importance ratios would include rounding errors.
"""

from __future__ import annotations

import torch


def computes_bfloat16(setting: str, device: torch.device) -> bool:
    """Return whether `mixed_precision` computes in bfloat16 with the same arguments.

    If this machine has no GPU, a CUDA device of another machine is assumed to support bfloat16.
    """
    supported = device.type == "cuda" and (
        not torch.cuda.is_available() or torch.cuda.is_bf16_supported()
    )
    return setting == "bfloat16" or (setting == "auto" and supported)


def mixed_precision(setting: str, device: torch.device) -> torch.autocast:
    """Return the autocast context of the policy's forward passes: bfloat16 or disabled.

    Args:
        setting: `PolicyConfig.autocast`: off, bfloat16, or auto (bfloat16 on CUDA devices that
            support it).
        device: The policy's device.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(setting, device))
