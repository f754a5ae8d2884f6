"""The part of slime that a data source meets, for tests: slime is on no package registry.

Written from its documented signatures (slime/rollout/data_source.py, slime/utils/types.py and the
default rollout function, state of August 2026): a data set read by slime's flags, groups of
samples, and rounds that ask for groups until enough are finished, abort the others, return those to
the data source with --partial-rollout, and call the all-samples hook with the bound method
`get_samples`. No generation, no servers, no other code of slime.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from depo import Draw, PromptSampler
from depo.integrations.slime import DepoDataSource
from depo.testing import FateOf


class Status(Enum):
    PENDING = "pending"
    COMPLETED = "completed"
    TRUNCATED = "truncated"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass
class Sample:
    group_index: int | None = None
    index: int | None = None
    prompt: str | list[dict[str, str]] = ""
    label: str | None = None
    response: str = ""
    reward: float | dict[str, Any] | None = None
    rollout_log_probs: list[float] | None = None
    status: Status = Status.PENDING
    metadata: dict[str, Any] = field(default_factory=dict)


Group = list[Sample]


class RolloutDataSource:
    """Reads the data set as slime does; depo asks it for nothing else."""

    def __init__(self, args: SimpleNamespace) -> None:
        rows = [json.loads(line) for line in Path(args.prompt_data).read_text().splitlines()]
        self.dataset = [
            Sample(
                prompt=self._prompt(args, row),
                label=row[args.label_key] if args.label_key else None,
            )
            for row in rows
        ]
        if args.rollout_shuffle:
            random.Random(args.rollout_seed).shuffle(self.dataset)

    @staticmethod
    def _prompt(args: SimpleNamespace, row: dict[str, Any]) -> str:
        prompt = row[args.input_key]
        if not args.apply_chat_template:
            return prompt  # type: ignore[no-any-return]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return "".join(f"<{turn['role']}>{turn['content']}</s>" for turn in turns) + "<assistant>"


def install(monkeypatch: pytest.MonkeyPatch, name: str = "slime") -> None:
    """Make `import slime.rollout.data_source` find the class above."""
    for path in (name, f"{name}.rollout", f"{name}.rollout.data_source"):
        monkeypatch.setitem(sys.modules, path, ModuleType(path))
    sys.modules[f"{name}.rollout.data_source"].RolloutDataSource = RolloutDataSource  # type: ignore[attr-defined]


def arguments(prompt_data: Path, **changes: Any) -> SimpleNamespace:
    """slime's parsed arguments, as far as a data source reads them."""
    defaults: dict[str, Any] = {
        "prompt_data": str(prompt_data),
        "input_key": "input",
        "label_key": None,
        "multimodal_keys": None,
        "apply_chat_template": False,
        "rollout_global_dataset": True,
        "rollout_shuffle": True,
        "rollout_seed": 42,
        "n_samples_per_prompt": 4,
        "rollout_batch_size": 4,
        "over_sampling_batch_size": 4,
        "partial_rollout": False,
        "data_source_path": "depo.integrations.slime.DepoDataSource",
        "buffer_filter_path": None,
        "rollout_all_samples_process_path": "depo.integrations.slime.observe_all_samples",
        "hf_checkpoint": None,
        "reward_key": None,
        "save": None,
        "load": None,
    }
    return SimpleNamespace(**{**defaults, **changes})


def load_function(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def rollout(
    args: SimpleNamespace,
    data_source: Any,
    finish: Callable[[Group], bool],
    keep: Callable[[Group], bool] = lambda group: True,
) -> list[Group]:
    """One round of slime's default rollout function; returns all groups that it was given.

    Args:
        args: The arguments.
        data_source: The data source.
        finish: Gives a group its rewards, or says that it does not finish in this round.
        keep: The dynamic sampling filter.
    """
    kept: list[Group] = []
    finished: list[Group] = []
    unfinished: list[Group] = []
    while len(kept) < args.rollout_batch_size:
        for group in data_source.get_samples(args.over_sampling_batch_size):
            (finished if finish(group) else unfinished).append(group)
        kept = [group for group in finished if keep(group)]
    for sample in (sample for group in unfinished for sample in group):
        sample.status, sample.response = Status.ABORTED, sample.response + "..."
    finished.sort(key=lambda group: group[0].index or 0)
    load_function(args.rollout_all_samples_process_path)(args, finished, data_source.get_samples)
    if args.partial_rollout and unfinished:
        data_source.add_samples(unfinished)
    return [*finished, *unfinished]


class SlimeHarness:
    """Rounds of the contract under the conformance suite.

    A late group is one that slime aborts and goes on with in later rounds.
    """

    partial_rollout = False

    def __init__(
        self, directory: Path, texts: Sequence[str], *, group_size: int, batch_size: int, seed: int
    ) -> None:
        prompt_data = directory / "prompts.jsonl"
        prompt_data.write_text("".join(json.dumps({"input": text}) + "\n" for text in texts))
        self.args = arguments(
            prompt_data,
            n_samples_per_prompt=group_size,
            rollout_batch_size=batch_size,
            over_sampling_batch_size=2 * batch_size,
            partial_rollout=self.partial_rollout,
            depo={"seed": seed},
        )
        self.source: DepoDataSource = load_function(self.args.data_source_path)(self.args)
        self.rounds = 0

    @property
    def sampler(self) -> PromptSampler:
        return self.source.rows.sampler

    @property
    def supports(self) -> frozenset[str]:
        # Without --partial-rollout slime drops what it aborts, with it nothing is ever dropped.
        return frozenset(
            {"partial", "late", "resumed"} if self.partial_rollout else {"partial", "aborted"}
        )

    def step(self, fate_of: FateOf) -> list[str]:
        begun = {draw.draw_id: draw for draw in self.sampler.in_flight()}
        first_rollouts: list[str] = []

        def finish(group: Group) -> bool:
            assert isinstance(group[0].prompt, str) and group[0].group_index is not None
            if group[0].status is Status.PENDING:
                first_rollouts.append(group[0].prompt)
            fate = fate_of(group[0].prompt)
            draw: Draw | None = begun.get(group[0].group_index)
            if not fate.delays or fate.delays[0] > (
                self.source.policy_version - draw.policy_version if draw else 0
            ):
                return False
            for sample, reward in zip(group, fate.rewards, strict=True):
                sample.status, sample.reward = (
                    (Status.FAILED, 0.0) if np.isnan(reward) else (Status.COMPLETED, reward)
                )
            return True

        rollout(self.args, self.source, finish)
        self.rounds += 1
        return first_rollouts

    def save(self, directory: Path) -> None:
        self.args.save = str(directory)
        self.source.save(self.rounds - 1)

    def restore(self, directory: Path) -> None:
        self.args.load = str(directory)
        saved = [int(path.name.rpartition("_")[2]) for path in (directory / "rollout").iterdir()]
        self.rounds = max(saved) + 1
        self.source.load(self.rounds - 1)


class PartialRolloutHarness(SlimeHarness):
    partial_rollout = True
