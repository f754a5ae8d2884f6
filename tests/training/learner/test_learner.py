"""The learner against one forward pass per sequence, and laws.

Invariance to micro-batches, exact continuation, nothing applied on error.
"""

import copy
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from depo.config import LossConfig, PolicyConfig
from depo.training.learner.packing import microbatches
from depo.types.errors import StateError
from depo.types.records import RolloutGroup
from tests.training.learner.learner_helpers import (
    MAX_NEW_TOKENS,
    assert_same_gradients,
    gradients_of_update,
    make_learner,
    random_advantages,
)
from tests.training.learner.reference_losses import (
    VOCABULARY,
    policy_gradient,
    random_groups,
    tiny_policy,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("tokens_per_microbatch", [1, 40, 10_000])
@pytest.mark.parametrize(
    ("aggregation", "kl_weight"),
    [("sequence_mean", 0.0), ("token_mean", 0.0), ("token_mean", 0.05), ("constant", 0.0)],
)
def test_gradient_is_that_of_the_full_batch_for_any_microbatch(
    aggregation: Any, kl_weight: float, tokens_per_microbatch: int
) -> None:
    model, reference_model = tiny_policy(0), (tiny_policy(1) if kl_weight else None)
    groups, advantages_BG = (
        random_groups(model, 0, 5, 4, noise=0.3, temperature=0.8),
        random_advantages(5, 4),
    )
    loss = LossConfig(aggregation=aggregation, kl_weight=kl_weight, clip_high=0.28, dual_clip=1.5)
    expected_loss, expected = policy_gradient(
        model, groups, advantages_BG, loss, MAX_NEW_TOKENS, 0.8, reference_model
    )
    learner = make_learner(
        model,
        loss=loss,
        temperature=0.8,
        reference_model=reference_model,
        tokens_per_microbatch=tokens_per_microbatch,
    )
    gradients, metrics = gradients_of_update(learner, groups, advantages_BG)
    assert_same_gradients(gradients, expected)
    assert metrics["policy/loss"] == pytest.approx(expected_loss, abs=1e-6)
    assert metrics["policy/grad_norm"] == pytest.approx(
        float(torch.cat([g.flatten() for g in expected.values()]).norm()), rel=1e-5
    )
    lengths_BG = np.array([[ids.size for ids in group.response_ids] for group in groups])
    needed_BG = lengths_BG > 0 if kl_weight else (lengths_BG > 0) & (advantages_BG != 0)
    assert 0 < needed_BG.sum() < needed_BG.size
    assert metrics["policy/trained_sequences"] == needed_BG.sum()


def test_gradient_checkpointing_recomputes_layers_and_gives_the_same_gradient() -> None:
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 3, 4, noise=0.3),
        random_advantages(3, 4),
    )
    seen = []
    for checkpointing in (False, True):
        learner = make_learner(
            tiny_policy(), policy=PolicyConfig(gradient_checkpointing=checkpointing)
        )
        calls = []
        learner.model.model.layers[0].mlp.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        gradients, _ = gradients_of_update(learner, groups, advantages_BG)
        seen.append((gradients, len(calls)))
        assert not any(module.training for module in learner.model.modules())
    assert (seen[0][1], seen[1][1]) == (1, 2)
    assert_same_gradients(seen[1][0], seen[0][0])


def test_dropout_is_off_even_under_checkpointing() -> None:
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 3, 4, noise=0.3),
        random_advantages(3, 4),
    )
    plain, _ = gradients_of_update(make_learner(tiny_policy()), groups, advantages_BG)
    model = tiny_policy(attention_dropout=0.5).train()
    noisy, _ = gradients_of_update(
        make_learner(model, policy=PolicyConfig(gradient_checkpointing=True)), groups, advantages_BG
    )
    assert_same_gradients(noisy, plain)


def test_autocast_computes_in_bfloat16_on_float32_master_weights() -> None:
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 4, 4, noise=0.0),
        random_advantages(4, 4),
    )
    by_setting: dict[str, Tensor] = {}
    for setting in ("off", "auto", "bfloat16"):
        learner = make_learner(tiny_policy(), policy=PolicyConfig(autocast=setting))  # type: ignore[arg-type]
        gradients, metrics = gradients_of_update(learner, groups, advantages_BG)
        assert {parameter.dtype for parameter in learner.model.parameters()} == {torch.float32}
        assert (metrics["policy/logprob_mismatch"] > 1e-4) == (setting == "bfloat16")
        by_setting[setting] = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert torch.equal(by_setting["off"], by_setting["auto"]), "auto is off on a CPU"
    assert float(torch.cosine_similarity(by_setting["off"], by_setting["bfloat16"], dim=0)) > 0.98


def test_minibatches_are_updates_on_consecutive_shares_of_the_groups() -> None:
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 6, 4, noise=0.2),
        random_advantages(6, 4),
    )
    together, apart = make_learner(tiny_policy(), minibatches=3), make_learner(tiny_policy())
    metrics = together.update(groups, advantages_BG, step=0)
    parts = [apart.update(groups[i : i + 2], advantages_BG[i : i + 2], step=0) for i in (0, 2, 4)]
    for one, other in zip(together.model.parameters(), apart.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert metrics["policy/loss"] == pytest.approx(np.mean([part["policy/loss"] for part in parts]))
    assert metrics["policy/trained_sequences"] == sum(
        part["policy/trained_sequences"] for part in parts
    )
    assert metrics["policy/logprob_mismatch"] == parts[0]["policy/logprob_mismatch"]
    assert metrics["policy/logprob_mismatch"] < parts[1]["policy/logprob_mismatch"], (
        "the second share met changed weights"
    )


def test_on_policy_metrics() -> None:
    model = tiny_policy()
    groups = random_groups(model, 0, 3, 4, noise=0.0)
    advantages_BG = np.ones((3, 4), np.float32)
    with torch.no_grad():
        entropies = []
        for group in groups:
            for response in group.response_ids:
                ids = torch.tensor(np.concatenate([group.prompt_ids, response]))[None]
                logprobs_TV = (
                    model(input_ids=ids).logits[0, group.prompt_ids.size - 1 : -1].log_softmax(-1)
                )
                entropies.append(-(logprobs_TV.exp() * logprobs_TV).sum(-1))
    metrics = make_learner(model).update(groups, advantages_BG, step=0)
    assert metrics["policy/entropy"] == pytest.approx(float(torch.cat(entropies).mean()), abs=1e-5)
    assert metrics["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/logprob_mismatch"] < 1e-5 and abs(metrics["policy/kl"]) < 1e-9
    assert metrics["policy/clip_share"] == 0.0
    assert metrics["policy/loss"] == pytest.approx(-1.0, abs=1e-5), "token mean of -A with A = 1"


def test_reference_kl_is_zero_with_itself_and_then_changes_no_gradient() -> None:
    groups, advantages_BG = (
        random_groups(tiny_policy(), 0, 3, 4, noise=0.1),
        random_advantages(3, 4),
    )
    plain, _ = gradients_of_update(make_learner(tiny_policy()), groups, advantages_BG)
    learner = make_learner(
        tiny_policy(), loss=LossConfig(kl_weight=0.5), reference_model=tiny_policy()
    )
    pulled, metrics = gradients_of_update(learner, groups, advantages_BG)
    assert metrics["policy/reference_kl"] == pytest.approx(0.0, abs=1e-10)
    assert_same_gradients(pulled, plain)


@pytest.mark.parametrize("n_groups", [0, 3])
def test_without_signal_nothing_moves_but_the_learning_rate(n_groups: int) -> None:
    learner = make_learner(tiny_policy(), learning_rate=1.0, warmup_steps=4)
    groups = random_groups(learner.model, 0, n_groups, 4, noise=0.1)
    before = copy.deepcopy(learner.model.state_dict())
    rates = []
    for step in (0, 1, 3, 9):
        metrics = learner.update(groups, np.zeros((n_groups, 4), np.float32), step=step)
        rates.append(metrics["policy/lr"])
        assert metrics == {
            "policy/lr": rates[-1],
            "policy/updated": 0.0,
            "policy/trained_sequences": 0.0,
        }
    assert rates == [0.25, 0.5, 1.0, 1.0]
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items()
    )
    assert learner.state_dict()["moments"] == {}


def test_gradient_clipping_bounds_what_the_optimizer_sees() -> None:
    learner = make_learner(tiny_policy(), grad_clip=0.01)
    gradients, metrics = gradients_of_update(
        learner, random_groups(learner.model, 0, 3, 4, noise=0.1), random_advantages(3, 4)
    )
    assert metrics["policy/grad_norm"] > 0.02
    assert float(
        torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    ) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("where", ["loss", "gradient norm"])
def test_non_finite_loss_or_gradient_raises_before_the_step(where: str) -> None:
    learner = make_learner(tiny_policy())
    groups, advantages_BG = (
        random_groups(learner.model, 0, 3, 4, noise=0.1),
        random_advantages(3, 4),
    )
    learner.update(groups, advantages_BG, step=0)
    before = copy.deepcopy((learner.model.state_dict(), learner.state_dict()))
    if where == "loss":
        next(
            logprobs
            for g in groups
            for logprobs, a in zip(g.rollout_logprobs, advantages_BG[0], strict=True)
            if logprobs.size and a
        )[:] = np.nan
    else:
        next(learner.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(RuntimeError, match=rf"step 7: the {where} is (nan|inf)"):
        learner.update(groups, advantages_BG, step=7)
    assert all(
        torch.equal(tensor, before[0][name]) for name, tensor in learner.model.state_dict().items()
    )
    for name, moments in learner.state_dict()["moments"].items():
        assert all(
            torch.equal(tensor, before[1]["moments"][name][key]) for key, tensor in moments.items()
        )


def test_optimizer_state_continues_bit_for_bit() -> None:
    learner = make_learner(tiny_policy(), warmup_steps=3)
    groups, advantages_BG = (
        random_groups(learner.model, 0, 3, 4, noise=0.1),
        random_advantages(3, 4),
    )
    for step in range(2):
        learner.update(groups, advantages_BG, step=step)
    weights, state = copy.deepcopy((learner.model.state_dict(), learner.state_dict()))
    other_model = tiny_policy(5)
    other_model.load_state_dict(weights)
    other = make_learner(other_model, warmup_steps=3)
    other.load_state_dict(state)
    for step in range(2, 5):
        assert learner.update(groups, advantages_BG, step=step) == other.update(
            groups, advantages_BG, step=step
        )
    for one, two in zip(learner.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert float(state["moments"]["model.norm.weight"]["step"]) == 2, (
        "the given state is not written to"
    )


def test_foreign_state_is_refused() -> None:
    learner = make_learner(tiny_policy())
    learner.update(
        random_groups(learner.model, 0, 2, 4, noise=0.1), np.ones((2, 4), np.float32), step=0
    )
    state = learner.state_dict()
    moments = state["moments"]["model.norm.weight"]
    for bad, words in [
        (state | {"version": 99}, "version: got 99, expected 1"),
        (state | {"moments": {"elsewhere": moments}}, "got moments of 'elsewhere'"),
        (
            state | {"moments": {"model.embed_tokens.weight": moments}},
            "'model.embed_tokens.weight': got shapes",
        ),
        (state | {"moments": {"model.norm.weight": {}}}, "'model.norm.weight': got shapes {}"),
    ]:
        with pytest.raises(StateError, match=words):
            learner.load_state_dict(bad)


def test_bad_input_is_named() -> None:
    learner = make_learner(tiny_policy())
    groups = random_groups(learner.model, 0, 2, 4, noise=0.1)
    advantages_BG = np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"^advantages_BG: got shape \(3, 4\), expected \[2, G\]"):
        learner.update(groups, np.ones((3, 4), np.float32), step=0)
    with pytest.raises(ValueError, match=r"^groups\[0\]: got 4 responses, expected 3"):
        learner.update(groups, np.ones((2, 3), np.float32), step=0)
    with pytest.raises(ValueError, match=r"^advantages_BG: got 8 values that are not finite"):
        learner.update(groups, advantages_BG * np.nan, step=0)
    with pytest.raises(ValueError, match=r"^groups\[1\].prompt_ids: got no token"):
        learner.update(
            [groups[0], replace(groups[1], prompt_ids=np.zeros(0, np.int64))], advantages_BG, step=0
        )
    with pytest.raises(ValueError, match=r"^groups\[0\].rollout_logprobs: got 1 for a response of"):
        learner.update(
            [replace(groups[0], rollout_logprobs=(np.zeros(1, np.float32),) * 4), groups[1]],
            advantages_BG,
            step=0,
        )
    with pytest.raises(ValueError, match=r"^token_factors\[0\]: got 1 for a response of"):
        learner.update(
            groups, advantages_BG, step=0, token_factors=[[np.ones(1, np.float32)] * 4] * 2
        )
    with pytest.raises(
        ValueError, match=r"^token_factors\[0\]: got 3 arrays, expected 4, one per response"
    ):
        learner.update(
            groups, advantages_BG, step=0, token_factors=[[np.ones(1, np.float32)] * 3] * 2
        )
    with pytest.raises(ValueError, match=r"^step: got -1"):
        learner.update(groups, advantages_BG, step=-1)
    with pytest.raises(
        ValueError,
        match=r"^reference_model: got none, expected one if and only if loss.kl_weight > 0",
    ):
        make_learner(tiny_policy(), loss=LossConfig(kl_weight=0.1))
    with pytest.raises(ValueError, match=r"^reference_model: got a model"):
        make_learner(tiny_policy(), reference_model=tiny_policy())


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 200))
def test_microbatches_cover_everything_once_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = microbatches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    order = [(-lengths[index], index) for batch in batches for index in batch]
    assert order == sorted(order)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * max(
            lengths[index] for index in (*batch, following[0])
        ) > budget, "the next one would have fitted"


def test_a_bandit_is_learned() -> None:
    """One prompt, responses of one token, one of them rewarded.

    Its probability rises from about 1/40 to above 0.9.
    """
    model, target, rng = tiny_policy(3), 17, np.random.default_rng(0)
    learner = make_learner(model, learning_rate=5e-3, grad_clip=1.0)
    prompt_ids = np.array([1, 2], np.int64)

    def probabilities() -> Tensor:
        with torch.no_grad():
            return (
                model(input_ids=torch.tensor(prompt_ids)[None]).logits[0, -1].double().softmax(-1)
            )

    start = float(probabilities()[target])
    for step in range(40):
        probabilities_V = probabilities().numpy()
        tokens = rng.choice(VOCABULARY, 32, p=probabilities_V)
        rewards_G = (tokens == target).astype(np.float32)
        group = RolloutGroup(
            prompt_ids=prompt_ids,
            response_ids=tuple(tokens[:, None]),
            rollout_logprobs=tuple(np.log(probabilities_V[tokens, None]).astype(np.float32)),
            finished=np.ones(32, np.bool_),
            responses=("",) * 32,
            policy_version=step,
        )
        learner.update([group], (rewards_G - rewards_G.mean())[None], step=step)
    assert start < 0.3
    assert float(probabilities()[target]) > 0.9
