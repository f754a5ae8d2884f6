"""What the local rollout engine takes: weights, prompts, limits; and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from depo.config import TrainConfig
from depo.config.sections import RolloutConfig
from depo.rollout.prompts import encode_prompts
from depo.training.build import _build_engine
from depo.types.errors import ConfigError
from depo.types.records import Prompt
from tests.rollout.rollout_helpers import (
    EOS,
    SIZES,
    build_engine,
    build_model,
    flat_responses,
    word_prompts,
    word_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return word_prompts()


def test_weights_of_the_engines_own_module_are_used_as_they_are(tokenizer, prompts):
    model = build_model()
    engine = build_engine(model, tokenizer)
    assert engine.policy_version == 0
    before = [parameter.data_ptr() for parameter in model.parameters()]
    engine.load_weights(model, 3)
    assert engine.policy_version == 3
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    assert {
        group.policy_version for group in engine.generate(prompts, 1, range(6), temperature=1.0)
    } == {3}


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen2_untied_eager", "gpt2"])
def test_weights_of_another_module_are_copied(name, tokenizer, prompts):
    policy = build_model(name)
    engines_own = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    engine = build_engine(engines_own, tokenizer)
    expected = build_engine(policy, tokenizer).generate(prompts, 3, range(6), temperature=1.0)
    assert flat_responses(engine.generate(prompts, 3, range(6), temperature=1.0)) != flat_responses(
        expected
    )
    engine.load_weights(policy, 1)
    assert flat_responses(engine.generate(prompts, 3, range(6), temperature=1.0)) == flat_responses(
        expected
    )
    shares = (
        engines_own.get_input_embeddings().weight.data_ptr()
        == engines_own.get_output_embeddings().weight.data_ptr()
    )
    assert shares == policy.config.tie_word_embeddings
    policy.get_input_embeddings().weight.data.zero_()
    assert flat_responses(engine.generate(prompts, 3, range(6), temperature=1.0)) == flat_responses(
        expected
    ), "a copy, not an alias"


def test_weights_that_do_not_fit_are_refused(tokenizer):
    engine = build_engine(build_model("qwen2_tied"), tokenizer)
    with pytest.raises(ValueError, match="tie_word_embeddings=False, expected True"):
        engine.load_weights(build_model("qwen2_untied_eager"), 1)
    with pytest.raises(ValueError, match="do not fit"):
        engine.load_weights(
            Qwen2ForCausalLM(
                Qwen2Config(**{**SIZES, "intermediate_size": 50}, tie_word_embeddings=True)
            ),
            1,
        )
    assert engine.policy_version == 0


def test_no_prompts_give_no_groups(tokenizer):
    assert build_engine(build_model(), tokenizer).generate([], 4, [], temperature=1.0) == []


def test_messages_go_through_the_chat_template(tokenizer):
    with_template = copy.deepcopy(tokenizer)
    with_template.chat_template = (
        "{% for m in messages %}w2 {{ m['content'] }} {% endfor %}{% if "
        "add_generation_prompt %}w3{% endif %}"
    )
    prompt = Prompt(text="w8 w9", messages=({"role": "user", "content": "w8 w9"},))
    assert encode_prompts([prompt], with_template, 8)[0].tolist() == [2, 8, 9, 3]
    with pytest.raises(ValueError, match="no chat template"):
        encode_prompts([prompt], tokenizer, 8)


def test_prompts_of_the_wrong_length_are_named(tokenizer):
    engine = build_engine(build_model(), tokenizer, max_prompt_tokens=3)
    assert (
        engine.generate([Prompt(text="w2 w3 w4")], 1, [0], temperature=1.0)[0].prompt_ids.size == 3
    )
    with pytest.raises(
        ValueError,
        match=r"prompt chosen .*got 4 tokens, expected 1 to max_prompt_tokens = 3.*'w2 w3 w4 w5'",
    ):
        engine.generate(
            [Prompt(text="w2"), Prompt(id="chosen", text="w2 w3 w4 w5")], 1, [0, 1], temperature=1.0
        )
    with pytest.raises(ValueError, match="got 0 tokens"):
        engine.generate([Prompt(text="")], 1, [0], temperature=1.0)


def test_prompt_and_budget_fit_the_models_positions(tokenizer):
    engine = build_engine(build_model("gpt2"), tokenizer, max_prompt_tokens=1000, max_new_tokens=60)
    assert engine.max_prompt_tokens == 4
    assert len(engine.generate([Prompt(text="w2 w3 w4 w5")], 4, [0], temperature=1.0)) == 1
    with pytest.raises(
        ValueError, match=r"max_new_tokens: got 64, expected less than the model's 64 positions"
    ):
        build_engine(build_model("gpt2"), tokenizer, max_new_tokens=64)


@pytest.mark.parametrize("name", ["max_new_tokens", "sequences_per_batch", "max_prompt_tokens"])
def test_limits_below_one_are_refused(name, tokenizer):
    with pytest.raises(ValueError, match=f"{name}: got 0, expected at least 1"):
        build_engine(build_model(), tokenizer, **{name: 0})


def test_bad_requests_are_refused(tokenizer, prompts):
    engine = build_engine(build_model(), tokenizer)
    with pytest.raises(ValueError, match="group_size: got 0"):
        engine.generate(prompts, 0, range(6), temperature=1.0)
    with pytest.raises(ValueError, match="keys: got 5, expected one for each of 6"):
        engine.generate(prompts, 2, range(5), temperature=1.0)
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature: got"):
            engine.generate(prompts, 2, range(6), temperature=temperature)
    with pytest.raises(ValueError, match="eos_token_ids: got none"):
        build_engine(build_model(), tokenizer, eos_token_ids=[])


def test_a_diverged_policy_is_reported(tokenizer, prompts):
    model = build_model()
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        build_engine(model, tokenizer).generate(prompts, 2, range(6), temperature=1.0)


def test_the_stop_text_ends_responses_like_an_end_token(tokenizer, prompts):
    engine = _build_engine(
        TrainConfig(rollout=RolloutConfig(stop="w9", max_new_tokens=12, max_prompt_tokens=40)),
        build_model(),
        tokenizer,
    )
    groups = engine.generate(prompts, 16, range(6), temperature=1.0)
    last = {
        int(ids[-1])
        for group in groups
        for ids, finished in zip(group.response_ids, group.finished, strict=True)
        if finished
    }
    assert last == {EOS, 9}
    assert not any("w9" in response.split() for group in groups for response in group.responses)
    with pytest.raises(
        ConfigError,
        match=r"^rollout.stop: got 'w9 w2', which is 2 tokens \[9, 2\] of the policy's tokenizer, "
        r"expected the text of one",
    ):
        _build_engine(TrainConfig(rollout=RolloutConfig(stop="w9 w2")), build_model(), tokenizer)
