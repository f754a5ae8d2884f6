"""One learner on many ranks.

Weights, gradients and optimizer sharded by FSDP2 (`torch.distributed.fsdp.fully_shard`), the batch
split by sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch.distributed
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from depo.training.distributed.policy_copy import gathered, whole
from depo.training.learner.packing import TrainBatch, TrainSequence, microbatches
from depo.training.learner.policy_learner import PolicyLearner
from depo.types.records import Float32Array

Value = TypeVar("Value")

_SAME_ON_ALL = ("grad_norm", "steps", "sequences")
"""Sums that every rank has of the whole batch."""


class ShardedLearner(PolicyLearner):
    """Update a sharded policy as one rank alone would, up to the order of additions.

    Every rank is called with the same arguments at the same time. The loss of a sequence is
    weighted by the denominators of the whole minibatch, as on one rank, and gradients are summed
    over ranks, not averaged. `state_dict` is the whole state, so that a checkpoint fits any number
    of ranks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        reference_model: PreTrainedModel | None = None,
        **settings: Any,
    ) -> None:
        """Shard the models over the ranks of the default process group.

        Then proceed as `PolicyLearner` with the same arguments.
        """
        for each in filter(None, (model, reference_model)):
            _shard(each)
        super().__init__(model, reference_model=reference_model, **settings)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state on rank 0, in host memory.

        On the others, which must take part, its tensors are empty.
        """
        state, keep = super().state_dict(), torch.distributed.get_rank() == 0
        moments = {
            name: {key: gathered(tensor, keep=keep) for key, tensor in tensors.items()}
            for name, tensors in state["moments"].items()
        }
        return {**state, "moments": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned on any number of ranks.

        Raises:
            StateError: As `PolicyLearner.load_state_dict`.
        """
        moments = {
            name: {key: self._own_part(name, tensor) for key, tensor in tensors.items()}
            for name, tensors in state.get("moments", {}).items()
        }
        super().load_state_dict({**state, "moments": moments})

    def _own_part(self, name: str, tensor: Tensor) -> Tensor:
        parameter: Any = self._parameters.get(name)
        if parameter is None or tensor.ndim == 0:
            return tensor
        return distribute_tensor(
            tensor.to(self._device), parameter.device_mesh, parameter.placements
        )

    def _batches(
        self, sequences: Sequence[TrainSequence], trained: Sequence[int], weights: Sequence[float]
    ) -> Iterator[tuple[list[int], TrainBatch]]:
        """Deal sequences to ranks, longest first.

        Every pass needs all ranks, so those with fewer batches repeat a sequence that does not
        count.
        """
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        order = sorted(trained, key=lambda index: (-sequences[index].token_ids.size, index))
        shares = [order[each::ranks] for each in range(ranks)]
        budget = self._optimizer_config.tokens_per_microbatch
        batches = [
            len(microbatches([sequences[index].token_ids.size for index in share], budget))
            for share in shares
        ]
        yield from super()._batches(sequences, shares[rank], weights)
        for _ in range(max(batches) - batches[rank]):
            yield from (
                ([], batch)
                for _, batch in super()._batches(sequences, order[-1:], [0.0] * len(sequences))
            )

    def _totals(self, sums: Mapping[str, Tensor | float]) -> dict[str, float]:
        own = super()._totals(sums)
        of_ranks = _of_ranks(own)
        names = dict.fromkeys(name for of_rank in of_ranks for name in of_rank)
        return {
            name: own[name]
            if name in _SAME_ON_ALL
            else sum(of_rank.get(name, 0.0) for of_rank in of_ranks)
            for name in names
        }

    def _all_rows(self, rows: dict[int, Float32Array]) -> dict[int, Float32Array]:
        return {row: values for of_rank in _of_ranks(rows) for row, values in of_rank.items()}

    def _whole(self, tensor: Tensor) -> Tensor:
        return whole(tensor)


def _of_ranks(value: Value) -> list[Value]:
    """Return what each rank has, on every rank."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _shard(model: PreTrainedModel) -> None:
    """Shard each transformer layer as a unit.

    Also what remains (embeddings, head, norms) as another.
    """
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            fully_shard(module)
    fully_shard(model)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
