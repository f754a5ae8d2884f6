"""DepoGRPOTrainer, in one process: what it draws, what it learns from, what it leaves to TRL."""

from __future__ import annotations

import importlib
import importlib.util
import math
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if (
    importlib.util.find_spec("trl") is None
):  # unlike importorskip, a TRL that is there but broken is a failure
    pytest.skip("TRL is not installed", allow_module_level=True)

from datasets import Dataset
from trl import GRPOTrainer

from depo import SelectorConfig
from depo.integrations import versions
from depo.integrations.trl import LOGGED, DepoGRPOMixin
from depo.integrations.trl_checks import check_hooks
from depo.runs.metric_names import describe
from depo.testing import check_adapter
from depo.types.errors import ConfigError, DataError, StateError
from depo.types.records import VerdictStatus
from tests.integrations.trl_harness import TrlHarness
from tests.integrations.trl_helpers import (
    BACKFILL,
    GROUP_SIZE,
    GROUPS,
    KIND_OF,
    TINY_ESTIMATOR,
    RecordingTrainer,
    kind_reward,
    tiny_rows,
    tiny_trainer,
    train_logs,
    watch,
    word_tokenizer,
)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
        {"num_iterations": 2, "max_steps": 8},
    ],
)
def test_each_batch_is_drawn_after_the_labels_of_the_one_before_and_trl_trains_on_the_drawn_rows(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    trainer = tiny_trainer(tmp_path, trainer_class=RecordingTrainer, **settings)
    events = watch(trainer)
    trainer.train()
    assert [name for name, _ in events] == ["draw", "label"] * 4
    for batch, (_, draws), (_, (observed, rewards_BG, verdicts, version)) in zip(
        trainer.batches, events[::2], events[1::2], strict=True
    ):
        assert sorted(trainer.texts(batch, "prompt")) == sorted(
            draw.prompt.text for draw in draws for _ in range(GROUP_SIZE)
        )
        assert [draw.draw_id for draw in observed] == [draw.draw_id for draw in draws]
        completions = trainer.texts(batch, "completion")
        kinds = [KIND_OF[prompt] for prompt in trainer.texts(batch, "prompt")]
        assert rewards_BG.reshape(-1).tolist() == kind_reward(completions, kinds)
        assert {draw.policy_version for draw in draws} == {version}
        assert {verdict.status for verdict in verdicts} == {VerdictStatus.LABELLED}
    assert [label[3] for _, label in events[1::2]] == (
        [0, 2, 4, 6] if "num_iterations" in settings else [0, 1, 2, 3]
    )


def test_selection_and_estimator_are_at_work_and_logged(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, depo={"estimator": TINY_ESTIMATOR}, max_steps=6)
    trainer.train()
    assert trainer.depo.sampler.estimator.version == 6
    assert trainer.depo.sampler.totals()["sampler/rejected"] > 0
    for name in LOGGED:
        assert len(train_logs(trainer, f"depo/{name}")) == 6, name
        assert name == "rollout/unreplaced" or describe(name)
    assert all(math.isfinite(loss) for loss in train_logs(trainer, "depo/estimator/loss"))
    np.testing.assert_allclose(
        train_logs(trainer, "depo/rollout/zero_variance_share"),
        train_logs(trainer, "frac_reward_zero_std"),
    )


def test_evaluation_is_left_alone(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path,
        depo={"selector": BACKFILL},
        eval_dataset=Dataset.from_list(tiny_rows(8)),
        num_generations_eval=2,
        max_steps=2,
    )
    trainer.train()
    before, seen = trainer.depo.state_dict(), watch(trainer)
    metrics = trainer.evaluate()
    np.testing.assert_equal(trainer.depo.state_dict(), before)
    assert not seen and 0 <= metrics["eval_reward"] <= 1
    assert not any("depo" in name for name in metrics)


def test_rewards_are_weighted_sums_or_the_named_function_s(tmp_path: Path) -> None:
    def first(completions: Sequence[str], **_: Any) -> list[float | None]:
        return [
            None if place % GROUP_SIZE == 1 else float(place % 2)
            for place in range(len(completions))
        ]

    def second(completions: Sequence[str], **_: Any) -> list[float | None]:
        return [
            None if place % GROUP_SIZE in (1, 2) else float(place)
            for place in range(len(completions))
        ]

    expected = {
        None: [
            [0.5 * (4 * group), np.nan, 0.0, 2.0 + 0.5 * (4 * group + 3)] for group in range(GROUPS)
        ],
        "second": [[4 * group, np.nan, np.nan, 4 * group + 3] for group in range(GROUPS)],
    }
    for name, rewards in expected.items():
        settings = {"reward_weights": [2.0, 0.5], "max_steps": 1}
        trainer = tiny_trainer(
            tmp_path, reward=[first, second], depo={"informative_reward": name}, **settings
        )
        events = watch(trainer)
        trainer.train()
        np.testing.assert_allclose(events[1][1][1], rewards)
    with pytest.raises(
        ConfigError, match=r"informative_reward: got 'third', expected .* first, second"
    ):
        tiny_trainer(tmp_path, reward=[first, second], depo={"informative_reward": "third"})


def test_a_failed_generation_leaves_nothing_in_flight(tmp_path: Path) -> None:
    def failing(**_: Any) -> list[float]:
        raise RuntimeError("the judge is down")

    trainer = tiny_trainer(tmp_path, reward=failing)
    with pytest.raises(RuntimeError, match="judge"):
        trainer.train()
    assert not trainer.depo.sampler.in_flight()
    assert trainer.depo.sampler.totals()["sampler/released"] == GROUPS


def test_the_mixin_goes_in_front_of_any_subclass(tmp_path: Path) -> None:
    class Shifted(GRPOTrainer):  # type: ignore[misc]
        def _calculate_rewards(self, *args: Any) -> torch.Tensor:
            return super()._calculate_rewards(*args) + 10

    class Mine(DepoGRPOMixin, Shifted):  # type: ignore[misc]
        pass

    trainer = tiny_trainer(tmp_path, trainer_class=Mine, max_steps=1)
    events = watch(trainer)
    trainer.train()
    assert events[1][1][1].min() >= 10


def test_chat_prompts(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    rows = [
        {
            "prompt": [
                {"role": "system", "content": "w3"},
                {"role": "user", "content": row["prompt"]},
            ],
            "answer": "right",
        }
        for row in tiny_rows()
    ]
    reward = lambda completions, **_: [float(len(each[0]["content"]) % 2) for each in completions]  # noqa: E731
    trainer = tiny_trainer(
        tmp_path,
        trainer_class=RecordingTrainer,
        rows=Dataset.from_list(rows),
        reward=reward,
        processing_class=tokenizer,
        max_steps=2,
    )
    events = watch(trainer)
    trainer.train()
    drawn = {draw.prompt.text.replace("\n\n", " ") for draw in events[0][1]}
    assert {text.strip() for text in trainer.texts(trainer.batches[0], "prompt")} == drawn


def test_state_belongs_to_a_checkpoint(tmp_path: Path) -> None:
    plain = tiny_trainer(
        tmp_path / "plain",
        trainer_class=GRPOTrainer,
        max_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    plain.train()
    with pytest.raises(StateError, match=r"checkpoint-2/depo: got no state.json"):
        tiny_trainer(tmp_path / "plain").train(resume_from_checkpoint=True)
    trainer = tiny_trainer(
        tmp_path / "plain", depo={"allow_missing_state": True}, save_strategy="steps", save_steps=4
    )
    trainer.train(resume_from_checkpoint=True)
    assert trainer.depo.sampler.totals()["sampler/labelled"] == 2 * GROUPS
    with pytest.raises(StateError):  # what is there must fit, also then
        tiny_trainer(tmp_path / "plain", depo={"allow_missing_state": True}, seed=1).train(
            resume_from_checkpoint=True
        )


@pytest.mark.parametrize("selector", [None, SelectorConfig.from_preset("depo", backfill_rounds=3)])
def test_adapter_keeps_the_sampler_s_laws(selector: SelectorConfig | None) -> None:
    report = check_adapter(partial(TrlHarness, selector=selector))
    assert report.groups["partial"] > 0


def rows_with(**columns: Any) -> Dataset:
    return Dataset.from_list([{**row, **columns} for row in tiny_rows()])


BAD_DATA = [
    (
        rows_with().to_iterable_dataset(),
        ConfigError,
        r"train_dataset: got an IterableDataset, expected one that can be indexed",
    ),
    (
        Dataset.from_list(tiny_rows(3)),
        ConfigError,
        r"train_dataset: got 3 distinct prompts, expected at least 4",
    ),
    (
        rows_with(image="a.png"),
        ConfigError,
        r"train_dataset: got column image, expected text alone",
    ),
    (rows_with(prompt=" "), DataError, r"train_dataset, row 0: prompt: got an empty prompt"),
    (
        Dataset.from_list([{"question": "w2"}] * 4),
        DataError,
        r"train_dataset: got columns question, expected prompt",
    ),
]


@pytest.mark.parametrize(("rows", "error", "message"), BAD_DATA)
def test_data_that_cannot_be_drawn_from(
    tmp_path: Path, rows: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny_trainer(tmp_path, rows=rows)


def test_a_probe_is_a_whole_group(tmp_path: Path) -> None:
    selector = SelectorConfig.from_preset(
        "depo", backfill=False, max_age=2, probe_rollouts=1, warmup_steps=1, reprobe_share=1.0
    )
    trainer = tiny_trainer(tmp_path, depo={"selector": selector}, max_steps=8)
    events = watch(trainer)
    trainer.train()
    probes = [
        draw for name, draws in events if name == "draw" for draw in draws if draw.kind == "reprobe"
    ]
    assert probes and {draw.n_rollouts for draw in probes} == {GROUP_SIZE}


def test_a_changed_trl_is_named() -> None:
    class Other(GRPOTrainer):  # type: ignore[misc]
        def _generate(self, prompts: Any, images: Any) -> Any: ...

    check_hooks(GRPOTrainer)
    with pytest.raises(
        ImportError,
        match=r"trl 1\.16.*: Other._generate: got arguments prompts, images, expected arguments "
        r"prompts; depo overrides it",
    ):
        check_hooks(Other)
    with pytest.raises(
        ImportError, match=r"object._generate_and_score_completions: got no such method"
    ):
        check_hooks(object)


def test_without_trl_the_import_names_the_extra() -> None:
    code = """
import importlib.metadata as metadata
real = metadata.version
def version(name):
    if name == "trl":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
import depo.integrations.trl
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert (
        "ImportError: depo.integrations.trl needs trl >=1.16,<1.17, which is not installed: pip "
        "install 'depo-rl[trl]'" in result.stderr
    )


def test_an_untested_trl_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda name: "1.17.0")
    with pytest.warns(UserWarning, match=r"tested with trl >=1\.16,<1\.17, not with 1\.17\.0"):
        versions.require_tested("trl")
