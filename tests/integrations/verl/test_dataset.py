"""Laws of the data set in verl's own data loader.

Its rewards come through verl's legacy loop, which needs no Ray.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils import hf_tokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset

from depo import ConfigError, StateError
from depo.integrations import versions
from depo.integrations.verl import DRAW_ID, DepoRLHFDataset
from tests.integrations.verl.legacy_loop import LegacyLoop
from tests.integrations.verl.verl_helpers import TEXTS, G, Journal, pass_rate, solved, verl_config

LEGACY = "trainer.use_v1=False"
SMALL_ESTIMATOR = (
    "+data.depo.estimator={hidden_size: 16, layers: 1, heads: 2, feed_forward: 16, trunk_sizes: "
    "[16, 8], max_length: 32, replay_steps: 1}",
)


def config(directory: Path, *overrides: str, texts: list[str] = TEXTS) -> DictConfig:
    return verl_config(directory, texts, LEGACY, "+data.depo.selection.warmup_steps=2", *overrides)


def dataset(directory: Path, *overrides: str, texts: list[str] = TEXTS) -> DepoRLHFDataset:
    chosen = config(directory, *overrides, texts=texts)
    return create_rl_dataset(
        chosen.data.train_files,
        chosen.data,
        hf_tokenizer(chosen.actor_rollout_ref.model.path),
        None,
    )


def test_verl_trains_on_what_depo_draws_and_depo_learns_what_it_earned(tmp_path: Path) -> None:
    loop = LegacyLoop(config(tmp_path))
    journal = Journal(loop.dataset.rows.sampler)
    for _ in range(25):
        batch = loop.draw()
        texts = [messages[0]["content"] for messages in batch.non_tensor_batch["raw_prompt"]]
        assert texts == journal.texts[-4:], "the batch is what one call of `sample` chose"
        loop.finish(batch, solved)
    journal.check_labels()
    after_warmup = [pass_rate(text) for text in journal.texts[40:]]
    assert np.mean([0 < rate < 1 for rate in after_warmup]) > np.mean(
        [0 < pass_rate(text) < 1 for text in TEXTS]
    )
    assert loop.dataset.policy_version == 25


def test_rows_are_those_of_verl_and_carry_their_draw(tmp_path: Path) -> None:
    ours = dataset(tmp_path)
    verls = RLHFDataset(str(tmp_path / "train.parquet"), ours.tokenizer, ours.config)
    by_index = {row["index"]: row for row in (verls[index] for index in range(len(verls)))}
    rows = ours.__getitems__([0] * 6)
    assert [row.pop(DRAW_ID).tolist() for row in rows] == [[draw_id] for draw_id in range(6)]
    assert len({row["index"] for row in rows}) == 6
    assert all(row == by_index[row["index"]] for row in rows)


def test_validation_files_are_read_in_order(tmp_path: Path) -> None:
    loop = LegacyLoop(config(tmp_path))
    assert [row["index"].tolist() for row in loop.trainer.val_dataloader] == [[0, 1]]
    assert DRAW_ID not in loop.trainer.val_dataset[0]


@pytest.mark.parametrize("estimator", [(), SMALL_ESTIMATOR], ids=["history", "estimator"])
def test_a_checkpoint_continues_as_if_there_had_been_no_break(
    tmp_path: Path, estimator: tuple[str, ...]
) -> None:
    """At every step of three epochs.

    10 prompts make epochs of two batches, so that saving meets the end of an epoch, too.
    """
    whole = LegacyLoop(config(tmp_path / "whole", *estimator, texts=TEXTS[:10]))
    for step in range(6):
        whole.finish(whole.draw(), solved)
        whole.save(tmp_path / f"data{step}.pt")
    expected = Journal(whole.dataset.rows.sampler)
    for _ in range(6):
        whole.finish(whole.draw(), solved)
    ends = {}
    for step in (2, 5):
        resumed = LegacyLoop(config(tmp_path / f"resumed{step}", *estimator, texts=TEXTS[:10]))
        journal = Journal(resumed.dataset.rows.sampler)
        resumed.restore(tmp_path / f"data{step}.pt")
        for _ in range(11 - step):
            resumed.finish(resumed.draw(), solved)
        ends[step] = journal.texts[-24:]
        assert repr(resumed.dataset.rows.metrics()) == repr(whole.dataset.rows.metrics())
    assert ends == {2: expected.texts, 5: expected.texts}


def test_prompts_of_a_batch_that_a_crash_swallowed_become_free(tmp_path: Path) -> None:
    """The legacy loop saves before it ends the batch, so what it resumes from still waits for.

    That batch.
    """
    first = LegacyLoop(config(tmp_path / "first"))
    first.draw()
    first.save(tmp_path / "data.pt")
    second = LegacyLoop(config(tmp_path / "second"))
    second.restore(tmp_path / "data.pt")
    batch = second.draw()
    assert len(second.dataset.rows.sampler.in_flight()) == 8
    ahead = second.draw()
    second.finish(batch, solved)
    assert {draw.draw_id for draw in second.dataset.rows.sampler.in_flight()} == set(
        ahead.batch[DRAW_ID].flatten().tolist()
    )


def test_a_batch_that_ends_twice_counts_once(tmp_path: Path) -> None:
    loop = LegacyLoop(config(tmp_path))
    loop.dataset.on_batch_end(batch=loop.finish(loop.draw(), solved))
    totals = loop.dataset.rows.sampler.totals()
    assert (totals["sampler/labelled"], totals["sampler/closed"]) == (4, 4)


def test_the_legacy_loop_is_judged_by_verls_metric_too(tmp_path: Path) -> None:
    loop = LegacyLoop(config(tmp_path, "algorithm.filter_groups.metric=acc"))
    journal = Journal(loop.dataset.rows.sampler)
    for _ in range(4):
        loop.finish(loop.draw(), solved, penalty=0.2)
    journal.check_labels()


def test_settings_come_from_hydra(tmp_path: Path) -> None:
    sampler = dataset(
        tmp_path, "+data.depo.selection={preset: greso, probe_rollouts: 2}", "+data.depo.seed=7"
    ).rows.sampler
    assert (
        sampler.config.preset,
        sampler.config.warmup_steps,
        sampler.seed,
        sampler.group_size,
    ) == ("greso", 2, 7, G)
    assert sampler.config.probe_rollouts == "all", (
        "verl would train on a smaller group with raw rewards as advantages"
    )


def test_another_seed_draws_other_prompts(tmp_path: Path) -> None:
    orders = [
        [
            row["index"]
            for row in dataset(tmp_path, f"+data.depo.seed={seed}").__getitems__([0] * 10)
        ]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_equal_texts_with_images_of_their_own_are_different_prompts(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    rows = [
        {
            "prompt": [{"role": "user", "content": "<image> Find x."}],
            "data_source": "geo",
            "reward_model": {"ground_truth": "1"},
        }
        for _ in range(6)
    ]
    Dataset.from_list(
        [{**row, "images": [f"{index}.png"]} for index, row in enumerate(rows)]
    ).to_parquet(chosen.data.train_files)
    read = create_rl_dataset(
        chosen.data.train_files,
        chosen.data,
        hf_tokenizer(chosen.actor_rollout_ref.model.path),
        None,
    )
    assert len(read.rows.sampler.prompts) == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.dataloader_num_workers=2", "data.dataloader_num_workers: got 2, expected 0"),
        ("data.val_files=${data.train_files}", "the same as data.train_files"),
        ("+data.depo.selection.rul=window", "did you mean selection.rule?"),
        (
            "+data.depo.selector=depo",
            "data.depo: got selector, expected selection, estimator, seed or device",
        ),
        ("trainer.use_v1=True", "trainer.v1.sampler.custom_sampler: got none of depo's"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        dataset(tmp_path, override)
    assert message in str(refused.value)


def test_a_data_configuration_by_itself_is_refused(tmp_path: Path) -> None:
    lone = config(tmp_path).data.copy()
    with open_dict(lone):
        lone._set_parent(None)
    with pytest.raises(ConfigError, match=r"actor_rollout_ref.rollout.n: got nothing"):
        DepoRLHFDataset(lone.train_files, None, lone)


def test_the_state_of_other_data_is_refused(tmp_path: Path) -> None:
    state = dataset(tmp_path).state_dict()
    with pytest.raises(StateError):
        dataset(tmp_path / "other", texts=TEXTS[1:]).load_state_dict(state)


def test_data_pt_holds_plain_values_and_arrays_alone(tmp_path: Path) -> None:
    loop = LegacyLoop(config(tmp_path, *SMALL_ESTIMATOR))
    loop.finish(loop.draw(), solved)
    loop.save(tmp_path / "data.pt")
    kinds = {
        type(leaf)
        for leaf in torch.utils._pytree.tree_leaves(
            torch.load(tmp_path / "data.pt", weights_only=False)["dataset_state"]
        )
    }
    assert kinds <= {bool, int, float, str, type(None), np.ndarray, torch.Tensor}


@pytest.mark.parametrize("installed", ["0.9.0", "0.10.0.dev0"])
def test_other_versions_of_verl_are_warned_of(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "version", lambda _: installed)
    with pytest.warns(UserWarning, match=f"tested with verl >=0.9.1,<0.9.2, not with {installed}"):
        versions.require_tested("verl")


@pytest.mark.parametrize("module", ["depo.integrations.verl", "depo.integrations.verl_buffer"])
def test_without_verl_the_extra_is_named(module: str) -> None:
    code = f"""
import sys
from importlib.metadata import PackageNotFoundError
import depo.integrations.versions as versions

def missing(package):
    raise PackageNotFoundError(package)

versions.version = missing
sys.modules.update(dict.fromkeys(["verl", "omegaconf", "transfer_queue", "torch"]))
import {module}
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        "ImportError: depo.integrations.verl needs verl >=0.9.1,<0.9.2, which is not installed: "
        "pip install 'depo-rl[verl]'" in ended.stderr
    )
