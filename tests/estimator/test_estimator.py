"""The difficulty estimator: losses against loops, text that does not fit, learning."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.config import EstimatorConfig
from depo.estimator import bert
from depo.estimator.model import DifficultyModel, build_encoder
from depo.estimator.text import Overflow, TextEncoder
from depo.estimator.training import (
    Targets,
    build_optimizer,
    difficulty_loss,
    optimizer_step,
    ranking_loss,
)
from depo.types.records import TargetBatch
from tests.estimator.estimator_helpers import (
    SMALL,
    WORDS,
    assert_same_state,
    build,
    random_batches,
    targets,
    texts,
    word_tokenizer,
)

# losses


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(-3, 3, width=32)), min_size=1, max_size=9),
    st.sampled_from([0.05, 0.125, 0.3]),
)
def test_ranking_loss_is_the_mean_over_ordered_pairs(
    rows: list[tuple[int, float]], gap: float
) -> None:
    rates, scores = [k / 8 for k, _ in rows], [score for _, score in rows]
    pairs = [
        max(0.0, 0.5 - (scores[i] - scores[j]))
        for i in range(len(rows))
        for j in range(len(rows))
        if rates[i] > rates[j] + gap
    ]
    expected = sum(pairs) / len(pairs) if pairs else 0.0
    assert float(
        ranking_loss(torch.tensor(scores), torch.tensor(rates), gap, 0.5)
    ) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1),
            st.one_of(st.none(), st.floats(0, 1)),
            st.floats(0.1, 9),
            st.floats(-4, 4),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_cross_entropies_are_weighted_means_over_the_known(
    rows: list[tuple[float, float | None, float, float]],
) -> None:
    rates, logprobs, weights, scores = zip(*rows, strict=True)

    def entropy(target: float, logit: float) -> float:
        probability = 1 / (1 + np.exp(-logit))
        return float(-target * np.log(probability) - (1 - target) * np.log(1 - probability))

    known = [
        (np.clip(logprob, 1e-4, 1 - 1e-4), weight, score)
        for _, logprob, weight, score in rows
        if logprob is not None
    ]
    score_loss = np.average(
        [entropy(rate, score) for rate, score in zip(rates, scores, strict=True)], weights=weights
    )
    distill_loss = (
        np.average([entropy(p, -score) for p, _, score in known], weights=[w for _, w, _ in known])
        if known
        else 0.0
    )
    given_targets = Targets(
        rewards=torch.tensor(rates),
        logprobs=torch.tensor([float("nan") if p is None else p for p in logprobs]),
        weights=torch.tensor(weights),
    )
    config = EstimatorConfig(distill_weight=0.7, ranking_weight=2.0)
    terms = difficulty_loss(torch.tensor(scores), -torch.tensor(scores), given_targets, config)
    assert float(terms.score) == pytest.approx(score_loss, rel=1e-4, abs=1e-5)
    assert float(terms.distill) == pytest.approx(distill_loss, rel=1e-4, abs=1e-5)
    assert float(terms.loss) == pytest.approx(
        float(terms.score + 0.7 * terms.distill + 2 * terms.ranking), rel=1e-5
    )


def test_unknown_logprobs_give_the_distill_head_no_gradient() -> None:
    scores, distills = (torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True))
    given_targets = Targets(
        rewards=torch.tensor([0.0, 0.2, 0.8, 1.0]),
        logprobs=torch.tensor([torch.nan, 0.9, torch.nan, torch.nan]),
        weights=torch.ones(4),
    )
    torch.autograd.backward(difficulty_loss(scores, distills, given_targets, SMALL).loss)
    assert scores.grad is not None and distills.grad is not None
    assert (scores.grad[:2] > 0).all() and (scores.grad[2:] < 0).all()
    assert distills.grad[1] < 0 and not distills.grad[[0, 2, 3]].any()


def test_gradient_of_the_loss_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, distills = (
        torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    rewards = torch.tensor([0, 0.125, 0.5, 0.5, 0.875, 1], dtype=torch.float64)
    given_targets = Targets(
        rewards=rewards,
        logprobs=rewards * 0.5 + 0.1,
        weights=torch.arange(1, 7, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(
        lambda s, d: difficulty_loss(s, d, given_targets, SMALL).loss, (scores, distills)
    )


# model


def test_first_prediction_is_undecided_and_inside_the_unit_interval() -> None:
    estimator = build()
    assert np.abs(estimator.predict(texts(20)) - 0.5).max() < 0.01
    assert estimator.predict([]).shape == (0,)
    with torch.no_grad():
        estimator._model.score_head.bias.fill_(1e4)
    high = estimator.predict(texts(3))
    assert high.dtype == np.float32 and ((high > 0.999) & (high < 1)).all()


def test_initialisation_follows_the_paper() -> None:
    config = EstimatorConfig.from_preset(
        "depo_paper", hidden_size=64, heads=2, feed_forward=64, layers=1
    )
    torch.manual_seed(0)
    model = DifficultyModel(build_encoder(config, 30), config)
    shapes = [
        tuple(module.weight.shape)
        for module in model.trunk.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert shapes == [(1024, 64), *[(1024, 1024)] * 4, (512, 1024)]
    assert float(torch.std(model.state_dict()["trunk.0.weight"])) == pytest.approx(0.02, rel=0.05)
    assert float(torch.std(model.state_dict()["score_head.weight"])) == pytest.approx(
        0.001, rel=0.15
    )
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    group_rates = [group["lr"] for group in build_optimizer(model, config).param_groups]
    assert group_rates == pytest.approx([4e-5, 2e-4])
    assert (
        config.ranking_weight,
        config.distill_weight,
        config.ranking_gap,
        config.ranking_margin,
        config.replay_steps,
    ) == (3.0, 0.5, 0.05, 0.5, 0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_and_company_do_not_change_a_prediction(pooling: str) -> None:
    prompts = texts(30)
    estimator = build(EstimatorConfig(**{**asdict(SMALL), "pooling": pooling, "predict_batch": 7}))
    estimator.update(random_batches(3, 0))
    alone = np.concatenate([estimator.predict([text]) for text in prompts])
    np.testing.assert_allclose(estimator.predict(prompts), alone, atol=1e-6)
    assert np.ptp(alone) > 1e-6


# text


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [
        ("head", [3, 4, 5, 6, 7, 8, 9]),
        ("tail", [16, 17, 18, 19, 20, 21, 22]),
        ("head_tail", [3, 4, 5, 6, 20, 21, 22]),
    ],
)
def test_overflow_policies(overflow: Overflow, kept: list[int]) -> None:
    encoder = TextEncoder(word_tokenizer(), 8, overflow)
    long, fits = " ".join(WORDS[3:]), " ".join(WORDS[3:10])
    assert encoder.encode([long, fits]) == [[1, *kept], [1, *range(3, 10)]]
    assert encoder.take_overflow_share() == 0.5
    assert encoder.take_overflow_share() == 0.0


def test_special_tokens_of_a_bert_tokenizer() -> None:
    encoder = TextEncoder(word_tokenizer(cls_token="[CLS]", sep_token="[SEP]"), 8, "tail")
    assert encoder.encode(["w0 w1", " ".join(WORDS[3:])]) == [
        [23, 3, 4, 24],
        [23, 17, 18, 19, 20, 21, 22, 24],
    ]


def test_overflow_is_reported_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    estimator = build()
    estimator.predict([" ".join(["w1"] * 40), "w1", "w2"])
    estimator.predict([" ".join(["w2"] * 40)])
    assert estimator.update([targets(["w1"], [0.5])])["estimator/overflow_share"] == pytest.approx(
        2 / 5
    )
    assert estimator.update([targets(["w1"], [0.5])])["estimator/overflow_share"] == 0
    assert [
        record.levelname for record in caplog.records if "longer than 15 tokens" in record.message
    ] == ["WARNING"]


# update


def test_it_learns_which_words_are_hard() -> None:
    estimator = build(
        EstimatorConfig(
            **{**asdict(SMALL), "hidden_size": 32, "trunk_sizes": (64, 32), "learning_rate": 5e-3}
        )
    )
    rng = np.random.default_rng(0)
    for step in range(50):
        prompts = texts(24, 1000 + step)
        rates = rng.binomial(8, [0.9 if "w1 " in f"{text} " else 0.1 for text in prompts]) / 8
        estimator.update([targets(prompts, rates)])
    unseen = texts(200, 9)
    hard = np.array(["w1 " not in f"{text} " for text in unseen])
    predictions = estimator.predict(unseen)
    assert predictions[hard].mean() < 0.25 and predictions[~hard].mean() > 0.75


def test_an_update_in_parts_is_the_update_in_one_pass() -> None:
    """Also where the ranking loss pairs texts of different parts."""
    batches = random_batches(3, seed=1)
    whole, parts = (build(replace(SMALL, tokens_per_pass=tokens)) for tokens in (1000, 20))
    metrics = [estimator.update(batches) for estimator in (whole, parts)]
    assert metrics[0]["estimator/ranking_loss"] > 0
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-5)
    torch.testing.assert_close(
        parts.state_dict()["model"], whole.state_dict()["model"], rtol=0, atol=1e-5
    )


def test_parts_are_computed_again_with_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for again in (True, False):
        estimator = build(replace(SMALL, tokens_per_pass=20))
        for module in estimator._model.encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        with monkeypatch.context() as once:
            if not again:
                once.setattr(
                    bert, "checkpoint", lambda function, *arguments, **_: function(*arguments)
                )
            estimator.update(random_batches(2, seed=1))
        states.append(estimator.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_weights_decide_between_contradicting_labels() -> None:
    prompts = ["w1 w2", "w1 w2"]
    predictions = {}
    for weighted in (True, False):
        estimator = build(
            EstimatorConfig(
                **{
                    **asdict(SMALL),
                    "importance_weighted": weighted,
                    "ranking_weight": 0.0,
                    "learning_rate": 1e-2,
                }
            )
        )
        for _ in range(40):
            estimator.update([targets(prompts, [0.0, 1.0], weights=np.array([1.0, 9.0]))])
        predictions[weighted] = estimator.predict(prompts)[0]
    assert predictions[True] == pytest.approx(0.9, abs=0.03)
    assert predictions[False] == pytest.approx(0.5, abs=0.03)


def test_scaling_all_weights_changes_nothing() -> None:
    one, other = build(), build()
    one.update([targets(texts(6), np.arange(6) / 8, weights=1.0)])
    other.update([targets(texts(6), np.arange(6) / 8, weights=4.0)])
    assert_same_state(one, other)


def test_an_unusable_batch_is_skipped_and_leaves_no_trace() -> None:
    estimator, untouched = build(), build()
    for one in (estimator, untouched):
        one.update(random_batches(1, 0))
    before = estimator.state_dict()
    metrics = estimator.update([targets(["w1", "w2"], [float("nan"), 0.5]), targets([], [])])
    assert metrics["estimator/skipped_steps"] == 1
    assert np.isnan(
        [
            metrics[f"estimator/{name}"]
            for name in ("loss", "score_loss", "distill_loss", "ranking_loss", "grad_norm")
        ]
    ).all()
    torch.testing.assert_close(
        {**estimator.state_dict(), "version": 1, "texts_seen": 0},
        {**before, "texts_seen": 0},
        rtol=0,
        atol=0,
    )
    usable = estimator.update(random_batches(1, 1))
    assert usable["estimator/skipped_steps"] == 0 and np.isfinite(list(usable.values())).all()


def test_a_gradient_that_overflows_changes_nothing() -> None:
    model = DifficultyModel(build_encoder(SMALL, len(WORDS)), SMALL)
    optimizer = build_optimizer(model, SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = torch.sqrt(model.score_head.weight.abs().sum() * 0)  # finite, but its derivative is not
    assert not np.isfinite(optimizer_step(model, optimizer, loss, 1.0))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_a_scale_of_zero_freezes_the_encoder() -> None:
    estimator = build(EstimatorConfig(**{**asdict(SMALL), "encoder_lr_scale": 0.0}))
    before = estimator.state_dict()["model"]
    estimator.update(random_batches(2, 0))
    after = estimator.state_dict()["model"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith("encoder.") for name in changed)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (targets(["w1"], [1.5]), "reward_targets: got values from 1.5"),
        (targets(["w1"], [0.5], logprobs=-0.75), "logprob_targets: got values from -0.75"),
        (targets(["w1"], [0.5], weights=0.0), "weights: got 0.0"),
        (targets(["w1"], [0.5, 0.5]), "reward_targets: got shape"),
    ],
)
def test_bad_targets_are_named_before_anything_changes(batch: TargetBatch, message: str) -> None:
    estimator, untouched = build(), build()
    with pytest.raises(ValueError, match=message):
        estimator.update([*random_batches(1, 0), batch])
    assert_same_state(estimator, untouched)
