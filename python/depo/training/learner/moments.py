"""AdamW's moments by parameter name, for states that fit any order of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from depo.types.errors import StateError

Moments = dict[str, dict[str, Tensor]]
"""Parameter name -> step, exp_avg, exp_avg_sq."""


def moments_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Any]) -> Moments:
    """Return the live moments of an optimizer on these parameters."""
    names = list(parameters)
    states = optimizer.state_dict()["state"]
    return {names[index]: {**state} for index, state in states.items()}


def load_moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Any], moments: Moments
) -> None:
    """Restore what `moments_of` returned.

    Raises:
        StateError: Moments of parameters that are not there, or have another shape.
    """
    names = list(parameters)
    checked: dict[int, dict[str, Tensor]] = {}
    for name, tensors in moments.items():
        if name not in parameters:
            raise StateError(
                f"learner state: got moments of {name!r}, expected parameters of this model "
                f"such as {names[0]!r}"
            )
        shape = tuple(parameters[name].shape)
        expected = {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
        got = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if got != expected:
            raise StateError(f"learner state of {name!r}: got shapes {got}, expected {expected}")
        checked[names.index(name)] = {key: tensor.clone() for key, tensor in tensors.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": checked, "param_groups": groups})
