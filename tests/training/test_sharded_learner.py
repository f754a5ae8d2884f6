"""Two ranks against one learner alone.

The same metrics, weights and state, whatever the loss; and a state that goes from one to the other
and back.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torch.distributed
from safetensors.torch import load, load_file, save_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from depo.config import LossConfig, PolicyConfig
from depo.training.distributed.policy_copy import pack_weights
from depo.training.distributed.sharded_learner import ShardedLearner
from depo.training.learner.policy_learner import PolicyLearner
from depo.types.errors import StateError
from tests.training.learner.learner_helpers import make_learner, random_advantages
from tests.training.learner.reference_losses import random_groups, tiny_policy

RANKS = 2
UPDATES = 3
PASSED = "sequences passed"
PASSES = 3
"""Times that an update deals sequences to ranks, at most; each time one rank may get one more than
its share.
"""

CASES: dict[str, dict[str, Any]] = {
    "one batch": {},
    "a batch per sequence": {"tokens_per_microbatch": 1},
    "clipped gradients": {"grad_clip": 1e-2},
    "minibatches and a trained mean": {
        "minibatches": 2,
        "loss": LossConfig(aggregation="token_mean"),
    },
    "reference": {"loss": LossConfig(kl_weight=0.05), "tokens_per_microbatch": 40},
    "noted log-probs": {
        "minibatches": 2,
        "loss": LossConfig(rollout_correction="truncate"),
        "tokens_per_microbatch": 1,
    },
    "checkpointing": {"policy": PolicyConfig(gradient_checkpointing=True)},
}


def make(settings: dict[str, Any], learner_class: type[PolicyLearner]) -> PolicyLearner:
    reference = tiny_policy(1) if "loss" in settings and settings["loss"].kl_weight else None
    return make_learner(
        tiny_policy(0),
        **{
            "learning_rate": 1e-3,
            "learner_class": learner_class,
            "reference_model": reference,
            **settings,
        },
    )


def update(learner: PolicyLearner, step: int) -> dict[str, float]:
    """Train on five groups of three."""
    groups, advantages_BG = (
        random_groups(tiny_policy(0), step, 5, 3, noise=0.3),
        random_advantages(5, 3, seed=step),
    )
    advantages_BG[0, :2] = [step % 2, 1]
    return learner.update(groups, advantages_BG, step=step)


def record(
    learner: PolicyLearner, steps: range
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Return metrics of each update, with the sequences that passed through the model.

    Also weights and moments after the last.
    """
    passed: list[int] = []
    learner.model.register_forward_pre_hook(
        lambda _, __, inputs: passed.append(len(inputs["input_ids"])), with_kwargs=True
    )
    metrics = []
    for step in steps:
        passed.clear()
        metrics.append(update(learner, step) | {PASSED: float(sum(passed))})
    return metrics, everything(learner)


def everything(learner: PolicyLearner) -> dict[str, Tensor]:
    moments = learner.state_dict()["moments"].items()
    state = {
        f"{name}/{key}": tensor.detach().clone()
        for name, tensors in moments
        for key, tensor in tensors.items()
    }
    return {**load(pack_weights(learner.model)), **state}


def only_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "/" not in name}


def on_all_ranks(directory: Path, work: Callable[[int], None]) -> None:
    """Run `work(rank)` in one process per rank; each must succeed."""
    children = []
    for rank in range(RANKS):
        if child := os.fork():
            children.append(child)
            continue
        status = 1
        try:
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{directory / 'meeting'}", rank=rank, world_size=RANKS
            )
            work(rank)
            torch.distributed.destroy_process_group()
            status = 0
        except BaseException:
            traceback.print_exc()  # the parent only sees a status
            raise
        finally:
            os._exit(status)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * RANKS


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name],
            theirs[name],
            rtol=0,
            atol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with what two ranks made of every case."""
    directory = tmp_path_factory.mktemp("ranks")
    torch.set_num_threads(1)

    def work(rank: int) -> None:
        for index, settings in enumerate(CASES.values()):
            learner = make(settings, ShardedLearner)
            parameters = [*learner.model.parameters()]
            assert all(isinstance(parameter, DTensor) for parameter in parameters)
            assert sum(parameter.to_local().numel() for parameter in parameters) < sum(
                parameter.numel() for parameter in parameters
            )
            assert isinstance(learner.model.model.layers[0], FSDPModule)
            metrics, tensors = record(learner, range(UPDATES))
            (directory / f"{index}_{rank}.json").write_text(json.dumps(metrics))
            save_file(tensors, directory / f"{index}_{rank}.safetensors")

    on_all_ranks(directory, work)
    return directory


@pytest.mark.parametrize("case", CASES)
def test_ranks_equal_one_learner(of_ranks: Path, case: str) -> None:
    metrics, tensors = record(make(CASES[case], PolicyLearner), range(UPDATES))
    index = [*CASES].index(case)
    for rank in range(RANKS):
        state = load_file(of_ranks / f"{index}_{rank}.safetensors")
        if rank == 0:
            assert_equal(state, tensors)
        else:
            assert_equal(only_weights(state), only_weights(tensors))
            assert not any(tensor.numel() for name, tensor in state.items() if "/" in name), (
                "one copy of the moments is enough"
            )
        of_rank = json.loads((of_ranks / f"{index}_{rank}.json").read_text())
        assert [row.keys() for row in of_rank] == [row.keys() for row in metrics]
        for ours, theirs in zip(of_rank, metrics, strict=True):
            assert ours[PASSED] <= theirs[PASSED] / RANKS + PASSES, "a rank runs its share"
            assert ours == pytest.approx(theirs | {PASSED: ours[PASSED]}, abs=1e-5)
    assert any(row["policy/trained_sequences"] % RANKS for row in metrics), (
        "one rank must have fewer for once"
    )
    assert any(
        (tensor - dict(tiny_policy(0).named_parameters())[name]).abs().max() > 1e-3
        for name, tensor in only_weights(tensors).items()
    )


def test_state_goes_from_one_learner_to_ranks_and_back(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = make({}, PolicyLearner)
    first = make({}, PolicyLearner)
    record(whole, range(4))
    _, after_two = record(first, range(2))

    def work(rank: int) -> None:
        learner = make({}, ShardedLearner)
        weights = only_weights(after_two)
        for name, parameter in learner.model.named_parameters():
            parameter.data.copy_(
                torch.distributed.tensor.distribute_tensor(
                    weights[name], parameter.device_mesh, parameter.placements
                )
            )
        with pytest.raises(StateError, match="expected parameters of this model"):
            learner.load_state_dict(
                {"version": 1, "moments": {"nobody": {"step": torch.tensor(1.0)}}}
            )
        learner.load_state_dict(first.state_dict())
        update(learner, 2)
        save_file(everything(learner), tmp_path / f"{rank}.safetensors")

    on_all_ranks(tmp_path, work)
    after_three = load_file(tmp_path / "0.safetensors")
    last = make({}, PolicyLearner)
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in after_three.items():
        if "/" in name:
            parameter, key = name.split("/")
            moments.setdefault(parameter, {})[key] = tensor
    last.model.load_state_dict(only_weights(after_three), strict=False)
    last.load_state_dict({"version": 1, "moments": moments})
    update(last, 3)
    assert_equal(everything(last), everything(whole))
