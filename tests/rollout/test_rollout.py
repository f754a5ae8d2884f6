"""Laws of the local rollout engine.

Exact log-probs, randomness from the keys alone, no wasted work, and clear ends.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from depo.rollout.local import COMPACT_BELOW
from depo.rollout.precision import mixed_precision
from depo.types.records import Prompt
from tests.rollout.rollout_helpers import (
    EOS,
    MODELS,
    PAD,
    PROMPT_LENGTHS,
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


def teacher_forced(
    model: PreTrainedModel, prompt_ids: np.ndarray, response_ids: np.ndarray, temperature: float
) -> np.ndarray:
    """Log-probs of a response by one forward pass over the unpadded sequence."""
    ids = torch.from_numpy(np.concatenate([prompt_ids, response_ids]))
    with torch.no_grad():
        logits = (
            model(input_ids=ids[None]).logits[0, prompt_ids.size - 1 : -1].float() / temperature
        )
    return logits.log_softmax(-1).gather(-1, torch.from_numpy(response_ids)[:, None])[:, 0].numpy()


@pytest.mark.parametrize("name", MODELS)
def test_logprobs_are_those_of_one_forward_pass_over_the_whole_sequence(name, tokenizer, prompts):
    model = build_model(name).eval()
    groups = build_engine(model, tokenizer, eos_token_ids=range(1, 6)).generate(
        prompts, 6, range(len(prompts)), temperature=0.8
    )
    for group in groups:
        for ids, logprobs in zip(group.response_ids, group.rollout_logprobs, strict=True):
            assert logprobs.dtype == np.float32
            np.testing.assert_allclose(
                logprobs, teacher_forced(model, group.prompt_ids, ids, 0.8), rtol=0, atol=1e-5
            )
    lengths = {len(ids) for ids in flat_responses(groups)}
    assert len(lengths) > 3, (
        "rows must end at different steps, or dropping finished rows was not exercised"
    )


def test_autocast_is_the_learners(tokenizer, prompts):
    model = build_model().eval()
    groups = build_engine(model, tokenizer, autocast="bfloat16").generate(
        prompts, 6, range(len(prompts)), temperature=1.0
    )
    gaps = {"same": [], "float32": []}
    for group in groups:
        for ids, logprobs in zip(group.response_ids, group.rollout_logprobs, strict=True):
            assert logprobs.dtype == np.float32
            with mixed_precision("bfloat16", torch.device("cpu")):
                gaps["same"].append(
                    np.abs(logprobs - teacher_forced(model, group.prompt_ids, ids, 1.0)).mean()
                )
            gaps["float32"].append(
                np.abs(logprobs - teacher_forced(model, group.prompt_ids, ids, 1.0)).mean()
            )
    assert 0.0 < np.mean(gaps["same"]) < np.mean(gaps["float32"]) < 0.1


@pytest.mark.parametrize("name", ["qwen2_tied", "llama", "gpt2"])
def test_responses_depend_on_their_key_and_prompt_alone(name, tokenizer, prompts):
    model = build_model(name).double()
    keys = [2**64 - 1, 0, 17, 3, 5, 2**63]
    expected = build_engine(model, tokenizer).generate(prompts, 5, keys, temperature=1.0)
    for rows in (
        1,
        3,
        13,
    ):  # single rows, groups split over batches, whole groups with rows to spare
        groups = build_engine(model, tokenizer, sequences_per_batch=rows).generate(
            prompts, 5, keys, temperature=1.0
        )
        assert flat_responses(groups) == flat_responses(expected)
        for group, other in zip(groups, expected, strict=True):
            np.testing.assert_allclose(
                np.concatenate(group.rollout_logprobs),
                np.concatenate(other.rollout_logprobs),
                atol=1e-6,
            )
    order = [4, 1, 5, 0, 3, 2]
    shuffled = build_engine(model, tokenizer).generate(
        [prompts[i] for i in order], 5, [keys[i] for i in order], temperature=1.0
    )
    assert flat_responses(shuffled) == flat_responses([expected[i] for i in order])
    fewer = build_engine(model, tokenizer).generate(prompts, 2, keys, temperature=1.0)
    assert flat_responses(fewer) == [
        ids.tolist() for group in expected for ids in group.response_ids[:2]
    ]


def test_another_key_gives_other_responses_and_no_two_of_a_group_share_draws(tokenizer, prompts):
    engine = build_engine(build_model(), tokenizer)
    first, second = (
        engine.generate(prompts, 8, [key] * len(prompts), temperature=1.0) for key in (1, 2)
    )
    assert flat_responses(first) != flat_responses(second)
    assert all(len({tuple(ids) for ids in group.response_ids}) > 4 for group in first)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_what_transformers_generates(name, tokenizer, prompts):
    model = build_model(name).eval()
    groups = build_engine(model, tokenizer).generate(prompts, 1, [0] * len(prompts), temperature=0)
    batch = tokenizer(
        [prompt.text for prompt in prompts], return_tensors="pt", padding=True, padding_side="left"
    )
    reference = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        do_sample=False,
        max_new_tokens=12,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    for group, row in zip(groups, reference[:, batch.input_ids.shape[1] :].tolist(), strict=True):
        assert group.response_ids[0].tolist() == (row[: row.index(EOS) + 1] if EOS in row else row)
        assert not group.rollout_logprobs[0].any()


def test_a_response_ends_with_its_first_eos_token_or_at_the_budget(tokenizer, prompts):
    stops = (EOS, 9, 23)  # 9 and 23 are ordinary words to the tokenizer
    groups = build_engine(build_model(), tokenizer, eos_token_ids=stops).generate(
        prompts, 16, range(6), temperature=1.0
    )
    assert [group.prompt_ids.tolist() for group in groups] == tokenizer(
        [prompt.text for prompt in prompts]
    ).input_ids
    endings = set()
    for group in groups:
        assert group.finished.shape == (16,)
        assert group.finished.dtype == np.bool_
        for ids, logprobs, finished, text in zip(
            group.response_ids, group.rollout_logprobs, group.finished, group.responses, strict=True
        ):
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
    given_ids = build_engine(model, tokenizer, eos_token_ids=[30, EOS, 31]).generate(
        prompts, 8, range(6), temperature=1.0
    )
    assert flat_responses(implied) == flat_responses(given_ids)


def test_each_prompt_is_prefilled_once_and_finished_rows_are_dropped(tokenizer, prompts):
    model, seen = build_model(), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    groups = build_engine(model, tokenizer, eos_token_ids=range(1, 8)).generate(
        prompts, 8, range(6), temperature=1.0
    )
    lengths = np.array([len(ids) for ids in flat_responses(groups)])
    assert seen[0] == (len(prompts), max(PROMPT_LENGTHS))
    assert len(seen) == lengths.max(), (
        "one forward pass per token of the longest response, its last one excluded"
    )
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
    assert flat_responses(groups) == flat_responses(
        engine.generate(prompts, 2, range(6), temperature=1.0)
    ), "dropout must be off"
    ids = torch.from_numpy(groups[0].prompt_ids)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
