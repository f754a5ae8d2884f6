"""A policy on its way to another process.

Settings and weights, no file that the other machine would have to see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCopy:
    """Everything a policy is built from.

    Attributes:
        model_class: Its class.
        config: Its architecture.
        generation_config: Its end-of-sequence tokens and the like.
        dtype: Type of its weights.
        weights: What `pack_weights` returned.
    """

    model_class: type[PreTrainedModel]
    config: PretrainedConfig
    generation_config: GenerationConfig | None
    dtype: torch.dtype
    weights: bytes

    @classmethod
    def of(cls, policy: PreTrainedModel) -> PolicyCopy:
        """Copy a policy."""
        return cls(
            model_class=type(policy),
            config=policy.config,
            generation_config=policy.generation_config,
            dtype=policy.dtype,
            weights=pack_weights(policy),
        )

    def build(self, device: torch.device) -> PreTrainedModel:
        """Return an equal policy."""
        policy: PreTrainedModel = self.model_class.from_pretrained(
            None, config=self.config, state_dict=load(self.weights), dtype=self.dtype
        )
        if self.generation_config is not None:
            policy.generation_config = self.generation_config
        policy.to(device)  # type: ignore[arg-type]
        return policy


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as one, on every rank, which must all call this.

    Any other tensor as it is.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor, *, keep: bool) -> Tensor:
    """Return a tensor, whole if it was sharded, in host memory; an empty one where it is not kept.

    Every rank must call this: only one has room for all.
    """
    tensor = whole(tensor)
    return tensor.cpu().contiguous() if keep else tensor.new_empty(0, device="cpu")


def pack_weights(policy: PreTrainedModel, *, keep: bool = True) -> bytes:
    """Return what training changes, the parameters, as the content of a safetensors file.

    Tied ones once, sharded ones whole, which takes all ranks.

    Args:
        policy: The policy.
        keep: Whether this rank needs them; otherwise nothing comes back.
    """
    tensors = {
        name: gathered(parameter.detach(), keep=keep)
        for name, parameter in policy.named_parameters()
    }
    return save(tensors) if keep else b""


def unpack_weights(weights: bytes, policy: PreTrainedModel) -> None:
    """Copy packed weights into a policy of the same architecture.

    Raises:
        ValueError: They are those of another architecture.
    """
    tensors, parameters = load(weights), dict(policy.named_parameters())
    got, expected = (
        {name: tuple(each.shape) for name, each in tensors.items()}
        for tensors in (tensors, parameters)
    )
    if got != expected:
        differing = sorted(set(got.items()) ^ set(expected.items()))
        raise ValueError(
            f"weights: got another architecture than the policy's; the first difference is "
            f"{differing[0]}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
