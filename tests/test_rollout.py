"""Laws of the local rollout engine: exact log-probs, randomness from the keys alone, no wasted work, and clear ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from depo.keyed import derive_key, uniforms
from depo.precision import mixed_precision
from depo.records import Prompt, RolloutGroup
from depo.rollout.local import COMPACT_BELOW, LocalEngine
from depo.rollout.prompts import encode_prompts
from depo.rollout.sampling import sample_tokens

VOCAB_SIZE = 40
PAD, EOS = 0, 1
IDS = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
SIZES = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 64, **IDS,
}  # fmt: skip
GPT_SIZES = {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **IDS}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2_tied": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen2_untied_eager": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False, attn_implementation="eager")),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT_SIZES)),
    "gptj_mask_by_model": lambda: GPTJForCausalLM(GPTJConfig(**GPT_SIZES, rotary_dim=8)),
    "mistral_sliding_window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5)),
    "lfm2_recurrent": lambda: Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])),
}
PROMPT_LENGTHS = (9, 2, 6, 2, 12, 5)


def build_model(name: str = "qwen2_tied") -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<eos>": EOS, **{f"w{i}": i for i in range(2, VOCAB_SIZE)}}
    words_only = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words_only, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    draws = np.random.default_rng(0)
    return [Prompt(text=" ".join(f"w{i}" for i in draws.integers(2, VOCAB_SIZE, size=n))) for n in PROMPT_LENGTHS]


def build_engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: object) -> LocalEngine:
    return LocalEngine(model, tokenizer, **{"max_new_tokens": 12, "sequences_per_batch": 64, "max_prompt_tokens": 40, **options})


def flat_responses(groups: Sequence[RolloutGroup]) -> list[list[int]]:
    return [ids.tolist() for group in groups for ids in group.response_ids]


def teacher_forced(model: PreTrainedModel, prompt_ids: np.ndarray, response_ids: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probs of a response by one forward pass over the unpadded sequence."""
    ids = torch.from_numpy(np.concatenate([prompt_ids, response_ids]))
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, prompt_ids.size - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.from_numpy(response_ids)[:, None])[:, 0].numpy()


@pytest.mark.parametrize("name", MODELS)
def test_logprobs_are_those_of_one_forward_pass_over_the_whole_sequence(name, tokenizer, prompts):
    model = build_model(name).eval()
    groups = build_engine(model, tokenizer, eos_token_ids=range(1, 6)).generate(prompts, 6, range(len(prompts)), temperature=0.8)
    for group in groups:
        for ids, logprobs in zip(group.response_ids, group.rollout_logprobs, strict=True):
            assert logprobs.dtype == np.float32
            np.testing.assert_allclose(logprobs, teacher_forced(model, group.prompt_ids, ids, 0.8), rtol=0, atol=1e-5)
    lengths = {len(ids) for ids in flat_responses(groups)}
    assert len(lengths) > 3, "rows must end at different steps, or dropping finished rows was not exercised"


def test_autocast_is_the_learners(tokenizer, prompts):
    model = build_model().eval()
    groups = build_engine(model, tokenizer, autocast="bfloat16").generate(prompts, 6, range(len(prompts)), temperature=1.0)
    gaps = {"same": [], "float32": []}
    for group in groups:
        for ids, logprobs in zip(group.response_ids, group.rollout_logprobs, strict=True):
            assert logprobs.dtype == np.float32
            with mixed_precision("bfloat16", torch.device("cpu")):
                gaps["same"].append(np.abs(logprobs - teacher_forced(model, group.prompt_ids, ids, 1.0)).mean())
            gaps["float32"].append(np.abs(logprobs - teacher_forced(model, group.prompt_ids, ids, 1.0)).mean())
    assert 0.0 < np.mean(gaps["same"]) < np.mean(gaps["float32"]) < 0.1


@pytest.mark.parametrize("name", ["qwen2_tied", "llama", "gpt2"])
def test_responses_depend_on_their_key_and_prompt_alone(name, tokenizer, prompts):
    model = build_model(name).double()
    keys = [2**64 - 1, 0, 17, 3, 5, 2**63]
    expected = build_engine(model, tokenizer).generate(prompts, 5, keys, temperature=1.0)
    for rows in (1, 3, 13):  # single rows, groups split over batches, whole groups with rows to spare
        groups = build_engine(model, tokenizer, sequences_per_batch=rows).generate(prompts, 5, keys, temperature=1.0)
        assert flat_responses(groups) == flat_responses(expected)
        for group, other in zip(groups, expected, strict=True):
            np.testing.assert_allclose(np.concatenate(group.rollout_logprobs), np.concatenate(other.rollout_logprobs), atol=1e-6)
    order = [4, 1, 5, 0, 3, 2]
    shuffled = build_engine(model, tokenizer).generate([prompts[i] for i in order], 5, [keys[i] for i in order], temperature=1.0)
    assert flat_responses(shuffled) == flat_responses([expected[i] for i in order])
    fewer = build_engine(model, tokenizer).generate(prompts, 2, keys, temperature=1.0)
    assert flat_responses(fewer) == [ids.tolist() for group in expected for ids in group.response_ids[:2]]


def test_another_key_gives_other_responses_and_no_two_of_a_group_share_draws(tokenizer, prompts):
    engine = build_engine(build_model(), tokenizer)
    first, second = (engine.generate(prompts, 8, [key] * len(prompts), temperature=1.0) for key in (1, 2))
    assert flat_responses(first) != flat_responses(second)
    assert all(len({tuple(ids) for ids in group.response_ids}) > 4 for group in first)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_what_transformers_generates(name, tokenizer, prompts):
    model = build_model(name).eval()
    groups = build_engine(model, tokenizer).generate(prompts, 1, [0] * len(prompts), temperature=0)
    batch = tokenizer([prompt.text for prompt in prompts], return_tensors="pt", padding=True, padding_side="left")
    reference = model.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, do_sample=False, max_new_tokens=12, pad_token_id=PAD, eos_token_id=EOS
    )
    for group, row in zip(groups, reference[:, batch.input_ids.shape[1] :].tolist(), strict=True):
        assert group.response_ids[0].tolist() == (row[: row.index(EOS) + 1] if EOS in row else row)
        assert not group.rollout_logprobs[0].any()


def test_tokens_follow_the_softmax(tokenizer):
    model, temperature, count = build_model().eval(), 1.3, 20_000
    engine = build_engine(model, tokenizer, max_new_tokens=1, sequences_per_batch=count)
    group = engine.generate([Prompt(text="w5 w6 w7")], count, [7], temperature=temperature)[0]
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(group.prompt_ids)[None]).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1).numpy() * count
    observed = np.bincount(np.concatenate(group.response_ids), minlength=VOCAB_SIZE)
    chi_square = ((observed - expected) ** 2 / expected).sum()
    degrees = VOCAB_SIZE - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


@given(
    logits=st.lists(st.one_of(st.floats(-120, 120, width=32), st.just(-np.inf)), min_size=1, max_size=30).filter(lambda row: max(row) > -np.inf),
    uniform=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53, 2**-60])),
)
def test_a_sampled_token_spans_its_uniform_number(logits, uniform):
    tokens, logprobs = sample_tokens(torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), 1.0)
    probabilities = np.exp(np.array(logits) - max(logits))
    below = probabilities[: tokens[0]].sum() / probabilities.sum()
    share = probabilities[tokens[0]] / probabilities.sum()
    assert share > 0
    assert below - 1e-6 <= uniform <= below + share + 1e-6
    assert float(logprobs[0]) == pytest.approx(np.log(share), abs=1e-4)


def test_the_tail_of_a_large_vocabulary_is_reached():
    tail = 200_000
    logits = torch.full((1, tail + 1), -24.0)  # each tail token has probability 4e-11, all of them together 8e-6
    logits[0, 0] = 0.0
    tail_mass = tail * np.exp(-24.0) / (1 + tail * np.exp(-24.0))
    positions = np.linspace(0.01, 0.99, 16)
    tokens, _ = sample_tokens(logits.expand(16, -1), torch.from_numpy(1 - tail_mass * (1 - positions)), 1.0)
    np.testing.assert_allclose(tokens.numpy() / tail, positions, atol=1e-3)


def test_a_response_ends_with_its_first_eos_token_or_at_the_budget(tokenizer, prompts):
    stops = (EOS, 9, 23)  # 9 and 23 are ordinary words to the tokenizer
    groups = build_engine(build_model(), tokenizer, eos_token_ids=stops).generate(prompts, 16, range(6), temperature=1.0)
    assert [group.prompt_ids.tolist() for group in groups] == tokenizer([prompt.text for prompt in prompts]).input_ids
    endings = set()
    for group in groups:
        assert group.finished.shape == (16,)
        assert group.finished.dtype == np.bool_
        for ids, logprobs, finished, text in zip(group.response_ids, group.rollout_logprobs, group.finished, group.responses, strict=True):
            assert ids.dtype == np.int64
            assert ids.shape == logprobs.shape
            body = ids[:-1] if finished else ids
            assert finished == (ids[-1] in stops)
            assert not np.isin(body, stops).any()
            assert finished or ids.size == 12
            assert text.split() == [f"w{token}" for token in body if token != PAD]
            endings.add(int(ids[-1]) if finished else None)
    assert endings == {None, *stops}


def test_end_tokens_come_from_generation_config_and_tokenizer(tokenizer, prompts):
    model = build_model()
    model.generation_config.eos_token_id = [30, 31]
    implied = build_engine(model, tokenizer).generate(prompts, 8, range(6), temperature=1.0)
    given_ids = build_engine(model, tokenizer, eos_token_ids=[30, EOS, 31]).generate(prompts, 8, range(6), temperature=1.0)
    assert flat_responses(implied) == flat_responses(given_ids)


def test_each_prompt_is_prefilled_once_and_finished_rows_are_dropped(tokenizer, prompts):
    model, seen = build_model(), []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    groups = build_engine(model, tokenizer, eos_token_ids=range(1, 8)).generate(prompts, 8, range(6), temperature=1.0)
    lengths = np.array([len(ids) for ids in flat_responses(groups)])
    assert seen[0] == (len(prompts), max(PROMPT_LENGTHS))
    assert len(seen) == lengths.max(), "one forward pass per token of the longest response, its last one excluded"
    for step, (rows, width) in enumerate(seen[1:], start=1):
        assert width == 1
        unfinished = (lengths > step).sum()
        assert unfinished <= rows <= unfinished / COMPACT_BELOW


def test_generation_leaves_the_module_as_it_was(tokenizer, prompts):
    model = build_model("gpt2").train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    engine = build_engine(model, tokenizer)
    groups = engine.generate(prompts, 2, range(6), temperature=1.0)
    assert [module.training for module in model.modules()] == modes
    assert flat_responses(groups) == flat_responses(engine.generate(prompts, 2, range(6), temperature=1.0)), "dropout must be off"
    ids = torch.from_numpy(groups[0].prompt_ids)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_weights_of_the_engines_own_module_are_used_as_they_are(tokenizer, prompts):
    model = build_model()
    engine = build_engine(model, tokenizer)
    assert engine.policy_version == 0
    before = [parameter.data_ptr() for parameter in model.parameters()]
    engine.load_weights(model, 3)
    assert engine.policy_version == 3
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    assert {group.policy_version for group in engine.generate(prompts, 1, range(6), temperature=1.0)} == {3}


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen2_untied_eager", "gpt2"])
def test_weights_of_another_module_are_copied(name, tokenizer, prompts):
    policy = build_model(name)
    engines_own = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    engine = build_engine(engines_own, tokenizer)
    expected = build_engine(policy, tokenizer).generate(prompts, 3, range(6), temperature=1.0)
    assert flat_responses(engine.generate(prompts, 3, range(6), temperature=1.0)) != flat_responses(expected)
    engine.load_weights(policy, 1)
    assert flat_responses(engine.generate(prompts, 3, range(6), temperature=1.0)) == flat_responses(expected)
    shares = engines_own.get_input_embeddings().weight.data_ptr() == engines_own.get_output_embeddings().weight.data_ptr()
    assert shares == policy.config.tie_word_embeddings
    policy.get_input_embeddings().weight.data.zero_()
    assert flat_responses(engine.generate(prompts, 3, range(6), temperature=1.0)) == flat_responses(expected), "a copy, not an alias"


def test_weights_that_do_not_fit_are_refused(tokenizer):
    engine = build_engine(build_model("qwen2_tied"), tokenizer)
    with pytest.raises(ValueError, match="tie_word_embeddings=False, expected True"):
        engine.load_weights(build_model("qwen2_untied_eager"), 1)
    with pytest.raises(ValueError, match="do not fit"):
        engine.load_weights(Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "intermediate_size": 50}, tie_word_embeddings=True)), 1)
    assert engine.policy_version == 0


def test_no_prompts_give_no_groups(tokenizer):
    assert build_engine(build_model(), tokenizer).generate([], 4, [], temperature=1.0) == []


def test_messages_go_through_the_chat_template(tokenizer):
    with_template = copy.deepcopy(tokenizer)
    with_template.chat_template = "{% for m in messages %}w2 {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}w3{% endif %}"
    prompt = Prompt(text="w8 w9", messages=({"role": "user", "content": "w8 w9"},))
    assert encode_prompts([prompt], with_template, 8)[0].tolist() == [2, 8, 9, 3]
    with pytest.raises(ValueError, match="no chat template"):
        encode_prompts([prompt], tokenizer, 8)


def test_prompts_of_the_wrong_length_are_named(tokenizer):
    engine = build_engine(build_model(), tokenizer, max_prompt_tokens=3)
    assert engine.generate([Prompt(text="w2 w3 w4")], 1, [0], temperature=1.0)[0].prompt_ids.size == 3
    with pytest.raises(ValueError, match=r"prompt chosen .*got 4 tokens, expected 1 to max_prompt_tokens = 3.*'w2 w3 w4 w5'"):
        engine.generate([Prompt(text="w2"), Prompt(id="chosen", text="w2 w3 w4 w5")], 1, [0, 1], temperature=1.0)
    with pytest.raises(ValueError, match="got 0 tokens"):
        engine.generate([Prompt(text="")], 1, [0], temperature=1.0)


def test_prompt_and_budget_fit_the_models_positions(tokenizer):
    engine = build_engine(build_model("gpt2"), tokenizer, max_prompt_tokens=1000, max_new_tokens=60)
    assert engine.max_prompt_tokens == 4
    assert len(engine.generate([Prompt(text="w2 w3 w4 w5")], 4, [0], temperature=1.0)) == 1
    with pytest.raises(ValueError, match=r"max_new_tokens: got 64, expected less than the model's 64 positions"):
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


def test_keyed_draws_do_not_depend_on_how_they_are_asked_for():
    keys = [derive_key(seed, "rollout", part) for seed in (0, 2**64 - 1) for part in (0, 1, 2)]
    assert len({*keys, derive_key(0, "evaluation", 0), derive_key(0, "rollout", 0, 0)}) == 8
    draws = uniforms(keys, 0, 50)
    assert draws.shape == (6, 50)
    assert draws.dtype == np.float64
    assert (draws >= 0).all()
    assert (draws < 1).all()
    assert (uniforms(keys[2:4], 10, 5) == draws[2:4, 10:15]).all()
